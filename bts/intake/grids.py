"""Grids, and one interpolation from one to the other.

Matrices are 4×4 in mm of RAS+, as nibabel and greedy have them. ITK counts in LPS+: `to_itk` and
`transform_of` are the only places that know.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel import orientations

from bts.errors import CaseError
from bts.images.grid import CANONICAL
from bts.intake import tools

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHEAR = 2e-3  # by which directions may miss the right angle: rounding of a header's text


@dataclass(frozen=True, slots=True)
class Lattice:
    """Where voxels lie: shape (z, y, x) of the array, affine of (x, y, z) → mm in RAS+."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def zooms(self) -> tuple[float, float, float]:
        """mm along x, y, z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def centre(self) -> np.ndarray:
        """mm of the middle of the field of view."""
        return (self.affine @ [*((np.array(self.shape[::-1]) - 1) / 2), 1])[:3]

    @property
    def corners(self) -> np.ndarray:
        """(8, 3): mm of the outermost voxels."""
        ends = np.array(list(itertools.product(*((0, n - 1) for n in self.shape[::-1]))))
        return ends @ self.affine[:3, :3].T + self.affine[:3, 3]

    @property
    def voxel_ml(self) -> float:
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def to_json(self) -> dict:
        return {
            "shape_xyz": list(self.shape[::-1]),
            "affine": [[float(v) for v in row] for row in self.affine],
        }

    @classmethod
    def from_json(cls, told: dict) -> "Lattice":
        x, y, z = (int(n) for n in told["shape_xyz"])
        return cls((z, y, x), np.array(told["affine"], float))


@dataclass(frozen=True, slots=True)
class Image:
    """Voxels (z, y, x) and where they lie."""

    voxels: np.ndarray
    lattice: Lattice


BRATS = Lattice((155, 240, 240), np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239], [0, 0, 1.0, 0], [0, 0, 0, 1]]))


def isotropic(lattice: Lattice, mm: float = 1.0) -> Lattice:
    """A lattice of that spacing over the same field of view, along the same axes, these ordered as LPS."""
    turn = orientations.ornt_transform(orientations.io_orientation(lattice.affine), CANONICAL)
    affine = lattice.affine @ orientations.inv_ornt_aff(turn, lattice.shape[::-1])
    x, y, z = (lattice.shape[::-1][int(axis)] for axis in np.argsort(turn[:, 0]))
    return rescaled(Lattice((z, y, x), affine), np.full(3, mm))


def rescaled(lattice: Lattice, zooms: np.ndarray) -> Lattice:
    """The same axes and outer edge with voxels of `zooms` mm along x, y, z."""
    old = np.array(lattice.zooms)
    count = [max(1, round(n * a / b)) for n, a, b in zip(lattice.shape[::-1], old, zooms, strict=True)]
    affine = lattice.affine.copy()
    affine[:3, :3] = lattice.affine[:3, :3] / old * zooms
    # Half a voxel lies between the outer edge and the first centre.
    affine[:3, 3] += (affine[:3, :3] - lattice.affine[:3, :3]) @ np.full(3, 0.5)
    return Lattice(tuple(count[::-1]), affine)


def to_itk(image: Image) -> Any:
    """A SimpleITK image of the same voxels. Raises CaseError for axes that are not at right angles."""
    itk = tools.load("SimpleITK")
    made = itk.GetImageFromArray(np.ascontiguousarray(image.voxels))
    affine = LPS @ image.lattice.affine
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / zooms
    if np.abs(directions.T @ directions - np.eye(3)).max() > SHEAR:
        raise CaseError(
            "its axes are not at right angles (sheared)", mend="export the series again", stage="convert"
        )
    u, _, v = np.linalg.svd(directions)
    made.SetDirection((u @ v).ravel().tolist())
    made.SetSpacing(zooms.tolist())
    made.SetOrigin(affine[:3, 3].tolist())
    return made


def transform_of(matrix: np.ndarray) -> Any:
    """RAS+ mm → RAS+ mm as an ITK transform."""
    moved = LPS @ matrix @ LPS
    transform = tools.load("SimpleITK").AffineTransform(3)
    transform.SetMatrix(moved[:3, :3].ravel().tolist())
    transform.SetTranslation(moved[:3, 3].tolist())
    return transform


def resample(image: Image, onto: Lattice, matrix: np.ndarray, *, labels: bool = False) -> np.ndarray:
    """Voxels on the lattice `onto`, (z, y, x): linear, float32; labels by the largest linear weight, uint8.

    matrix: mm of `onto` → mm of the image. Outside the image 0.
    """
    itk = tools.load("SimpleITK")
    if labels:
        return _resample(image, onto, matrix, itk.sitkLabelLinear, itk.sitkUInt8)
    return _resample(_floats(image), onto, matrix, itk.sitkLinear, itk.sitkFloat32)


def _cubic(image: Image, onto: Lattice, matrix: np.ndarray) -> np.ndarray:
    itk = tools.load("SimpleITK")
    return _resample(_floats(image), onto, matrix, itk.sitkBSpline3, itk.sitkFloat32)


def _floats(image: Image) -> Image:
    return Image(image.voxels.astype(np.float32, copy=False), image.lattice)


def _resample(image: Image, onto: Lattice, matrix: np.ndarray, how: int, kind: int) -> np.ndarray:
    """how, kind: SimpleITK's interpolator and pixel type."""
    itk = tools.load("SimpleITK")
    grid = to_itk(Image(np.zeros(onto.shape, np.uint8), onto))
    return itk.GetArrayFromImage(itk.Resample(to_itk(image), grid, transform_of(matrix), how, 0.0, kind))


def resample_scan(image: Image, onto: Lattice, matrix: np.ndarray, *, stripped: bool) -> np.ndarray:
    """As `resample`, cubic: between thick slices less is blurred. No value is further from the linear one
    than half of it, so that nothing rings beside bright fat.

    stripped: 0 is what was taken away, and no darkness: at the edge of the brain it does not count, and
    where more than half is taken away nothing is left.
    """
    linear, cubic = resample(image, onto, matrix), _cubic(image, onto, matrix)
    if stripped:
        there = Image((image.voxels != 0).astype(np.float32), image.lattice)
        share = resample(there, onto, matrix)
        linear = np.where(share > 0.5, linear / np.maximum(share, 0.5), 0)
        cubic /= np.maximum(_cubic(there, onto, matrix), 0.25)
    low, high = np.sort([0.5 * linear, 1.5 * linear], axis=0)  # the other way round below 0
    return np.clip(cubic, low, high).astype(np.float32, copy=False)


def turn_deg(matrix: np.ndarray) -> float:
    """Degrees that a rigid 4×4 turns."""
    cosine = (np.trace(matrix[:3, :3]) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
