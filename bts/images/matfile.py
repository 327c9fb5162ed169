"""MATLAB v7.3 files (HDF5) → plain arrays of one struct; no links, nothing outside the file."""

import math
from collections.abc import Iterable

import h5py
import numpy as np

from bts.errors import CaseError


def read_arrays(
    data: bytes, name: str, struct: str, fields: Iterable[str], max_bytes: int, mend: str
) -> dict[str, np.ndarray]:
    """The named fields of a struct, each of `max_bytes` at most. MATLAB stores columns first: transposed.

    Raises CaseError, with `mend`, where one is missing or is no plain array of numbers.
    """
    try:
        with h5py.File.in_memory(data) as file:
            return {field: _array(file, struct, field, max_bytes) for field in fields}
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise CaseError(f"cannot be decoded ({error})", mend=mend, file=name) from error


def _array(file: h5py.File, struct: str, field: str, max_bytes: int) -> np.ndarray:
    if not all(isinstance(file.get(p, getlink=True), h5py.HardLink) for p in (struct, f"{struct}/{field}")):
        raise KeyError(f"{struct}/{field} is missing")
    dataset = file[struct][field]
    if not isinstance(dataset, h5py.Dataset) or not _is_plain(dataset, max_bytes):
        raise ValueError(f"{struct}/{field} is no plain array of a slice")
    return np.asarray(dataset[()])


def _is_plain(dataset: h5py.Dataset, max_bytes: int) -> bool:
    """Numbers that are in the file itself, and no more of them than may be, nor in a chunk."""
    if dataset.shape is None or dataset.external or dataset.is_virtual or dataset.dtype.kind not in "biuf":
        return False
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    return max(dataset.nbytes, chunk) <= max_bytes
