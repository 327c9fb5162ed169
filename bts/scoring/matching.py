"""Scores lesion by lesion as BraTS 2026 counts them: components, matched one to one.

The rules are those of the package brats-evaluation, re-implemented. A component (26 neighbours) of the truth
and one of the prediction are matched so that the sum of Dice over the pairs is the largest. Axes: X columns,
Y rows, Z slices.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse
from scipy.optimize import linear_sum_assignment

from bts.scoring import borders
from bts.scoring.lesions import TOUCHING, around, surface_names
from bts.scoring.rules import Rules

LEAST_DICE = 1e-6  # of two components that can be matched


class Pairs(NamedTuple):
    """The components of two masks and which were matched; numbers start at 1."""

    lesions: np.ndarray
    """(X, Y, Z) component of the truth in each voxel, 0 for none."""
    parts: np.ndarray
    """The same of the prediction."""
    found: dict[int, tuple[int, float]]
    """Component of the truth → that of the prediction and their Dice."""
    missed: list[int]
    false: int
    """How many components of the prediction were matched with none."""
    voxels: np.ndarray
    """Size of each component of the truth; the background is first."""


def pair(truth_XYZ: np.ndarray, prediction_XYZ: np.ndarray) -> Pairs:
    """The components of two bool masks."""
    # Numbered slice by slice, as in the package: between matches of the same sum the order decides.
    (lesions, of_truth), (parts, of_prediction) = (
        ndimage.label(np.ascontiguousarray(mask.T), TOUCHING) for mask in (truth_XYZ, prediction_XYZ)
    )
    lesions, parts = lesions.T, parts.T
    sizes = np.bincount(lesions.ravel()), np.bincount(parts.ravel())
    both = truth_XYZ & prediction_XYZ
    size = of_truth + 1, of_prediction + 1
    shared = sparse.coo_array((np.ones(both.sum(), int), (lesions[both], parts[both])), shape=size)
    shared.sum_duplicates()
    own, other = shared.coords
    found = _assign(own, other, 2 * shared.data / (sizes[0][own] + sizes[1][other]))
    missed = [number for number in range(1, of_truth + 1) if number not in found]
    return Pairs(lesions, parts, found, missed, of_prediction - len(found), sizes[0])


def score_pairs(
    truth_XYZ: np.ndarray,
    prediction_XYZ: np.ndarray,
    spacing: tuple[float, ...],
    rules: Rules,
    whole: borders.Borders | None = None,
) -> dict[str, float]:
    """Of two bool masks: mean Dice, HD95 (mm) and surface Dice over lesions, and how they were detected.

    whole: the gaps between the two masks, where known; those of a single pair are not measured again.

    What is not defined is left out: everything but the counts where neither side has a lesion, the precision
    where the prediction has none, the recall where the truth has none, the means of a `split` where no lesion
    is large.
    """
    pairs = pair(truth_XYZ, prediction_XYZ)
    mm3 = pairs.voxels * float(np.prod(spacing))
    counts = Counts(len(pairs.found), len(pairs.missed), pairs.false)
    if counts != (1, 0, 0):
        whole = None
    scores = {**_means(pairs, mm3, spacing, rules, whole), **counts.named(), **counts.detection("lesion")}
    if rules.split:
        for name, sized in (("large", mm3 >= rules.split), ("small", mm3 < rules.split)):
            found = sum(sized[number] and dice >= rules.detected for number, (_, dice) in pairs.found.items())
            whole = sum(sized[number] for number in (*pairs.found, *pairs.missed))
            if whole:
                counts = Counts(found, whole - found, pairs.false)
                scores |= {f"{name}_precision": 0.0, **counts.detection(name)}
    return scores


class Counts(NamedTuple):
    """Lesions found, missed, and predicted where there is none."""

    found: int
    missed: int
    false: int

    def named(self) -> dict[str, float]:
        return {f"lesions_{name}": float(count) for name, count in self._asdict().items()}

    def detection(self, what: str) -> dict[str, float]:
        """F1, precision and recall as WHAT_f1, …; those with nothing to divide by are left out."""
        found, missed, false = self
        shares = {
            "f1": (2 * found, 2 * found + missed + false),
            "precision": (found, found + false),
            "recall": (found, found + missed),
        }
        return {f"{what}_{name}": part / whole for name, (part, whole) in shares.items() if whole}


def _means(
    pairs: Pairs, mm3: np.ndarray, spacing: tuple[float, ...], rules: Rules, whole: borders.Borders | None
) -> dict[str, float]:
    """Over matched lesions (of a `split` the large ones) and, if the rules say so, those missed and false."""
    large = [number for number in pairs.found if mm3[number] >= rules.split]
    gaps = [whole] if whole and large else _gaps(pairs, large, spacing)
    scores = [_compare(pairs, number, found, rules) for number, found in zip(large, gaps, strict=True)]
    missed = sum(mm3[number] >= rules.split for number in pairs.missed)
    if rules.unmatched == "all":
        nothing = missed + pairs.false if scores or missed else 0
    else:
        nothing = int(not scores and missed + pairs.false > 0)
    scores += [[0.0, rules.far_mm] + [0.0] * len(rules.lesion_tolerances)] * nothing
    names = ("lesion_dice", "lesion_hd95", *surface_names(rules))
    return dict(zip(names, np.mean(scores, axis=0).tolist(), strict=True)) if scores else {}


def _gaps(pairs: Pairs, numbers: list[int], spacing: tuple[float, ...]) -> list[borders.Borders]:
    """Between lesions and their matches."""
    of_truth, of_prediction = (ndimage.find_objects(side) for side in (pairs.lesions, pairs.parts))
    found = []
    for number in numbers:
        part, _ = pairs.found[number]
        box = around([of_truth[number - 1], of_prediction[part - 1]])
        found.append(borders.gaps(pairs.lesions[box] == number, pairs.parts[box] == part, spacing))
    return found


def _compare(pairs: Pairs, number: int, found: borders.Borders, rules: Rules) -> list[float]:
    """Dice, HD95 and surface Dice of one lesion and its match."""
    near = [borders.surface_dice(found, tolerance) for tolerance in rules.lesion_tolerances]
    return [pairs.found[number][1], borders.hausdorff(found), *near]


def _assign(own: np.ndarray, other: np.ndarray, dice: np.ndarray) -> dict[int, tuple[int, float]]:
    """Component of the truth → the one matched and their Dice, of all that overlap (three columns)."""
    rows, row = np.unique(own, return_inverse=True)
    columns, column = np.unique(other, return_inverse=True)
    overlap = np.zeros((rows.size, columns.size))
    overlap[row, column] = np.where(dice >= LEAST_DICE, dice, 0)
    # Of equal sums of Dice the one with more matches counts.
    chosen = zip(*linear_sum_assignment(overlap + LEAST_DICE * (overlap > 0), maximize=True), strict=True)
    return {int(rows[i]): (int(columns[j]), float(overlap[i, j])) for i, j in chosen if overlap[i, j]}
