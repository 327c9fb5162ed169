"""JSON values → a small dataclass, every one of them checked: descriptions may come from anybody."""

import math
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

from bts.errors import UsageError
from bts.inference.foreign.checks import shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def read_fields(kind: type[T], told: object, where: str) -> T:
    """A dataclass of bool, int, float, str and tuples of numbers, from JSON. `where` begins a message.

    Raises UsageError for a field that is unknown, missing, of another type, or refused by its own check.
    """
    if not isinstance(told, dict):
        raise UsageError(f"{where}: {shown(told)} where its settings are due")
    known = {field.name: field for field in fields(kind)}
    if odd := [key for key in told if key not in known]:
        raise UsageError(f"{where}: {odd[0]!r} is not supported; supported are {', '.join(known)}")
    if missing := [n for n, field in known.items() if field.default is MISSING and n not in told]:
        raise UsageError(f"{where}: {missing[0]} is missing")
    try:
        return kind(**{key: _typed(value, known[key].type) for key, value in told.items()})
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def _typed(value: Any, kind: Any) -> object:
    """Raises ValueError for a value that is not of the type."""
    if get_origin(kind) is tuple:
        each = [one for one in get_args(kind) if one is not Ellipsis]
        if not isinstance(value, list | tuple) or (len(each) > 1 and len(value) != len(each)):
            raise ValueError(f"{shown(value)} where {len(each)} values are due")
        return tuple(_typed(one, each[0]) for one in value)
    whole = type(value) is int or (type(value) is float and value.is_integer())
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind is int and whole:
        return int(value)
    if kind in (bool, str) and type(value) is kind:
        return value
    raise ValueError(f"{shown(value)} where a {kind.__name__} is due")
