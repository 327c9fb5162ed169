"""Several labelmaps of one case → one: by majority, or weighted by how each agrees with all (SIMPLE, STAPLE).

Whole tumour, tumour core and enhancing tumour are fused one by one, and the resection cavity where it is
labelled; then they are painted over each other as a network's regions are. For a voxel it matters alone which
of the labelmaps have it, so every method works on counts of these patterns: 2^N of N labelmaps.
Axes: N labelmaps, P patterns, D z slices, H rows (y), W columns (x).
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from bts.labels import CAVITY, PAINT, REGIONS

Method = Literal["majority", "simple", "staple"]
MOST = 10
"""Labelmaps that can be fused."""
FEWEST = 3  # that SIMPLE keeps: of two, the heavier would decide alone
ROUNDS = 100
SURE = 0.99999  # sensitivity and specificity from which STAPLE starts
SETTLED = 1e-7  # change of both at which it ends
TINY = float(np.finfo(float).tiny)


def fuse(labels: Sequence[np.ndarray], method: Method) -> np.ndarray:
    """uint8 (D, H, W) labels of the project of each labelmap → of all together."""
    if not 2 <= len(labels) <= MOST:
        raise ValueError(f"{len(labels)} labelmaps; from 2 to {MOST} can be fused")
    found = np.zeros(labels[0].shape, np.uint8)
    cavity = CAVITY if any((one == 4).any() for one in labels) else {}
    for region, parts in (REGIONS | cavity).items():
        fused = fuse_region([np.isin(one, parts) for one in labels], method)
        found[fused] = PAINT[region] if region in PAINT else parts[0]
    return found


def fuse_region(masks: Sequence[np.ndarray], method: Method) -> np.ndarray:
    """bool (D, H, W) of each labelmap → of all together."""
    pattern = np.zeros(masks[0].shape, np.uint16)
    for n, mask in enumerate(masks):
        pattern |= mask.astype(np.uint16) << n
    counts_P = np.bincount(pattern.reshape(-1), minlength=1 << len(masks))
    votes_NP = (np.arange(1 << len(masks)) >> np.arange(len(masks))[:, None] & 1).astype(bool)
    return METHODS[method](votes_NP, counts_P)[pattern]


def majority(votes_NP: np.ndarray, counts_P: np.ndarray) -> np.ndarray:
    """More than half of the labelmaps."""
    return votes_NP.sum(axis=0) * 2 > len(votes_NP)


def simple(votes_NP: np.ndarray, counts_P: np.ndarray) -> np.ndarray:
    """SIMPLE, doi:10.1109/TMI.2010.2057442: votes weighted by each one's Dice with the estimate, in turns; a
    labelmap more than a standard deviation below the mean is left out for good, as long as three stay.
    Of two it is what both have."""
    kept = np.ones(len(votes_NP), bool)
    estimate = majority(votes_NP, counts_P)
    if len(votes_NP) < FEWEST:
        return estimate
    for _ in range(ROUNDS):
        weights = _dice(votes_NP, estimate, counts_P) * kept
        poor = kept & (weights < weights[kept].mean() - weights[kept].std())
        if poor.any() and (kept & ~poor).sum() >= FEWEST:
            kept &= ~poor
            weights = weights * kept
        updated = weights @ votes_NP * 2 > weights.sum()
        if (updated == estimate).all():
            break
        estimate = updated
    return estimate


def staple(votes_NP: np.ndarray, counts_P: np.ndarray) -> np.ndarray:
    """STAPLE, doi:10.1109/TMI.2004.828354: sensitivity and specificity of each labelmap and the probability
    of each voxel, in turns, by expectation and maximisation; where it is over 0.5."""
    share = (votes_NP @ counts_P).sum() / (len(votes_NP) * counts_P.sum())
    if share in (0, 1):
        return np.logical_and.reduce(votes_NP) if share else np.zeros(len(counts_P), bool)
    rates = np.full((2, len(votes_NP), 1), SURE)
    for _ in range(ROUNDS):
        sensitivity, specificity = rates
        inside = share * np.where(votes_NP, sensitivity, 1 - sensitivity).prod(axis=0)
        outside = (1 - share) * np.where(votes_NP, 1 - specificity, specificity).prod(axis=0)
        probable = inside / np.maximum(inside + outside, TINY)
        of_inside, of_outside = counts_P * probable, counts_P * (1 - probable)
        found = votes_NP @ of_inside / max(of_inside.sum(), TINY)
        left = ~votes_NP @ of_outside / max(of_outside.sum(), TINY)
        updated = np.stack([found, left])
        change = np.abs(updated[..., None] - rates).max()
        rates = updated[..., None]
        if change < SETTLED:
            break
    return probable > 0.5


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "majority": majority,
    "simple": simple,
    "staple": staple,
}
"""(votes bool (N, P), voxels of each pattern (P,)) → bool (P,): which patterns are in the region."""


def _dice(votes_NP: np.ndarray, estimate_P: np.ndarray, counts_P: np.ndarray) -> np.ndarray:
    """Of each labelmap with the estimate; 1 where both are empty."""
    both = (votes_NP & estimate_P) @ counts_P
    sizes = votes_NP @ counts_P + estimate_P @ counts_P
    return np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), 1.0)
