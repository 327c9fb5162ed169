"""Which parts of a mask are one lesion in BraTS 2024: those near each other, or at the same other lesion.

The rules are those of the challenge's own code, rachitsaluja/BraTS-2024-Metrics. Axes: X columns, Y rows,
Z slices; lesions are numbered from 1, 0 is none.
"""

from collections.abc import Mapping
from itertools import product

import numpy as np

from bts.scoring.lesions import dilate, group
from bts.scoring.rules import Rules

# The 18 neighbours: those that share a face or an edge.
NEIGHBOURS = [step for step in product((-1, 0, 1), repeat=3) if 0 < np.abs(step).sum() < 3]


def number_lesions(
    masks: Mapping[str, np.ndarray], rules: Rules, *, least_voxels: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """The lesions of each region, from its bool mask, (X, Y, Z) int32.

    Those of up to `least_voxels` (by region; the others keep all) are dropped before they join others.
    """
    grouped = {region: group(mask, rules.of(region).reach) for region, mask in masks.items()}
    kept = {region: _drop(lesions, least_voxels.get(region, 0)) for region, lesions in grouped.items()}
    return {region: _join(kept, region, rules) for region in masks}


def _drop(lesions: np.ndarray, voxels: float) -> np.ndarray:
    """Without those of up to so many voxels."""
    large = np.bincount(lesions.ravel()) > voxels
    return np.where(large[lesions], lesions, 0)


def _join(lesions: Mapping[str, np.ndarray], region: str, rules: Rules) -> np.ndarray:
    """Those of a region, one where they touch the same lesion of another; the lowest number decides."""
    own = lesions[region]
    for name in rules.joined_by.get(region, ()):
        touching, other = touches(own, lesions[name])
        numbers = np.arange(own.max() + 1)
        # Sorted by own number, then by the other's: the first of each is the one with the lowest number.
        first = np.unique(touching, return_index=True)[1]
        numbers[touching[first]] = numbers.size + other[first]
        own = np.unique(numbers, return_inverse=True)[1][own]
    return own


def touches(own: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(lesion here, lesion there) of all that are neighbours by a face or an edge, or overlap; sorted."""
    there = np.pad(other, 1)
    near = np.argwhere((own > 0) & dilate(other > 0, 1))
    pairs = [
        np.stack((own[tuple(near.T)], there[tuple((near + 1 + step).T)])) for step in ((0, 0, 0), *NEIGHBOURS)
    ]
    found = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return tuple(found[:, found[1] > 0])
