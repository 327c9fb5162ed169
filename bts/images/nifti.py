"""Bytes ↔ voxels: NIfTI files read to the canonical grid, labelmaps written back to the source's own.

Inside the project a volume is (D, H, W) = (z, y, x) in LPS+ orientation: rows run front to back, columns
from the patient's right to left. NIfTI's (x, y, z) and every other orientation live in this file and in
bts.images.metaimage, which reads .mha files with the same checks.
"""

import io
import math
from dataclasses import dataclass
from typing import BinaryIO

import nibabel as nib
import numpy as np
from isal import igzip, igzip_lib
from nibabel import orientations

from bts.errors import CaseError

CANONICAL = orientations.axcodes2ornt("LPS")
MAX_BYTES = 2 << 30  # of one decoded file; a 240×240×155 int16 modality is 18 MB
MAX_SIDE = (1 << 15) - 1  # voxels; NIfTI-1, which the labelmap will be, counts them in 16 bits
SPACING = 0.05, 50.0  # mm; outside, the header is of another unit, or nonsense
MAX_DEFLATE_RATIO = 1032  # no deflate stream expands further, so a header that claims more lies
HEADER_SIZES = {n.to_bytes(4, order): n for n in (348, 540) for order in ("little", "big")}
MEND_AFFINE = "mend the header's qform or sform"
LABEL_INTENT = 1002  # NIFTI_INTENT_LABEL


@dataclass(frozen=True, slots=True)
class Grid:
    """Where voxels lie: the source's header, and how its axes turn into the canonical ones."""

    header: bytes
    """The source's NIfTI-1 or -2 header, 348 or 540 bytes, byte order as found."""

    @property
    def _nifti(self) -> nib.Nifti1Header:
        return _parse(self.header)

    @property
    def source_shape(self) -> tuple[int, int, int]:
        """(x, y, z) as in the source file."""
        return tuple(int(n) for n in self._nifti["dim"][1:4])

    @property
    def source_affine(self) -> np.ndarray:
        """4×4, source voxel indices (x, y, z) → mm in RAS+, as nibabel gives it."""
        return self._nifti.get_best_affine()

    @property
    def canonical_affine(self) -> np.ndarray:
        """4×4, canonical voxel indices (x, y, z) → the same mm in RAS+."""
        return self.source_affine @ orientations.inv_ornt_aff(self._to_canonical, self.source_shape)

    @property
    def orientation(self) -> str:
        """Axis codes of the source, such as LPS or RAS."""
        return "".join(nib.aff2axcodes(self.source_affine))

    @property
    def _to_canonical(self) -> np.ndarray:
        return orientations.ornt_transform(orientations.io_orientation(self.source_affine), CANONICAL)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W) of the canonical grid."""
        x, y, z = (self.source_shape[int(a)] for a in np.argsort(self._to_canonical[:, 0]))
        return z, y, x

    @property
    def zooms(self) -> tuple[float, float, float]:
        """Voxel size in mm along (D, H, W)."""
        size = np.sqrt((self.source_affine[:3, :3] ** 2).sum(axis=0))
        x, y, z = (float(size[int(a)]) for a in np.argsort(self._to_canonical[:, 0]))
        return z, y, x

    def describe(self) -> str:
        """For a message: shape (x, y, z), orientation, spacing and origin in mm."""
        shape, zooms = self.source_shape, nib.affines.voxel_sizes(self.source_affine)
        spacing = "×".join(f"{mm:g}" for mm in zooms)
        origin = ", ".join(f"{mm + 0.0:g}" for mm in self.source_affine[:3, 3])
        return f"{'×'.join(map(str, shape))} {self.orientation}, spacing {spacing}, origin {origin}"

    def same_place(self, other: "Grid", tolerance_mm: float = 0.01) -> bool:
        """Whether both have the same shape and canonical axes, and every voxel lies at the same place within
        the tolerance. (At 45° a rounding decides which axis is which.)
        """
        if self.source_shape != other.source_shape:
            return False
        corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in self.source_shape), 1]], float).T
        apart = (self.source_affine - other.source_affine) @ corners
        columns = (self.source_affine - other.source_affine)[:3, :3] * self.source_shape
        if max(np.abs(apart).max(), np.abs(columns).max()) > tolerance_mm:
            return False
        return np.array_equal(self._to_canonical, other._to_canonical)

    def to_canonical(self, voxels_zyx: np.ndarray) -> np.ndarray:
        """Source array, axes reversed to (z, y, x) → canonical (D, H, W); a view."""
        return orientations.apply_orientation(voxels_zyx.T, self._to_canonical).T

    def to_source(self, voxels_DHW: np.ndarray) -> np.ndarray:
        """Canonical (D, H, W) → the source's own axes, reversed to (z, y, x); a view."""
        back = orientations.ornt_transform(CANONICAL, orientations.io_orientation(self.source_affine))
        return orientations.apply_orientation(voxels_DHW.T, back).T


@dataclass(frozen=True, slots=True)
class Volume:
    """Voxels on the canonical grid: (D, H, W), or (C, D, H, W) of a 4D file."""

    voxels: np.ndarray
    grid: Grid


def read_nifti(data: bytes, name: str, *, channels: int = 0) -> Volume:
    """Decode a .nii or .nii.gz (told by its first bytes, not its name).

    `channels` = 0 wants a 3D image, n > 0 a 4D one with n volumes. Voxels keep the file's dtype in native
    byte order; a file with a scale (scl_slope, scl_inter) gives float32 of the scaled value.
    Raises CaseError, naming the file, for anything that is not a whole, sane image of that kind.
    """
    try:
        file: BinaryIO = io.BytesIO(data)
        if data[:2] == b"\x1f\x8b":
            file = igzip.IGzipFile(fileobj=file)
        header = _read_header(file, name)
        shape, dtype = _check_header(header, name, channels)
        check_size(shape, dtype, len(data), name)
        _skip(file, int(header["vox_offset"]) - header.sizeof_hdr)
        voxels = _read_voxels(file, shape, dtype, name)
    except (EOFError, igzip.BadGzipFile, igzip_lib.error) as error:
        raise bad(name, f"the gzip stream is truncated or corrupt ({error})") from error
    voxels = voxels.astype(dtype.newbyteorder("="), copy=False)
    voxels = _scaled(voxels, header, name)
    check_finite(voxels, name)
    grid = Grid(bytes(header.binaryblock))
    if channels:
        return Volume(np.stack([grid.to_canonical(v) for v in voxels]), grid)
    return Volume(grid.to_canonical(voxels.reshape(voxels.shape[-3:])), grid)


def write_labelmap(labels_DHW: np.ndarray, grid: Grid, descrip: str) -> bytes:
    """Encode labels (D, H, W) uint8 on the canonical grid as .nii.gz on the source's own grid.

    The header is the source's (affine, qform and sform codes, units), with uint8 data, no scale, the
    intent "label" and `descrip` (79 characters at most). Equal voxels give equal bytes (gzip mtime 0).
    """
    return _write(labels_DHW, grid, descrip, LABEL_INTENT)


def write_probabilities(bytes_DHW: np.ndarray, grid: Grid, descrip: str) -> bytes:
    """The same of probabilities: uint8, 255 is a probability of 1; without an intent."""
    return _write(bytes_DHW, grid, descrip, 0)


def _write(voxels_DHW: np.ndarray, grid: Grid, descrip: str, intent: int) -> bytes:
    if voxels_DHW.shape != grid.shape or voxels_DHW.dtype != np.uint8:
        raise ValueError(f"voxels {voxels_DHW.dtype} {voxels_DHW.shape} do not fit the grid {grid.shape}")
    header = _parse(grid.header).as_byteswapped("<")
    x, y, z = grid.source_shape
    header["dim"] = [3, x, y, z, 1, 1, 1, 1]
    header["datatype"], header["bitpix"] = 2, 8
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_max"] = header["cal_min"] = 0
    header["intent_code"], header["intent_name"] = intent, b""
    header["descrip"] = descrip.encode("ascii", "replace")[:79]
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset
    body = header.binaryblock.ljust(header.single_vox_offset, b"\0")
    body += np.ascontiguousarray(grid.to_source(voxels_DHW)).tobytes()
    return igzip.compress(body, 2, mtime=0)


def bad(name: str, problem: str, mend: str = "copy the file again from its source") -> CaseError:
    """What every reader of images raises."""
    return CaseError(problem, mend=mend, file=name)


def check_size(shape: tuple[int, ...], dtype: np.dtype, held: int, name: str) -> None:
    """Raises CaseError if a header claims more voxels than MAX_BYTES, or than `held` bytes of file can be."""
    if max(shape) > MAX_SIDE:
        raise bad(name, f"the header claims {'×'.join(map(str, shape))} voxels, over {MAX_SIDE:,} a side")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > MAX_BYTES:
        raise bad(name, f"the header claims {'×'.join(map(str, shape))} voxels, over {MAX_BYTES >> 30} GiB")
    if claimed > MAX_DEFLATE_RATIO * held:
        raise bad(name, f"the header claims {claimed:,} bytes, more than the file can hold")


def check_affine(affine: np.ndarray, name: str, mend: str) -> None:
    """Raises CaseError for a 4×4 affine that gives voxels no place."""
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise bad(name, "the affine is not finite or not invertible", mend)
    if np.isnan(orientations.io_orientation(affine)).any():
        raise bad(name, "the affine gives no orientation", mend)
    zooms = nib.affines.voxel_sizes(affine)
    if not (SPACING[0] <= zooms.min() and zooms.max() <= SPACING[1]):
        mm = " × ".join(f"{zoom:g}" for zoom in zooms)
        raise bad(name, f"voxels of {mm} mm; {SPACING[0]:g} to {SPACING[1]:g} are due", mend)


def check_finite(voxels: np.ndarray, name: str) -> None:
    """Raises CaseError if a voxel is NaN or infinite, or would be as float32, in which fractions are kept."""
    if voxels.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        finite = np.isfinite(voxels.astype(np.float32, copy=False))
    if not finite.all():
        count = int((~finite).sum())
        raise bad(name, f"{count:,} voxels are NaN or infinite", "mend or leave out this image")


def _parse(header: bytes) -> nib.Nifti1Header:
    kind = nib.Nifti1Header if len(header) == 348 else nib.Nifti2Header
    return kind(header, check=False)


def _read_header(file: BinaryIO, name: str) -> nib.Nifti1Header:
    start = file.read(348)
    size = HEADER_SIZES.get(start[:4])
    if len(start) < 348 or size is None:
        raise bad(name, f"not a NIfTI file ({len(start)} bytes of header, no NIfTI magic)")
    rest = file.read(size - 348)
    if len(rest) < size - 348:
        raise bad(name, "the file ends within its header")
    header = _parse(start + rest)
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # as NIfTI's own library; nibabel raises
    if bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
        raise bad(name, "not a single-file NIfTI (magic n+1)", "convert it to .nii.gz")
    return header


def _check_header(header: nib.Nifti1Header, name: str, channels: int) -> tuple[tuple[int, ...], np.dtype]:
    """(shape on disk, x first; dtype) of a header that makes sense. Raises CaseError."""
    rank = int(header["dim"][0])
    if not 1 <= rank <= 7:
        raise bad(name, f"the header claims {rank} dimensions")
    shape = [int(n) for n in header["dim"][1 : rank + 1]]
    while len(shape) > 3 + bool(channels) and shape[-1] == 1:
        shape.pop()
    wanted = 4 if channels else 3
    if len(shape) != wanted or min(shape) < 1 or (channels and shape[3] != channels):
        what = f"{channels} volumes in a 4D image" if channels else "one 3D image"
        raise bad(name, f"shape {'×'.join(map(str, shape))} where {what} is due", "give one file a modality")
    try:
        dtype = header.get_data_dtype()
    except (nib.spatialimages.HeaderDataError, KeyError):
        dtype = np.dtype("V")
    if dtype.kind not in "iuf":
        raise bad(name, f"data type code {int(header['datatype'])} is no plain number", "convert it to int16")
    if not header.sizeof_hdr <= float(header["vox_offset"]) <= MAX_BYTES:
        raise bad(name, f"the header puts the voxels at byte {float(header['vox_offset']):g}")
    check_affine(_affine(header, name), name, MEND_AFFINE)
    return tuple(shape), dtype


def _affine(header: nib.Nifti1Header, name: str) -> np.ndarray:
    """Raises CaseError where the header gives none."""
    if not header["sform_code"] and (header["pixdim"][1:4] <= 0).any():
        raise bad(name, f"the spacing is {header['pixdim'][1:4]} mm (pixdim)", MEND_AFFINE)
    try:
        return header.get_best_affine()
    except ValueError as error:  # a quaternion longer than 1
        raise bad(name, f"the qform gives no affine ({error})", MEND_AFFINE) from error


def _skip(file: BinaryIO, count: int) -> None:
    """Pass over extensions between header and voxels."""
    while count > 0:
        step = file.read(min(count, 1 << 20))
        if not step:
            raise EOFError("it ends before the voxels")
        count -= len(step)


def _read_voxels(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype, name: str) -> np.ndarray:
    """Exactly the voxels, read-only, axes reversed. Raises CaseError where the file is shorter or longer."""
    count = math.prod(shape) * dtype.itemsize
    data = file.read(count)
    if len(data) < count:
        raise bad(name, f"the file ends after {len(data):,} of {count:,} bytes of voxels")
    if file.read(1):
        raise bad(name, "the file goes on after its last voxel")
    return np.frombuffer(data, dtype).reshape(shape[::-1])


def _scaled(voxels: np.ndarray, header: nib.Nifti1Header, name: str) -> np.ndarray:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or (slope == 1 and inter == 0) or math.isnan(slope):  # NIfTI: slope 0 means no scale
        return voxels
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise bad(name, f"the scale is {slope:g}, {inter:g}", "mend scl_slope and scl_inter in the header")
    with np.errstate(over="ignore"):  # infinite voxels are refused by who asks
        return (voxels.astype(np.float64) * slope + inter).astype(np.float32)
