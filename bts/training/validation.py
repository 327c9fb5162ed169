"""How well weights do on held-out cases: figures for the log, and the threshold that would be best."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bts.cases.case import CaseVolume
from bts.inference.segmenter import Segmenter
from bts.labels import regions_predicted
from bts.scoring import metrics
from bts.training.splits import leaked

LABELLED = "only cases with a ground truth are trained on"
THRESHOLDS = tuple(round(0.05 * n, 2) for n in range(1, 20))


def held_out_part(volume: CaseVolume, seed: int, turn: int) -> CaseVolume | None:
    """The slices that `leaking_by_slice` holds out of a case (`splits.leaked`); None if there are none."""
    assert volume.mask is not None, LABELLED
    z = volume.origin[0] + np.arange(len(volume.mask))
    kept = leaked(volume.case_id, z.tolist(), seed=seed, turn=turn)
    return replace(volume, images=volume.images[:, kept], mask=volume.mask[kept]) if kept.any() else None


def score_case(segmenter: Segmenter, volume: CaseVolume) -> dict[str, float]:
    """Figures of one case with a truth: dice/…, iou/…, agreement/… by region, accuracy over the whole grid.

    A tumour type that neither truth nor prediction has is left out: it would score 1.
    """
    targets = segmenter.predicts.targets
    assert volume.mask is not None, LABELLED
    probable, truth = segmenter.probabilities(volume), volume.mask
    prediction = segmenter.labels(volume, probable)
    if targets == "tumour":
        truth = (truth > 0).view(np.uint8)
    scores = metrics.score(truth, prediction, *regions_predicted(targets))
    figures = {f"{metric}/{name}": of[metric] for name, of in scores.items() for metric in ("dice", "iou")}
    agreed = segmenter.agreement(volume, probable, prediction)
    figures |= {f"agreement/{name}": of for name, of in agreed.items()}
    wrong = np.count_nonzero(truth != prediction)
    return {**figures, "accuracy": 1 - wrong / float(np.prod(volume.grid.shape))}


def mean_figures(cases: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each figure over the cases that have it, regions in their order."""
    names = dict.fromkeys(name for case in cases for name in case)
    return {name: float(np.mean([case[name] for case in cases if name in case])) for name in names}


def sweep(segmenter: Segmenter, volumes: Iterable[CaseVolume]) -> list[float]:
    """Mean IoU of any tumour over the cases, at each of THRESHOLDS; for `targets` tumour."""
    ious = []
    for volume in volumes:
        assert volume.mask is not None, LABELLED
        found, truth = segmenter.probabilities(volume)[0].numpy(), volume.mask > 0
        said = [found > threshold for threshold in THRESHOLDS]
        ious.append([(s & truth).sum() / max(1, (s | truth).sum()) for s in said])
    return np.mean(ious, axis=0).tolist()
