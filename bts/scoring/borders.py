"""How far apart the borders of two masks lie, every border voxel alike: what BraTS has measured since 2024.

A border voxel is one of the mask with a voxel outside across one of its six faces. bts.scoring.surfaces
weighs by area instead. Axes: X columns, Y rows, Z slices.
"""

import numpy as np
from scipy.spatial import cKDTree

Borders = tuple[np.ndarray, np.ndarray]
"""mm from every border voxel of one mask to the nearest of the other: from the truth, from the prediction."""


def gaps(truth_XYZ: np.ndarray, prediction_XYZ: np.ndarray, spacing: tuple[float, ...]) -> Borders:
    """Between two bool masks, neither empty. spacing: mm along X Y Z."""
    return nearest(border(truth_XYZ), border(prediction_XYZ), spacing)


def surface_dice(found: Borders, tolerance: float) -> float:
    """Share of a border's voxels within the tolerance (mm) of the other: the mean of the two borders."""
    return float(np.mean([np.count_nonzero(mm <= tolerance) / mm.size for mm in found]))


def hausdorff(found: Borders, share: float = 0.95) -> float:
    """mm within which that share of the voxels of both borders together lies."""
    return float(np.percentile(np.concatenate(found), 100 * share))


def border(mask_XYZ: np.ndarray) -> np.ndarray:
    """The voxels of a mask that have a neighbour outside; all beyond the array is outside."""
    inside = mask_XYZ.copy()
    for axis in range(mask_XYZ.ndim):
        first, last, lower, upper = (
            tuple(part if a == axis else slice(None) for a in range(mask_XYZ.ndim))
            for part in (slice(0, 1), slice(-1, None), slice(None, -1), slice(1, None))
        )
        inside[lower] &= mask_XYZ[upper]
        inside[upper] &= mask_XYZ[lower]
        inside[first] = inside[last] = False
    return mask_XYZ & ~inside


def nearest(first_XYZ: np.ndarray, second_XYZ: np.ndarray, spacing: tuple[float, ...]) -> Borders:
    """mm from each True of one bool mask to the nearest of the other, in the order of the array, and back."""
    masks = first_XYZ, second_XYZ
    points = [np.argwhere(one) * np.asarray(spacing) for one in masks]
    found = []
    for own, other in ((0, 1), (1, 0)):
        apart = ~masks[other][masks[own]]  # what both have is 0 mm apart
        mm = np.zeros(len(points[own]))
        if apart.any():
            tree = cKDTree(points[other], balanced_tree=False, compact_nodes=False)
            mm[apart] = tree.query(points[own][apart])[0]
        found.append(mm)
    return found[0], found[1]
