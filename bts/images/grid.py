"""Where voxels lie: the canonical grid that all code works on, and the source's own that results go back to.

Inside the project a volume is (D, H, W) = (z, y, x) in LPS+ orientation: rows run front to back, columns
from the patient's right to left. NIfTI's (x, y, z) and every other orientation stay in this room.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import nibabel as nib
import numpy as np
from nibabel import orientations
from nibabel.spatialimages import HeaderDataError

CANONICAL = orientations.axcodes2ornt("LPS")


@dataclass(frozen=True, slots=True)
class Grid:
    """Where voxels lie: the source's header, and how its axes turn into the canonical ones."""

    header: bytes
    """The source's NIfTI-1 or -2 header, 348 or 540 bytes, byte order as found."""

    @property
    def _nifti(self) -> nib.Nifti1Header:
        return parse_header(self.header)

    @property
    def source_shape(self) -> tuple[int, int, int]:
        """(x, y, z) as in the source file."""
        x, y, z = (int(n) for n in self._nifti["dim"][1:4])
        return x, y, z

    @property
    def source_zooms(self) -> tuple[float, float, float]:
        """Voxel size in mm along the source's (x, y, z), as its header says it (not by the affine)."""
        x, y, z = (abs(float(mm)) for mm in self._nifti["pixdim"][1:4])
        if not (x and y and z):
            x, y, z = nib.affines.voxel_sizes(self.source_affine).tolist()
        return x, y, z

    @property
    def source_affine(self) -> np.ndarray:
        """4×4, source voxel indices (x, y, z) → mm in RAS+, as nibabel gives it."""
        return self._nifti.get_best_affine()

    @property
    def canonical_affine(self) -> np.ndarray:
        """4×4, canonical voxel indices (x, y, z) → the same mm in RAS+."""
        return self.source_affine @ orientations.inv_ornt_aff(self._to_canonical, self.source_shape)

    @property
    def guessed(self) -> bool:
        """Whether the file tells no place (both form codes are 0): `guess` is then how it is taken to lie."""
        return not (self._nifti["qform_code"] or self._nifti["sform_code"])

    @property
    def contradicted(self) -> str:
        """Axis codes that the qform gives where they are others than `orientation`, which the sform gives;
        else empty."""
        header = self._nifti
        if not (header["qform_code"] and header["sform_code"]):
            return ""
        try:
            codes = "".join(map(str, nib.aff2axcodes(header.get_qform())))
        except (ValueError, HeaderDataError):  # no rotation, or a spacing below zero: it tells nothing
            return ""
        return codes if codes != self.orientation else ""

    @property
    def orientation(self) -> str:
        """Axis codes of the source, such as LPS or RAS."""
        return "".join(nib.aff2axcodes(self.source_affine))

    @property
    def _to_canonical(self) -> np.ndarray:
        return _to_canonical(self.header)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W) of the canonical grid."""
        x, y, z = (self.source_shape[int(a)] for a in np.argsort(self._to_canonical[:, 0]))
        return z, y, x

    @property
    def zooms(self) -> tuple[float, float, float]:
        """Voxel size in mm along (D, H, W)."""
        size = nib.affines.voxel_sizes(self.source_affine)
        x, y, z = (float(size[int(a)]) for a in np.argsort(self._to_canonical[:, 0]))
        return z, y, x

    def describe(self) -> str:
        """For a message: shape (x, y, z), orientation, spacing and origin in mm."""
        shape, zooms = self.source_shape, nib.affines.voxel_sizes(self.source_affine)
        spacing = "×".join(f"{mm:g}" for mm in zooms)
        origin = ", ".join(f"{mm + 0.0:g}" for mm in self.source_affine[:3, 3])
        return f"{'×'.join(map(str, shape))} {self.orientation}, spacing {spacing}, origin {origin}"

    def same_place(self, other: "Grid", tolerance_mm: float = 0.01) -> bool:
        """Whether both have the same canonical grid: the same shape, and every voxel at the same place within
        the tolerance. The files may store their axes in another order, or in the other direction. (At 45° a
        rounding decides which axis is which, and the canonical grids differ.)
        """
        if self.shape != other.shape:
            return False
        size = np.array(self.shape[::-1])
        apart = self.canonical_affine - other.canonical_affine
        corners = np.array([[0, 0, 0, 1], [*(size - 1), 1]], float).T
        return max(np.abs(apart @ corners).max(), np.abs(apart[:3, :3] * size).max()) <= tolerance_mm

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


def guess(shape: tuple[int, ...], zooms_mm: Sequence[float]) -> Grid:
    """Of a file of another format that tells no place: x runs to the left, y to the front, z up, as a NIfTI
    file without a place is read. shape, zooms_mm: of its (x, y, z)."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header.set_zooms(zooms_mm)
    return Grid(bytes(header.binaryblock))


def lps(shape: tuple[int, ...]) -> Grid:
    """Of voxels that are on a canonical grid of (D, H, W) already, 1 mm each."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape[::-1])
    header.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=1)
    header["magic"] = header.single_magic
    return Grid(bytes(header.binaryblock))


@lru_cache(maxsize=64)  # one case asks for those of its few files again and again
def _to_canonical(header: bytes) -> np.ndarray:
    """Read-only (3, 2): the canonical axis and direction of each of the source's (nibabel's orientation)."""
    found = orientations.io_orientation(parse_header(header).get_best_affine())
    turn = orientations.ornt_transform(found, CANONICAL)
    turn.flags.writeable = False
    return turn


def parse_header(header: bytes) -> nib.Nifti1Header:
    """NIfTI-1 or -2, told by its length; unchecked."""
    kind = nib.Nifti1Header if len(header) == 348 else nib.Nifti2Header
    return kind(header, check=False)
