"""How far apart the surfaces of two masks lie, in mm: robust Hausdorff distance and surface Dice.

As the BraTS challenge computes them: Nikolov et al. 2018, arXiv:1809.04430, whose code is the package
surface-distance. A surface element lies where the eight voxels around a corner are not all alike, and weighs
as much as its area; the table of areas is that package's own. Axes: X columns, Y rows, Z slices.
"""

import functools
from itertools import product
from typing import NamedTuple

import numpy as np
from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area

from bts.scoring.borders import nearest

FARTHEST = 374.0
"""mm, in place of a distance where one mask is empty: the diagonal of 240 × 240 × 155 voxels of 1 mm."""
CORNERS = tuple(zip((128, 64, 32, 16, 8, 4, 2, 1), product((0, 1), repeat=3), strict=True))
INSIDE = 255  # all eight voxels around the corner


class Gaps(NamedTuple):
    """From every surface element of one mask to the nearest of the other."""

    mm: np.ndarray
    areas: np.ndarray
    """mm²"""


def gaps(truth_XYZ: np.ndarray, prediction_XYZ: np.ndarray, spacing: tuple[float, ...]) -> tuple[Gaps, Gaps]:
    """(from the truth, from the prediction) of two bool masks, neither empty. spacing: mm along X Y Z."""
    areas = _areas(tuple(spacing))
    codes = _codes(truth_XYZ), _codes(prediction_XYZ)
    surfaces = [(code != 0) & (code != INSIDE) for code in codes]
    found = nearest(surfaces[0], surfaces[1], spacing)
    first, second = (Gaps(mm, areas[code[on]]) for mm, code, on in zip(found, codes, surfaces, strict=True))
    return first, second


def robust_hausdorff(found: tuple[Gaps, Gaps], share: float = 0.95) -> float:
    """mm within which that share of each surface's area lies; the larger of the two directions."""
    return max(_percentile(one, share) for one in found)


def surface_dice(found: tuple[Gaps, Gaps], tolerance: float) -> float:
    """Share of both surfaces' area that lies within the tolerance (mm) of the other."""
    near = sum(float(one.areas[one.mm <= tolerance].sum()) for one in found)
    return near / sum(float(one.areas.sum()) for one in found)


@functools.cache  # it takes ten milliseconds, and a case has many lesions of one spacing
def _areas(spacing: tuple[float, ...]) -> np.ndarray:
    """mm² of a surface element by its code."""
    return create_table_neighbour_code_to_surface_area(spacing)


def _percentile(one: Gaps, share: float) -> float:
    order = np.lexsort((one.areas, one.mm))
    areas = one.areas[order]
    place = int(np.searchsorted(np.cumsum(areas) / np.sum(areas), share))
    return float(one.mm[order][min(place, len(order) - 1)])


def _codes(mask_XYZ: np.ndarray) -> np.ndarray:
    """(X+1, Y+1, Z+1) uint8: which of the eight voxels around each corner are inside."""
    padded = np.pad(mask_XYZ, 1).view(np.uint8)
    size = [n + 1 for n in mask_XYZ.shape]
    codes = np.zeros(size, np.uint8)
    for weight, start in CORNERS:
        codes += np.uint8(weight) * padded[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))]
    return codes
