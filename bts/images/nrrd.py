"""NRRD (.nrrd) and 3D Slicer's segmentations (.seg.nrrd) → voxels on the canonical grid.

A .nrrd file is a magic, lines of `field: value` and `key:=value`, an empty line, and then the voxels, x
fastest, raw or in gzip. The grid is kept as a NIfTI header, so that labelmaps are written as for any case.
A segmentation of Slicer may be a part of the image's grid (its extent), and its segments may carry names
(`names_of`): the labels are its own values, and several layers are refused, for they may overlap.
"""

import math
import re
import zlib

import nibabel as nib
import numpy as np

from bts.images.checks import MAX_BYTES, bad, check_affine, check_finite, check_size
from bts.images.grid import Grid, Volume, guess

MAX_HEADER = 1 << 20  # bytes; a segmentation's has some 10 kB
MEND = "export it as .nii.gz (3D Slicer: Save, or Segmentations, Export)"
TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": (
        *("longlong", "long long", "long long int", "signed long long", "signed long long int"),
        *("int64", "int64_t"),
    ),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
DTYPES = {name: np.dtype(code) for code, names in TYPES.items() for name in names}
# Signs that turn a space's axes into RAS+, NIfTI's.
SPACES = {
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
}


def read_nrrd(data: bytes, name: str) -> Volume:
    """Decode one 3D image. Voxels keep the file's dtype, in native byte order.

    A header that tells spacings and no place gives a grid that says so (Grid.guessed). Raises CaseError,
    naming the file, for anything that is not a whole, sane image.
    """
    fields, start = _read_header(data, name)
    shape, dtype = _shape(fields, name), _dtype(fields, name)
    check_size(shape, dtype, len(data), name)
    grid = _grid(fields, shape, name)
    size = math.prod(shape) * dtype.itemsize
    body = _body(data, start, fields, size, name)
    if len(body) != size:
        raise bad(name, f"the file has {len(body):,} of {size:,} bytes of voxels")
    voxels = np.frombuffer(body, dtype).reshape(shape[::-1]).astype(dtype.newbyteorder("="))
    check_finite(voxels, name)
    return Volume(grid.to_canonical(voxels), grid)


def names_of(data: bytes, name: str) -> dict[int, str]:
    """Value → what 3D Slicer calls its segment; nothing where the header tells none. Raises CaseError."""
    fields, _ = _read_header(data, name)
    found = {}
    for key, value in fields.items():
        number = re.fullmatch(r"segment(\d+)_labelvalue", key)
        if number and re.fullmatch(r"\d{1,9}", value) and (called := fields.get(f"segment{number[1]}_name")):
            found[int(value)] = called
    return found


def _read_header(data: bytes, name: str) -> tuple[dict[str, str], int]:
    """({field in small letters: value}, the byte at which the voxels start). Raises CaseError."""
    head = re.match(rb"NRRD000\d\r?\n(.*?)\r?\n\r?\n", data[:MAX_HEADER], re.DOTALL)
    if not head:
        raise bad(name, "not a NRRD file (magic NRRD000x, then a header that ends with an empty line)")
    lines = head[1].decode("utf-8", "replace").splitlines()
    pairs = (line.partition(":") for line in lines if not line.startswith("#"))
    return {key.strip().lower(): value.lstrip("=").strip() for key, _, value in pairs}, head.end()


def _shape(fields: dict[str, str], name: str) -> tuple[int, ...]:
    """(x, y, z). Raises CaseError."""
    if "data file" in fields or "datafile" in fields:  # never opened: a header must not choose what is read
        raise bad(name, "its voxels are in another file", MEND)
    sizes = _numbers(fields.get("sizes", ""))
    if fields.get("dimension") == "4" and len(sizes) == 4:
        raise bad(name, f"it has {sizes[0]:g} layers, whose segments may overlap; one labelmap is due", MEND)
    if len(sizes) != 3 or min(sizes) < 1 or max(sizes) > MAX_BYTES:
        raise bad(name, f"sizes {fields.get('sizes', '')[:60]!r} where three are due", MEND)
    return tuple(int(n) for n in sizes)


def _dtype(fields: dict[str, str], name: str) -> np.dtype:
    """As on disk. Raises CaseError."""
    kind = fields.get("type", "").lower()
    if kind not in DTYPES:
        raise bad(name, f"its type {kind[:60]!r} is no plain number", MEND)
    return DTYPES[kind].newbyteorder(">" if fields.get("endian", "").lower() == "big" else "<")


def _grid(fields: dict[str, str], shape: tuple[int, ...], name: str) -> Grid:
    """The header's place as a NIfTI header. Raises CaseError."""
    if not fields.keys() & {"space", "space directions", "space origin"}:
        spacings = _numbers(fields.get("spacings", ""))
        if len(spacings) != 3 or min(spacings) <= 0:
            raise bad(name, "its header tells neither its place nor its spacings", MEND)
        grid = guess(shape, spacings)
        check_affine(grid.source_affine, name, MEND)
        return grid
    space = fields.get("space", "").lower()
    directions, origin = (_numbers(fields.get(key, "")) for key in ("space directions", "space origin"))
    if space not in SPACES or len(directions) != 9 or len(origin) != 3:
        raise bad(name, "its header does not tell its place (space, space directions, space origin)", MEND)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(directions, (3, 3)).T
    affine[:3, 3] = origin
    affine[:3] *= np.array(SPACES[space])[:, None]
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    with np.errstate(over="ignore"):  # infinite is refused
        header.set_sform(affine, code=1)
    check_affine(header.get_best_affine(), name, MEND)
    header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    return Grid(bytes(header.binaryblock))


def _body(data: bytes, start: int, fields: dict[str, str], size: int, name: str) -> bytes | memoryview:
    """The voxels; of a bomb it unpacks one byte more than `size` at most. Raises CaseError."""
    encoding = fields.get("encoding", "").lower()
    body = memoryview(data)[start:]
    if encoding == "raw":
        return body
    if encoding not in ("gzip", "gz"):
        raise bad(name, f"its encoding {encoding[:60]!r} is neither raw nor gzip", MEND)
    stream = zlib.decompressobj(wbits=31)
    try:
        voxels = stream.decompress(body, size + 1)
    except zlib.error as error:
        raise bad(name, f"the gzip stream is truncated or corrupt ({error})") from error
    if len(voxels) <= size and not stream.eof:
        raise bad(name, f"the gzip stream is truncated, after {len(voxels):,} of {size:,} bytes of voxels")
    return voxels


def _numbers(text: str) -> list[float]:
    """The finite numbers of a field, whatever brackets are around them; nothing where a word is none."""
    words = re.sub(r"[(),]", " ", text).split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
