"""Soft Dice between a network's probabilities and its own labelmap, and the Dice to expect from it.

The soft Dice between labelmap and probabilities ranks cases much as their Dice does, but is too high:
networks are surer than they are right. How much so is known from the held-out cases of the training.
Axes: K target, D z slices, H rows (y), W columns (x).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from bts.labels import TARGETS, regions_predicted

UNSURE = 0.7
"""Expected Dice of the whole tumour below which a person should look: two readers agree with 0.74 to 0.85
(Menze et al. 2015, doi:10.1109/TMI.2014.2377694)."""


def agreement(
    probabilities_KDHW: np.ndarray, labels_DHW: np.ndarray, totals_K: Sequence[float], targets: str
) -> dict[str, float]:
    """Soft Dice of each region that the labelmap has, between it and its probabilities, 0 to 1.

    Both may be of the tumour's box alone: totals_K has the sums of the probabilities over all voxels.
    targets: what the K probabilities are of, a key of TARGETS; figshare's types count as one tumour.
    """
    found = {}
    for region, labels in regions_predicted(targets)[0].items():
        said = np.isin(labels_DHW, labels)
        if not said.any():
            continue
        channels = _channels(targets, labels)
        inside = sum(float(probabilities_KDHW[k][said].sum(dtype=np.float64)) for k in channels)
        found[region] = 2 * inside / (int(said.sum()) + sum(totals_K[k] for k in channels))
    return found


def expected_dice(agreements: Mapping[str, float], validation: Mapping[str, float]) -> dict[str, float]:
    """Dice that may be expected of each region, by what held-out cases had.

    validation: figures of a training, "dice/REGION" and "agreement/REGION" (means). What a region lacks of
    agreement counts as many times as it did there; a region is left out where that is not known.
    """
    found = {}
    for region, agreed in agreements.items():
        dice, mean = (validation.get(f"{name}/{region}") for name in ("dice", "agreement"))
        if dice is not None and mean is not None and mean < 1:
            found[region] = min(1.0, max(0.0, 1 - (1 - agreed) * (1 - dice) / (1 - mean)))
    return found


def _channels(targets: str, labels: tuple[int, ...]) -> list[int]:
    """The targets that make up a region: the one of the very labels, or all of some of them."""
    of = list(TARGETS[targets].values())
    return [of.index(labels)] if labels in of else [n for n, some in enumerate(of) if set(some) <= {*labels}]


def flag(expected: Mapping[str, float]) -> list[str]:
    """A flag where the whole tumour is expected to be poor."""
    for region in ("WT", "tumour"):
        if expected.get(region, 1.0) < UNSURE:
            return [f"unsure: Dice of {region} is expected to be {expected[region]:.2f}"]
    return []
