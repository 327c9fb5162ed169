"""NIfTI files read to the canonical grid, labelmaps written back to the source's own."""

import io
import math

import nibabel as nib
import numpy as np
from isal import igzip, igzip_lib

from bts.images.checks import MAX_BYTES, bad, check_affine, check_finite, check_size
from bts.images.grid import Grid, Volume, parse_header

HEADER_SIZES = {n.to_bytes(4, order): n for n in (348, 540) for order in ("little", "big")}
MEND_AFFINE = "fix the header's qform or sform"
LABEL_INTENT = 1002  # NIFTI_INTENT_LABEL


def read_nifti(data: bytes, name: str, *, channels: int = 0) -> Volume:
    """Decode a .nii or .nii.gz (told by its first bytes, not its name).

    `channels` = 0 wants a 3D image, n > 0 a 4D one with n volumes. Voxels keep the file's dtype in native
    byte order; a file with a scale (scl_slope, scl_inter) gives float32 of the scaled value.
    Raises CaseError, naming the file, for anything that is not a whole, sane image of that kind.
    """
    try:
        file: io.BufferedIOBase = io.BytesIO(data)
        if data[:2] == b"\x1f\x8b":
            file = igzip.IGzipFile(fileobj=file)
        header = _read_header(file, name)
        shape, dtype = _check_header(header, name, channels)
        check_size(shape, dtype, len(data), name)
        _skip(file, int(header["vox_offset"]) - header.sizeof_hdr)
        voxels = _read_voxels(file, shape, dtype, name)
    except (EOFError, igzip.BadGzipFile, igzip_lib.error) as error:  # type: ignore[misc]  # its stub makes error an instance
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
    header = parse_header(grid.header).as_byteswapped("<")
    x, y, z = grid.source_shape
    header["dim"] = [3, x, y, z, 1, 1, 1, 1]
    header["datatype"], header["bitpix"] = 2, 8
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_max"] = header["cal_min"] = 0
    header["intent_code"], header["intent_name"] = intent, b""
    header["descrip"] = descrip.encode("ascii", "replace")[:79]
    header["magic"] = header.single_magic  # of a source that has its first three bytes alone
    header["vox_offset"] = header.single_vox_offset
    body = header.binaryblock.ljust(header.single_vox_offset, b"\0")
    body += np.ascontiguousarray(grid.to_source(voxels_DHW)).tobytes()
    return igzip.compress(body, 2, mtime=0)


def write_image(voxels_zyx: np.ndarray, affine: np.ndarray, intent: int = 0) -> bytes:
    """Encode voxels (z, y, x) at a place that no file had before, as .nii.gz; equal voxels give equal bytes.

    affine: 4×4, (x, y, z) → mm in RAS+. intent: a NIfTI code, such as LABEL_INTENT.
    """
    image = nib.Nifti1Image(voxels_zyx.T, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    image.header["intent_code"] = intent
    return igzip.compress(image.to_bytes(), 1, mtime=0)


def _read_header(file: io.BufferedIOBase, name: str) -> nib.Nifti1Header:
    start = file.read(348)
    size = HEADER_SIZES.get(start[:4])
    if len(start) < 348 or size is None:
        raise bad(name, f"not a NIfTI file ({len(start)} bytes of header, no NIfTI magic)")
    rest = file.read(size - 348)
    if len(rest) < size - 348:
        raise bad(name, "the file ends within its header")
    header = parse_header(start + rest)
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
        raise bad(
            name,
            f"shape {'×'.join(map(str, shape))} where {what} is due",
            "give a file for each modality, and one for all labels",
        )
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


def _skip(file: io.BufferedIOBase, count: int) -> None:
    """Pass over extensions between header and voxels."""
    while count > 0:
        step = file.read(min(count, 1 << 20))
        if not step:
            raise EOFError("it ends before the voxels")
        count -= len(step)


def _read_voxels(file: io.BufferedIOBase, shape: tuple[int, ...], dtype: np.dtype, name: str) -> np.ndarray:
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
        raise bad(name, f"the scale is {slope:g}, {inter:g}", "fix scl_slope and scl_inter in the header")
    with np.errstate(over="ignore"):  # infinite voxels are refused by who asks
        return (voxels.astype(np.float64) * slope + inter).astype(np.float32)
