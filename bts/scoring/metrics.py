"""How well a labelmap agrees with the truth, region by region, as the BraTS challenge measures it.

Axes: D z slices, H rows (y), W columns (x). Labels are the project's own: 1 necrosis/non-enhancing, 2 oedema,
3 enhancing, 4 resection cavity; of figshare 1 meningioma, 2 glioma, 3 pituitary tumour.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from bts.boxes import filled_box
from bts.labels import CAVITY, PAEDIATRIC, REGIONS, TARGET, TISSUES, TUMOUR, TYPES, Regions
from bts.scoring import borders, surfaces
from bts.scoring.grouping import number_lesions
from bts.scoring.lesions import score_lesions, score_parts
from bts.scoring.matching import score_pairs
from bts.scoring.rules import GLIOMA, NSD, Rules, Weighting

NAMES = (*REGIONS, *TARGET, *TISSUES, *PAEDIATRIC, *TUMOUR, *TYPES)  # of all regions, in the order shown
FORMAT = 2  # raised when a score changes for the same labelmaps; part of every kept score's fingerprint
METRICS = ("dice", "iou", "sensitivity", "specificity")
DISTANCES = ("hd95", "nsd1", "volume_error_ml")
LESIONS = ("lesion_dice", "lesion_hd95", "lesions_found", "lesions_missed", "lesions_false")
DETECTION = ("lesion_f1", "lesion_precision", "lesion_recall")  # since 2026
BY_SIZE = tuple(f"{size}_{of}" for size in ("large", "small") for of in ("f1", "precision", "recall"))
PARTS = (
    METRICS,
    ("hd95", "nsd1", "nsd05", "volume_error_ml"),
    (*LESIONS, "lesion_nsd05", "lesion_nsd1"),
    (*DETECTION, *BY_SIZE),
)
"""All metrics, in the order and the tables in which they are shown."""
LOWER_IS_BETTER = {"hd95", "volume_error_ml", "lesion_hd95", "lesions_missed", "lesions_false"}
"""Of a volume error its size, without its sign."""
LABELS = 5  # background and four
HAUSDORFF: dict[Weighting, Callable[..., float]] = {
    "area": surfaces.robust_hausdorff,
    "voxels": borders.hausdorff,
}
SURFACE_DICE: dict[Weighting, Callable[..., float]] = {
    "area": surfaces.surface_dice,
    "voxels": borders.surface_dice,
}


def score(
    truth_DHW: np.ndarray,
    prediction_DHW: np.ndarray,
    regions: Regions = REGIONS,
    where_present: Regions = CAVITY,
) -> dict[str, dict[str, float]]:
    """Overlap of two labelmaps (uint8, any equal shape), as {region: {metric: value in 0…1}}.

    Those of `where_present` join the regions where a label of theirs occurs in either: an absent one would
    score 1 without anything found. Empty regions count as in the challenge's own code
    (rachitsaluja/BraTS-2023-Metrics): empty on both sides scores 1 throughout, on one side Dice and
    sensitivity 0; specificity counts every voxel of the grid. Raises ValueError for unequal shapes and
    unknown labels.
    """
    counts = confusion(truth_DHW, prediction_DHW)
    occur = {name: labels for name, labels in where_present.items() if _occurs(counts, list(labels))}
    return {name: _overlap(counts, list(labels)) for name, labels in {**regions, **occur}.items()}


def volumes_ml(
    labels_DHW: np.ndarray, regions: Regions, spacing: tuple[float, float, float]
) -> dict[str, float]:
    """Millilitres of each region in a labelmap (uint8); spacing: mm, D H W."""
    counts = np.bincount(labels_DHW.ravel(), minlength=LABELS)
    voxel = float(np.prod(spacing)) / 1000
    return {region: float(counts[list(labels)].sum()) * voxel for region, labels in regions.items()}


def measure(
    truth_DHW: np.ndarray,
    prediction_DHW: np.ndarray,
    regions: Regions,
    where_present: Regions,
    *,
    spacing: tuple[float, float, float],
    rules: Rules = GLIOMA,
) -> dict[str, dict[str, float]]:
    """`score`, and of each region what needs space: DISTANCES and LESIONS. spacing: mm, D H W.

    Rules since 2024 add nsd05, lesion_nsd05 and lesion_nsd1, those of 2026 DETECTION and, where they tell
    large lesions from small ones, BY_SIZE. hd95 (mm) is the farthest distance of the rules where one side is
    empty and 0 where both are; nsd1 and nsd05 are the surface Dice at 1 and 0.5 mm; volume_error_ml is
    positive where the prediction is larger.
    """
    scores = score(truth_DHW, prediction_DHW, regions, where_present)
    if rules.farthest is None:
        rules = replace(rules, farthest=float(np.linalg.norm(truth_DHW.shape)))
    box = _box(truth_DHW, prediction_DHW, rules.widest)
    # The challenge's axes: its table of areas tells them apart.
    truth, prediction = truth_DHW[box].T, prediction_DHW[box].T
    mm = tuple(map(_exact, spacing[::-1]))
    known = {**TISSUES, **regions, **where_present}
    lesions = _number(truth, prediction, known, mm, rules) if rules.grouped else {}
    return {
        name: {**of, **_in_space(truth, prediction, known[name], mm, rules.of(name), lesions.get(name))}
        for name, of in scores.items()
    }


def _exact(mm: float) -> float:
    """Without the rounding of an oblique affine: at 1.00000002 mm the next voxel lies not within 1 mm."""
    meant = round(mm, 3)
    return meant if abs(mm - meant) < 1e-5 else mm


def _number(truth_XYZ, prediction_XYZ, known, spacing, rules: Rules) -> dict[str, list[np.ndarray]]:
    """[lesions of the truth, of the prediction] of each region, where they depend on other regions."""
    least = {region: rules.of(region).smallest for region in known}
    if rules.grouped == "mm3":
        least = {region: mm3 / float(np.prod(spacing)) for region, mm3 in least.items()}
    keep_all: dict[str, float] = {}
    found = [
        number_lesions({name: np.isin(side, of) for name, of in known.items()}, rules, least_voxels=voxels)
        for side, voxels in ((truth_XYZ, keep_all), (prediction_XYZ, least))
    ]
    return {region: [side[region] for side in found] for region in known}


def _in_space(truth_XYZ, prediction_XYZ, labels, spacing, rules: Rules, lesions) -> dict[str, float]:
    inside = np.zeros(LABELS, bool)
    inside[list(labels)] = True
    masks = inside[truth_XYZ], inside[prediction_XYZ]
    box = _box(*masks, margin=rules.widest)
    truth, prediction = (mask[box] for mask in masks)
    found = _gaps(truth, prediction, spacing, rules)
    if rules.matching == "pair":
        by_lesion = score_pairs(truth, prediction, spacing, rules, found.get("voxels"))
    elif lesions:
        lesions_XYZ, parts_XYZ = (side[box] for side in lesions)
        by_lesion = score_parts(lesions_XYZ, parts_XYZ, spacing, rules)
    else:
        by_lesion = score_lesions(truth, prediction, spacing, rules)
    voxels = int(truth.sum()), int(prediction.sum())
    error = (voxels[1] - voxels[0]) * float(np.prod(spacing)) / 1000
    return {**_distances(found, any(voxels), rules), "volume_error_ml": error, **by_lesion}


def _gaps(truth, prediction, spacing, rules: Rules) -> dict[Weighting, tuple]:
    """The gaps between two masks, as the rules weight them; none where they leave nothing to measure."""
    # In 2026 what does not overlap is as far apart as it can be.
    apart = rules.matching == "pair" and not (truth & prediction).any()
    if apart or not truth.any() or not prediction.any():
        return {}
    measure_gaps = {"area": surfaces.gaps, "voxels": borders.gaps}
    wanted = {rules.hausdorff, rules.surface_dice}
    return {weighting: measure_gaps[weighting](truth, prediction, spacing) for weighting in wanted}


def _distances(found: Mapping[Weighting, tuple], anything: bool, rules: Rules) -> dict[str, float]:
    """hd95 and the rules' surface Dice from the gaps between two masks. anything: one is not empty."""
    near = [NSD[tolerance] for tolerance in rules.tolerances]
    if not found:
        hd95, nsd = (rules.far_mm, 0.0) if anything else (0.0, 1.0)
        return {"hd95": hd95, **dict.fromkeys(near, nsd)}
    shares = [SURFACE_DICE[rules.surface_dice](found[rules.surface_dice], mm) for mm in rules.tolerances]
    hd95 = HAUSDORFF[rules.hausdorff](found[rules.hausdorff])
    return {"hd95": hd95, **dict(zip(near, shares, strict=True))}


def _box(truth: np.ndarray, prediction: np.ndarray, margin: int) -> tuple[slice, ...]:
    """Around all that is not 0 in either, and a margin."""
    filled = filled_box(truth, prediction)
    return tuple(slice(max(0, side.start - margin), side.stop + margin) for side in filled)


def mean_score(scores: Mapping[str, Mapping[str, float]], metric: str) -> float:
    """One number for a case: the mean of a metric over WT, TC and ET, or of GTV, or figshare's of tumour.

    Left out are the tissues and types, which not every case has. Raises KeyError where the case was not
    scored by that metric.
    """
    (regions,) = [of for of in (TUMOUR, TARGET) if of.keys() <= scores.keys()] or [REGIONS]
    return float(np.mean([scores[region][metric] for region in regions]))


def mean_dice(scores: Mapping[str, Mapping[str, float]]) -> float:
    """The mean Dice over the regions of `mean_score`."""
    return mean_score(scores, "dice")


def confusion(truth_DHW: np.ndarray, prediction_DHW: np.ndarray) -> np.ndarray:
    """Voxels by (label in the truth, label in the prediction), (5, 5) int64, in one pass."""
    if truth_DHW.shape != prediction_DHW.shape:
        raise ValueError(f"truth {truth_DHW.shape} and prediction {prediction_DHW.shape} differ in shape")
    for labels in (truth_DHW, prediction_DHW):
        if labels.dtype != np.uint8 or (labels.size and labels.max() >= LABELS):
            raise ValueError(f"labels must be uint8 of 0 to {LABELS - 1}, not {labels.dtype}")
    pairs = (truth_DHW * np.uint8(LABELS) + prediction_DHW).ravel(order="K")
    # Nearly all voxels are background twice: counting only the rest is four times as fast.
    counts = np.bincount(pairs[pairs != 0], minlength=LABELS**2)
    counts[0] = pairs.size - counts.sum()
    return counts.reshape(LABELS, LABELS)


def _occurs(counts: np.ndarray, labels: list[int]) -> bool:
    return bool(counts[labels].any() or counts[:, labels].any())


def _overlap(counts: np.ndarray, labels: list[int]) -> dict[str, float]:
    both = int(counts[np.ix_(labels, labels)].sum())
    truth, prediction = int(counts[labels].sum()), int(counts[:, labels].sum())
    either = truth + prediction - both
    neither = int(counts.sum()) - either
    only_one_empty = (truth == 0) != (prediction == 0)
    return {
        "dice": _ratio(2 * both, truth + prediction),
        "iou": _ratio(both, either),
        "sensitivity": 0.0 if only_one_empty else _ratio(both, truth),
        "specificity": _ratio(neither, neither + prediction - both),
    }


def _ratio(part: int, whole: int) -> float:
    """part / whole; 1 where there was nothing to get wrong."""
    return part / whole if whole else 1.0
