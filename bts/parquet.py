"""Parquet of a bucket: refuse columns whose very reading runs code."""

from collections.abc import Iterable

import pyarrow as pa


def check_plain(schema: pa.Schema) -> None:
    """Raise ValueError for columns of extension types, nested ones too.

    Ray registers one (ray.data.arrow_pickled_object) whose values are unpickled when they are taken out: who
    can write to the bucket would run code here. Reading a table does not take them out.
    """
    for field in schema:
        if any(isinstance(one, pa.BaseExtensionType) for one in _types(field.type)):
            raise ValueError(f"column {field.name!r} is of an extension type, which is not read")


def _types(of: pa.DataType) -> Iterable[pa.DataType]:
    """The type and all within it."""
    yield of
    if pa.types.is_dictionary(of):
        yield from _types(of.value_type)
    for n in range(of.num_fields):
        yield from _types(of.field(n).type)
