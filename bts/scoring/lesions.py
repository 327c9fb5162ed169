"""Scores lesion by lesion, as BraTS ranks since 2023: missing a small one counts like missing a large one.

The rules are those of the challenge's own code, rachitsaluja/BraTS-2023-Metrics. Axes: X columns, Y rows,
Z slices.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bts.scoring.surfaces import FARTHEST, gaps, robust_hausdorff

TOUCHING = np.ones((3, 3, 3), bool)  # 26 neighbours


@dataclass(frozen=True, slots=True)
class Rules:
    """What a challenge counts as one lesion."""

    reach: int
    """Parts of the truth within twice so many dilations of each other are one lesion; one dilation is by the
    18 neighbours."""
    smallest: float
    """mm³; lesions of the truth up to that size are left out, found or missed."""


RULES = {"brats2023-men": Rules(1, 50), "brats2023-met": Rules(1, 2)}
"""By dataset; all others as glioma."""
GLIOMA = Rules(3, 50)


def score_lesions(
    truth_XYZ: np.ndarray, prediction_XYZ: np.ndarray, spacing: tuple[float, ...], rules: Rules
) -> dict[str, float]:
    """Of two bool masks: mean Dice and HD95 (mm) over lesions, and how many were found, missed, invented.

    A lesion claims every part of the prediction that it touches when dilated again; its scores compare it
    with the union of these. One that claims none, and every part that no lesion claims, counts Dice 0 and
    374 mm. Nothing on either side scores Dice 1 and 0 mm.
    """
    lesions, _ = ndimage.label(dilate(truth_XYZ, rules.reach), TOUCHING)
    lesions[~truth_XYZ] = 0
    parts, count = ndimage.label(prediction_XYZ, TOUCHING)
    places, claimed = ndimage.find_objects(parts), np.zeros(count + 1, bool)
    dice, hd95, missed = [], [], 0
    for number, box in enumerate(ndimage.find_objects(lesions), start=1):
        near = tuple(slice(max(0, s.start - rules.reach), s.stop + rules.reach) for s in box)
        own = lesions[near] == number
        touched = np.unique(parts[near][dilate(own, rules.reach)])
        touched = touched[touched > 0]
        claimed[touched] = True
        if own.sum() * np.prod(spacing) <= rules.smallest:
            continue
        if len(touched):
            union = _around([box, *(places[part - 1] for part in touched)])
            masks = lesions[union] == number, np.isin(parts[union], touched)
            dice.append(2 * int((masks[0] & masks[1]).sum()) / int(masks[0].sum() + masks[1].sum()))
            hd95.append(robust_hausdorff(gaps(*masks, spacing)))
        else:
            missed += 1
    invented = count - int(claimed.sum())
    whole = len(dice) + missed + invented
    return {
        "lesion_dice": sum(dice) / whole if whole else 1.0,
        "lesion_hd95": (sum(hd95) + FARTHEST * (missed + invented)) / whole if whole else 0.0,
        "lesions_found": float(len(dice)),
        "lesions_missed": float(missed),
        "lesions_false": float(invented),
    }


def dilate(mask: np.ndarray, times: int) -> np.ndarray:
    """By the 18 neighbours: those that share a face or an edge."""
    for _ in range(times):
        along = _spread(mask, 0)
        mask = _spread(along, 1) | _spread(along, 2) | _spread(_spread(mask, 1), 2)
    return mask


def _spread(mask: np.ndarray, axis: int) -> np.ndarray:
    """To both neighbours along one axis."""
    spread = mask.copy()
    from_, to = [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
    from_[axis], to[axis] = slice(None, -1), slice(1, None)
    spread[tuple(to)] |= mask[tuple(from_)]
    spread[tuple(from_)] |= mask[tuple(to)]
    return spread


def _around(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box that holds them all."""
    axes = zip(*boxes, strict=True)
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in axes)
