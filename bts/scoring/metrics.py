"""How well a labelmap agrees with the truth, region by region, as the BraTS challenge measures it.

Axes: D z slices, H rows (y), W columns (x). Labels are the project's own: 1 necrosis/non-enhancing, 2 oedema,
3 enhancing, 4 resection cavity; of figshare 1 meningioma, 2 glioma, 3 pituitary tumour.
"""

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from bts.labels import CAVITY, REGIONS, TUMOUR, Regions
from bts.scoring.lesions import GLIOMA, Rules, score_lesions
from bts.scoring.surfaces import FARTHEST, gaps, robust_hausdorff, surface_dice

FORMAT = 2  # raised when a score changes for the same labelmaps; part of every kept score's fingerprint
METRICS = ("dice", "iou", "sensitivity", "specificity")
DISTANCES = ("hd95", "nsd1", "volume_error_ml")
LESIONS = ("lesion_dice", "lesion_hd95", "lesions_found", "lesions_missed", "lesions_false")
LOWER_IS_BETTER = {"hd95", "volume_error_ml", "lesion_hd95", "lesions_missed", "lesions_false"}
"""Of a volume error its size, without its sign."""
LABELS = 5  # background and four


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

    hd95 (mm) is 374 where one side is empty and 0 where both are; nsd1 is the surface Dice at 1 mm;
    volume_error_ml is positive where the prediction is larger.
    """
    scores = score(truth_DHW, prediction_DHW, regions, where_present)
    # The challenge's axes: its table of areas tells them apart.
    labels, mm = [one.T for one in _crop(truth_DHW, prediction_DHW, rules.reach)], spacing[::-1]
    known = {**regions, **where_present}
    return {region: {**of, **_in_space(*labels, known[region], mm, rules)} for region, of in scores.items()}


def _in_space(truth_XYZ, prediction_XYZ, labels, spacing, rules: Rules) -> dict[str, float]:
    inside = np.zeros(LABELS, bool)
    inside[list(labels)] = True
    truth, prediction = inside[truth_XYZ], inside[prediction_XYZ]
    truth, prediction = _crop(truth, prediction, margin=rules.reach)
    volumes = int(truth.sum()), int(prediction.sum())
    if all(volumes):
        found = gaps(truth, prediction, spacing)
        hd95, nsd1 = robust_hausdorff(found), surface_dice(found)
    else:
        hd95, nsd1 = (FARTHEST, 0.0) if any(volumes) else (0.0, 1.0)
    error = (volumes[1] - volumes[0]) * float(np.prod(spacing)) / 1000
    distances = dict(zip(DISTANCES, (hd95, nsd1, error), strict=True))
    return {**distances, **score_lesions(truth, prediction, spacing, rules)}


def _crop(truth: np.ndarray, prediction: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Both without what is empty in both, but for a margin."""
    boxes = ndimage.find_objects(((truth | prediction) != 0).view(np.uint8))
    box = boxes[0] if boxes else (slice(0, 0),) * 3
    wider = tuple(slice(max(0, s.start - margin), s.stop + margin) for s in box)
    return truth[wider], prediction[wider]


def mean_score(scores: Mapping[str, Mapping[str, float]], metric: str) -> float:
    """One number for a case: the mean of a metric over WT, TC and ET, or figshare's of tumour.

    Left out are the cavity and the types, which not every case has. Raises KeyError where the case was not
    scored by that metric.
    """
    return float(np.mean([scores[region][metric] for region in (TUMOUR if "tumour" in scores else REGIONS)]))


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
