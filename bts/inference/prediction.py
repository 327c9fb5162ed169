"""What the networks say of a case: made on the device, and finished (`finish`) where labelmaps are written.

As small as it can be, for it crosses Ray's object store: of what lies around the tumour's box, sums alone.
Axes: K target, D z slices, H rows (y), W columns (x).
"""

from dataclasses import dataclass

import numpy as np

CERTAIN = np.iinfo(np.uint16).max  # a probability of 1

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """On the grid of `Segmenter.seen`; the boxes' voxels alone."""

    box: Box
    """Holds every voxel that has a label, by the mean or by one of the models; at least one voxel."""
    labels: np.ndarray
    """(D, H, W) uint8: the likeliest labels voxel by voxel, before anything is known of the whole."""
    members: tuple[np.ndarray, ...]
    """The same by each model, where they are several."""
    probabilities: np.ndarray
    """(K, D, H, W) uint16, CERTAIN is 1."""
    totals: tuple[float, ...]
    """Sum of the probabilities of each target, in the box and around it, where a tumour is looked for."""
    whole: np.ndarray | None = None
    """(K, D, H, W) uint8 over the whole grid, if asked for: 255 is 1, from 128 on it is over 0.5."""
