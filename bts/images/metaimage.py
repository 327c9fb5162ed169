"""MetaImage (.mha) → voxels on the canonical grid: the files of BraTS 2013–2015.

A .mha file is a text header of `Key = value` lines, the last of which tells where the voxels are (here always
right behind it, raw or deflated), and then the voxels, x fastest. Its world is LPS+, NIfTI's is RAS+; the
grid is kept as a NIfTI header, so that labelmaps are written as for any other case.
"""

import math
import zlib
from collections.abc import Callable
from typing import TypeVar

import nibabel as nib
import numpy as np

from bts.images.checks import bad, check_affine, check_finite, check_size
from bts.images.grid import Grid, Volume, guess

Number = TypeVar("Number", int, float)

MAX_HEADER = 16 << 10  # bytes; real ones have some 500
FARTHEST = 1e6  # of any number in the geometry, mm; whoever is a kilometre away is not in the scanner
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# Synonyms of MetaImage's own library.
TURNED = ("TransformMatrix", "Rotation", "Orientation")
MOVED = ("Offset", "Position", "Origin")
CONVERT = "convert it to .nii.gz"
MEND = "fix its header or convert it to .nii.gz"


def read_mha(data: bytes, name: str) -> Volume:
    """Decode a .mha of one 3D image. Voxels keep the file's dtype, in native byte order.

    Bytes behind the last voxel are passed over. A header with neither orientation nor position gives a grid
    that says so (Grid.guessed); one without spacing, or with one of the two, is refused. Raises CaseError,
    naming the file, for anything that is not a whole, sane image with its voxels inside.
    """
    fields, start = _read_header(data, name)
    _check_kind(fields, name)
    shape, dtype = _shape(fields, name), _dtype(fields, name)
    check_size(shape, dtype, len(data), name)
    grid = _grid(fields, shape, name)
    count = math.prod(shape)
    size = count * dtype.itemsize
    body: bytes | memoryview = memoryview(data)[start:]
    if _says_true(fields, "CompressedData"):
        body = _inflate(body, size, name)
    if len(body) < size:
        raise bad(name, f"the file ends after {len(body):,} of {size:,} bytes of voxels")
    voxels = np.frombuffer(body, dtype, count).reshape(shape[::-1]).astype(dtype.newbyteorder("="))
    check_finite(voxels, name)
    return Volume(grid.to_canonical(voxels), grid)


def _read_header(data: bytes, name: str) -> tuple[dict[str, str], int]:
    """({key: value}, the byte at which the voxels start). Raises CaseError."""
    fields, start = {}, 0
    while (end := data.find(b"\n", start, MAX_HEADER)) >= 0:
        key, equals, value = data[start:end].decode("ascii", "replace").partition("=")
        if not equals:
            break
        fields[key.strip()] = value.strip()
        start = end + 1
        if key.strip() == "ElementDataFile":
            return fields, start
    raise bad(name, f"not a MetaImage file (no header of 'Key = value' lines within {MAX_HEADER:,} bytes)")


def _check_kind(fields: dict[str, str], name: str) -> None:
    """Refuse all but one 3D binary image in the file itself. Raises CaseError."""
    where = fields["ElementDataFile"]
    if where.upper() != "LOCAL":  # never opened: a header must not choose which files are read
        raise bad(name, f"its voxels are not in the file but in {_quoted(where)}", CONVERT)
    rank = _value(fields, name, "NDims")
    if rank != "3":
        raise bad(
            name,
            f"NDims is {_quoted(rank)} where one 3D image is due",
            "give a file for each modality, and one for all labels",
        )
    due = {"ObjectType": "Image", "ElementNumberOfChannels": "1", "BinaryData": "True", "HeaderSize": "0"}
    for key, value in due.items():
        if fields.get(key, value).lower() != value.lower():
            raise bad(name, f"{key} is {_quoted(fields[key])} where {value} is due", CONVERT)


def _shape(fields: dict[str, str], name: str) -> tuple[int, ...]:
    """(x, y, z). Raises CaseError."""
    shape = tuple(_numbers(fields, name, int, 3, "DimSize"))
    if min(shape) < 1:
        raise bad(name, f"shape {'×'.join(map(str, shape))}; at least one voxel a side is due")
    return shape


def _dtype(fields: dict[str, str], name: str) -> np.dtype:
    """As on disk. Raises CaseError."""
    kind = _value(fields, name, "ElementType")
    if kind not in TYPES:
        known = ", ".join(TYPES)
        raise bad(name, f"ElementType {_quoted(kind)} is none of {known}", "convert it to MET_SHORT")
    big = _says_true(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    return np.dtype((">" if big else "<") + TYPES[kind])


def _grid(fields: dict[str, str], shape: tuple[int, ...], name: str) -> Grid:
    """The header's geometry as a NIfTI header. Raises CaseError."""
    spacing = _numbers(fields, name, float, 3, "ElementSpacing")
    if min(spacing) <= 0:
        raise bad(name, f"the spacing is {', '.join(f'{mm:g}' for mm in spacing)} mm", MEND)
    if not fields.keys() & {*TURNED, *MOVED}:
        grid = guess(shape, spacing)
        check_affine(grid.source_affine, name, MEND)
        return grid
    matrix = _numbers(fields, name, float, 9, *TURNED)
    offset = _numbers(fields, name, float, 3, *MOVED)
    affine = np.eye(4)
    # As ITK reads and writes it: three numbers for the direction of x, then of y, then of z; so each of
    # them is a column of the affine, although the nine look like a matrix written row by row.
    affine[:3, :3] = np.reshape(matrix, (3, 3)).T * spacing
    affine[:3, 3] = offset
    affine[:2] *= -1  # LPS+ → RAS+
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header.set_sform(affine, code=1)
    check_affine(header.get_best_affine(), name, "fix its TransformMatrix or convert it to .nii.gz")
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    header.set_zooms(zooms)
    axes = affine[:3, :3] / zooms
    if np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):  # a qform holds no shear
        header.set_qform(affine, code=1)
    return Grid(bytes(header.binaryblock))


def _inflate(body: bytes | memoryview, size: int, name: str) -> bytes:
    """The deflated voxels. Raises CaseError; of a bomb it unpacks one byte more than `size` at most."""
    stream = zlib.decompressobj(wbits=47)  # zlib's or gzip's frame, as MetaImage's own library takes
    try:
        voxels = stream.decompress(body, size + 1)
    except zlib.error as error:
        raise bad(name, f"the zlib stream is truncated or corrupt ({error})") from error
    if len(voxels) > size:
        raise bad(name, "the zlib stream goes on after the last voxel")
    if not stream.eof:
        raise bad(name, f"the zlib stream is truncated, after {len(voxels):,} of {size:,} bytes of voxels")
    return voxels


def _value(fields: dict[str, str], name: str, *keys: str) -> str:
    """What the first of these synonyms says. Raises CaseError if the header has none of them."""
    for key in keys:
        if key in fields:
            return fields[key]
    raise bad(name, f"its header has no {keys[0]}", MEND)


def _numbers(
    fields: dict[str, str], name: str, kind: Callable[[str], Number], count: int, *keys: str
) -> list[Number]:
    """`count` numbers of the first of these synonyms. Raises CaseError."""
    text = _value(fields, name, *keys)
    try:
        numbers = [kind(word) for word in text.split()]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(abs(n) <= FARTHEST for n in numbers):  # NaN is not within either
        due = f"{count} {'whole ' if kind is int else ''}numbers within ±{FARTHEST:,.0f} are due"
        raise bad(name, f"{keys[0]} is {_quoted(text)} where {due}", MEND)
    return numbers


def _says_true(fields: dict[str, str], *keys: str) -> bool:
    """Whether one of these synonyms is there and true; MetaImage's own library looks at the first letter."""
    return any(fields.get(key, "").startswith(("T", "t", "1")) for key in keys)


def _quoted(text: str) -> str:
    """For a message: no control characters, no length."""
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
