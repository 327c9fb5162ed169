"""What every reader of images refuses, in the same words."""

import math

import nibabel as nib
import numpy as np

from bts.errors import CaseError

MAX_BYTES = 2 << 30  # of one decoded file; a 240×240×155 int16 modality is 18 MB
MAX_SIDE = (1 << 15) - 1  # voxels; NIfTI-1, which the labelmap will be, counts them in 16 bits
SPACING = 0.05, 50.0  # mm; outside, the header is of another unit, or nonsense
MAX_DEFLATE_RATIO = 1032  # no deflate stream expands further, so a header that claims more lies


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
        raise bad(name, f"{count:,} voxels are NaN or infinite", "fix or leave out this image")
