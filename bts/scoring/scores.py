"""A scored case, and what the scores of many cases say: by region, metric, group and year of the rules."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bts.scoring import statistics
from bts.scoring.metrics import NAMES, PARTS

TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "hd95": "HD95, mm",
    "nsd1": "Surface Dice, 1 mm",
    "nsd05": "Surface Dice, 0.5 mm",
    "volume_error_ml": "Volume error, ml",
    "lesion_dice": "Dice by lesion",
    "lesion_hd95": "HD95 by lesion, mm",
    "lesions_found": "Lesions found",
    "lesions_missed": "missed",
    "lesions_false": "false",
    "lesion_nsd05": "Surface Dice by lesion, 0.5 mm",
    "lesion_nsd1": "Surface Dice by lesion, 1 mm",
    "lesion_f1": "F1 of lesions",
    "lesion_precision": "Precision",
    "lesion_recall": "Recall",
    "large_f1": "F1 of large lesions",
    "large_precision": "Precision",
    "large_recall": "Recall",
    "small_f1": "F1 of small lesions",
    "small_precision": "Precision",
    "small_recall": "Recall",
}
REGION_TITLES = {
    "WT": "whole tumour",
    "TC": "tumour core",
    "ET": "enhancing tumour",
    "GTV": "gross tumour volume",
    "NETC": "non-enhancing tumour core",
    "SNFH": "surrounding non-enhancing FLAIR hyperintensity",
    "RC": "resection cavity",
    "ED": "oedema",
}
"""What the regions of BraTS are short for."""
BRIEF = {"hd95": "HD95, mm", "lesion_dice": "lesion Dice"}
"""Beside Dice in the terminal."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One scored case."""

    case_id: str
    group: str
    dataset: str
    scores: dict[str, dict[str, float]]
    """{region: {metric: value}}, as `metrics.measure` gives it; figshare's as `metrics.score`."""
    patient: str = ""
    maker: str = ""
    """What made the labelmap, as bts.results.match.Labels tells it; empty for another tool's."""
    flags: list[str] = field(default_factory=list)
    """What jobs.segment found unusual."""
    truth_ml: Mapping[str, float] = field(default_factory=dict)
    """Millilitres of each region in the truth; empty for figshare, which tells no gap between slices."""
    expected: Mapping[str, float] = field(default_factory=dict)
    """Dice by region that the model expected; empty for another tool's."""
    rules: str = ""
    """Year of the rules of BraTS that scored it; empty for figshare."""

    @property
    def same_patient(self) -> str:
        """Alike for cases of one patient."""
        return self.patient.lower() or self.case_id


def column(scored: Sequence[Scored], region: str, metric: str) -> np.ndarray:
    """(N,) of the cases with that region and metric, in their order."""
    return np.array([s.scores[region][metric] for s in scored if metric in s.scores.get(region, ())])


def summarise(scored: Sequence[Scored], region: str, metric: str) -> dict[str, float]:
    """n, mean, sample standard deviation (NaN for one case), median and quartiles (q25, q75) over the cases
    with that region and metric; NaN where there is none.
    """
    return statistics.describe(column(scored, region, metric))


def means(scored: Sequence[Scored], metrics: Iterable[str]) -> dict[str, float]:
    """Mean of each metric and region, as "dice/WT"."""
    return {f"{m}/{r}": summarise(scored, r, m)["mean"] for m in metrics for r in regions_of(scored)}


def interval(scored: Sequence[Scored], region: str, metric: str) -> tuple[float, float]:
    """Bootstrap 95 % interval of the mean of the same values; NaN for fewer than 6 patients."""
    known = [one for one in scored if metric in one.scores.get(region, ())]
    return statistics.mean_interval(column(known, region, metric), [one.same_patient for one in known])


def regions_of(scored: Sequence[Scored]) -> list[str]:
    """Those that any case has, in the order of metrics.NAMES."""
    return [region for region in NAMES if any(region in one.scores for one in scored)]


def metrics_of(scored: Sequence[Scored]) -> list[str]:
    """Those that any case has, in the order of metrics.PARTS."""
    there = {metric for one in scored for of in one.scores.values() for metric in of}
    return [metric for part in PARTS for metric in part if metric in there]


def years_of(scored: Sequence[Scored]) -> list[str]:
    """The years of BraTS whose rules scored them, sorted; none of figshare's alone."""
    return sorted({one.rules for one in scored} - {""})


def groups_of(scored: Sequence[Scored], part: str = "group") -> dict[str, list[Scored]]:
    """The cases by tumour grade or type, or by `dataset`, sorted; empty where there are not two of them."""
    names = sorted({getattr(one, part) for one in scored} - {""})
    return {n: [s for s in scored if getattr(s, part) == n] for n in names} if len(names) > 1 else {}


def table(scored: Sequence[Scored]) -> str:
    """The summary for the terminal, a line a region, and whose rules scored."""
    regions = regions_of(scored)
    width = max(8, *(len(region) + 1 for region in regions), 0)
    more = {name: title for name, title in BRIEF.items() if name in metrics_of(scored)}
    head = f"{'region':{width}}{'mean Dice':>10}{'median':>10}{'n':>7}{'std':>9}{'95 % interval':>17}"
    lines = [head + "".join(f"{title:>13}" for title in more.values())]
    for region in regions:
        of, (low, high) = summarise(scored, region, "dice"), interval(scored, region, "dice")
        std = "–" if np.isnan(of["std"]) else f"{of['std']:.4f}"
        between = "–" if np.isnan(low) else f"{low:.4f}–{high:.4f}"
        line = f"{region:{width}}{of['mean']:10.4f}{of['median']:10.4f}{of['n']:7}{std:>9}{between:>17}"
        lines.append(line + "".join(f"{summarise(scored, region, name)['mean']:13.3f}" for name in more))
    if years := years_of(scored):
        lines.append(f"scored by the rules of BraTS {' and '.join(years)}")
    return "\n".join(lines)
