"""Scores lesion by lesion, as BraTS ranked in 2023 and 2024: a small one counts as much as a large one.

The rules are those of the challenge's own code, rachitsaluja/BraTS-2023-Metrics and BraTS-2024-Metrics; those
of 2026 are in bts.scoring.matching. Axes: X columns, Y rows, Z slices.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from bts.scoring import borders
from bts.scoring.rules import NSD, Rules
from bts.scoring.surfaces import gaps, robust_hausdorff

TOUCHING = np.ones((3, 3, 3), bool)  # 26 neighbours


def score_lesions(
    truth_XYZ: np.ndarray, prediction_XYZ: np.ndarray, spacing: tuple[float, ...], rules: Rules
) -> dict[str, float]:
    """Of two bool masks: mean Dice and HD95 (mm) over lesions, and how many were found, missed, invented."""
    return score_parts(group(truth_XYZ, rules.reach), components(prediction_XYZ), spacing, rules)


def score_parts(
    lesions_XYZ: np.ndarray, parts_XYZ: np.ndarray, spacing: tuple[float, ...], rules: Rules
) -> dict[str, float]:
    """The same of numbered lesions of the truth and parts of the prediction, 0 where there is none.

    A lesion claims every part of the prediction that it touches when dilated again; its scores compare it
    with the union of these. One that claims none counts Dice 0 and the farthest distance; so does every part
    that no lesion claims, unless the rules leave false ones out. Nothing to count scores Dice 1 and 0 mm.
    """
    places = ndimage.find_objects(parts_XYZ)
    there = {number for number, place in enumerate(places, start=1) if place}
    claimed, scores, missed = set(), [], 0
    for number, box in enumerate(ndimage.find_objects(lesions_XYZ), start=1):
        near = tuple(slice(max(0, s.start - rules.reach), s.stop + rules.reach) for s in box)
        own = lesions_XYZ[near] == number
        touched = np.unique(parts_XYZ[near][dilate(own, rules.reach)])
        touched = touched[touched > 0]
        claimed.update(touched.tolist())
        if own.sum() * np.prod(spacing) <= rules.smallest:
            continue
        if len(touched):
            union = around([box, *(places[part - 1] for part in touched)])
            pair = lesions_XYZ[union] == number, np.isin(parts_XYZ[union], touched)
            scores.append(_compare(*pair, spacing, rules))
        else:
            missed += 1
    false = len(there - claimed)
    return {
        **_means(scores, missed + (false if rules.unmatched == "all" else 0), rules),
        "lesions_found": float(len(scores)),
        "lesions_missed": float(missed),
        "lesions_false": float(false),
    }


def surface_names(rules: Rules) -> list[str]:
    """The rules' surface Dice by lesion: lesion_nsd05, lesion_nsd1."""
    return [f"lesion_{NSD[tolerance]}" for tolerance in rules.lesion_tolerances]


def _compare(
    truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], rules: Rules
) -> list[float]:
    """Dice, HD95 and surface Dice of a lesion and the parts that it claims."""
    dice = 2 * int((truth & prediction).sum()) / int(truth.sum() + prediction.sum())
    scores = [dice, robust_hausdorff(gaps(truth, prediction, spacing))]
    if rules.lesion_tolerances:
        found = borders.gaps(truth, prediction, spacing)
        scores += [borders.surface_dice(found, tolerance) for tolerance in rules.lesion_tolerances]
    return scores


def _means(scores: list[list[float]], nothing: int, rules: Rules) -> dict[str, float]:
    """Over the lesions compared and so many that have nothing to be compared with."""
    whole = len(scores) + nothing
    columns = list(zip(*scores, strict=True)) or [()] * (2 + len(rules.lesion_tolerances))
    means = {}
    for name, values in zip(("lesion_dice", "lesion_hd95", *surface_names(rules)), columns, strict=True):
        worst, best = (rules.far_mm, 0.0) if name == "lesion_hd95" else (0, 1.0)
        means[name] = (sum(values) + worst * nothing) / whole if whole else best
    return means


def components(mask: np.ndarray) -> np.ndarray:
    """The parts of a bool mask, numbered from 1; voxels that share a corner are of one part."""
    return ndimage.label(mask, TOUCHING)[0]


def group(mask: np.ndarray, reach: int) -> np.ndarray:
    """The same, where parts within twice `reach` dilations of each other are one."""
    grouped = components(dilate(mask, reach))
    grouped[~mask] = 0
    return grouped


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


def around(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box that holds them all."""
    axes = zip(*boxes, strict=True)
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in axes)
