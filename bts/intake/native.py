"""Labelmaps from the case's space back to the grid of a series, by the exact inverse of the recorded matrix.

Arrays are (z, y, x) in the order of their file; matrices 4×4 in mm of RAS+, case → series.
"""

import numpy as np

from bts.errors import CaseError
from bts.images.grid import Volume
from bts.images.nifti import LABEL_INTENT, write_image
from bts.intake.grids import Image, Lattice, resample
from bts.labels import REGIONS

SAME_MM = 0.01


def on_case_grid(volume: Volume, name: str, record: dict) -> Image:
    """Labels of the project (uint8) in the order of their file. Raises CaseError where they are not on the
    case's grid."""
    lattice = Lattice(volume.grid.source_shape[::-1], volume.grid.source_affine)
    space = Lattice.from_json(record["space"])
    if lattice.shape != space.shape or np.abs(lattice.affine - space.affine).max() > SAME_MM:
        raise CaseError(
            f"the labelmap's grid ({volume.grid.describe()}) is not that of the case",
            mend="segment the case again", file=name, stage="read",
        )  # fmt: skip
    return Image(volume.grid.to_source(volume.voxels), lattice)


def to_native(labels: Image, record: dict, role: str, lattice: Lattice | None = None) -> Image:
    """Labels on the scanner's grid of a modality, or on another lattice in the scanner's space of it.

    Raises CaseError where the case lacks that modality.
    """
    told = record["series"].get(role)
    if told is None:
        there = ", ".join(record["series"])
        raise CaseError(f"the case has no {role}", mend=f"give --space as one of {there}", stage="deliver")
    onto = lattice or Lattice.from_json(told["native"])
    return Image(resample(labels, onto, np.linalg.inv(np.array(told["matrix"])), labels=True), onto)


def write_labels(labels: Image) -> bytes:
    """A NIfTI labelmap (uint8, labels of the project); equal labels give equal bytes."""
    return write_image(labels.voxels, labels.lattice.affine, LABEL_INTENT)


def volumes_ml(labels: Image) -> dict[str, float]:
    """Millilitres by region."""
    counts = np.bincount(labels.voxels.ravel(), minlength=256)
    return {
        name: round(float(counts[list(of)].sum()) * labels.lattice.voxel_ml, 3)
        for name, of in REGIONS.items()
    }
