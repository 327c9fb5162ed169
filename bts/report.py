"""Scores of many cases → one self-contained HTML page, with pictures of the best, median and worst case.

Nothing is loaded from anywhere: style and pictures are inside, and there is no script. Every text from
outside (case names, errors, URIs) is escaped. The page itself is report.html, a jinja2 template.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from bts import pictures
from bts.metrics import CAVITY, DISTANCES, LESIONS, METRICS, REGIONS, TUMOUR, TYPES, mean_dice

TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "hd95": "HD95, mm",
    "nsd1": "Surface Dice, 1 mm",
    "volume_error_ml": "Volume error, ml",
    "lesion_dice": "Dice by lesion",
    "lesion_hd95": "HD95 by lesion, mm",
    "lesions_found": "Lesions found",
    "lesions_missed": "missed",
    "lesions_false": "false",
}
BRIEF = {"hd95": "HD95, mm", "lesion_dice": "lesion Dice"}
"""Beside Dice in the terminal."""
TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True, slots=True)
class Scored:
    """One scored case."""

    case_id: str
    group: str
    dataset: str
    scores: dict[str, dict[str, float]]
    """{region: {metric: value}}, as bts.metrics.measure gives it; figshare's as bts.metrics.score."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One case as the reader shall see it."""

    title: str
    scored: Scored
    slice: int
    """z of the axial slice, canonical; of figshare the slice's number in the set."""
    panels: dict[str, bytes]
    """PNG by caption, left to right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """All that the page says."""

    title: str
    when: str
    labelmaps: str
    cases: str
    scored: Sequence[Scored]
    failed: Sequence[Mapping[str, str]]
    """As jobs.common.failure gives it: case_id, stage, file, error, mend."""
    without_labelmap: Sequence[str]
    without_truth: Sequence[str]
    pictures: Sequence[Picture]


def choose(scored: Sequence[Scored]) -> dict[str, Scored]:
    """The best, the median and the worst case by mean Dice; fewer where there are fewer."""
    ranked = sorted(scored, key=lambda s: (-mean_dice(s.scores), s.case_id))
    if len(ranked) == 1:
        return {"Only case": ranked[0]}
    places = {"Best case": 0, "Median case": len(ranked) // 2, "Worst case": len(ranked) - 1}
    if len(ranked) == 2:
        del places["Median case"]
    return {title: ranked[place] for title, place in places.items() if ranked}


def summarise(scored: Sequence[Scored], region: str, metric: str) -> dict[str, float]:
    """n, mean, sample standard deviation (NaN for one case), median and quartiles (q25, q75) over the cases
    with that region and metric; NaN where there is none.
    """
    values = np.array([s.scores[region][metric] for s in scored if metric in s.scores.get(region, ())])
    if not values.size:
        return {"n": 0, **dict.fromkeys(("mean", "std", "median", "q25", "q75"), np.nan)}
    std = values.std(ddof=1) if values.size > 1 else np.nan
    q25, median, q75 = np.quantile(values, (0.25, 0.5, 0.75))
    return {"n": values.size, "mean": values.mean(), "std": std, "median": median, "q25": q25, "q75": q75}


def regions_of(scored: Sequence[Scored]) -> list[str]:
    """Those that any case has, in this order: WT, TC, ET, RC, tumour and its types."""
    return [r for r in (*REGIONS, *CAVITY, *TUMOUR, *TYPES) if any(r in s.scores for s in scored)]


def metrics_of(scored: Sequence[Scored]) -> list[str]:
    """Those that any case has, in this order: METRICS, DISTANCES, LESIONS."""
    there = {metric for one in scored for of in one.scores.values() for metric in of}
    return [metric for metric in (*METRICS, *DISTANCES, *LESIONS) if metric in there]


def groups_of(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    """The cases by tumour grade or type, sorted; empty where there are not two groups to compare."""
    names = sorted({one.group for one in scored if one.group})
    return {n: [one for one in scored if one.group == n] for n in names} if len(names) > 1 else {}


def legend_of(scored: Sequence[Scored]) -> list[tuple[str, tuple[int, int, int]]]:
    """(name, RGB) of each colour in the pictures of these cases."""
    regions, legend = regions_of(scored), []
    if "WT" in regions:
        legend += [of for label, of in pictures.LABELS.items() if label != 4 or "RC" in regions]
    if "tumour" in regions:
        types = [pictures.TYPES[label] for name, (label,) in TYPES.items() if name in regions]
        legend += types or pictures.TUMOUR.values()
    return legend


def render(contents: Contents) -> str:
    """The page, complete in itself."""
    scored = sorted(contents.scored, key=lambda s: (mean_dice(s.scores), s.case_id))
    regions, known = regions_of(scored), metrics_of(scored)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["uri"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    environment.filters["score"] = lambda value, digits=3: "–" if np.isnan(value) else f"{value:.{digits}f}"
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(
        c=contents,
        scored=scored,
        regions=regions,
        parts=[part for part in (METRICS, DISTANCES, LESIONS) if set(part) <= set(known)],
        titles=TITLES,
        summary={r: {m: summarise(scored, r, m) for m in known} for r in regions},
        groups={
            name: {r: summarise(cases, r, "dice") for r in regions_of(cases)}
            for name, cases in groups_of(scored).items()
        },
        legend=legend_of([picture.scored for picture in contents.pictures]),
        mean=mean_dice,
    )
