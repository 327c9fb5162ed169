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

from bts.metrics import CAVITY, METRICS, REGIONS, mean_dice
from bts.pictures import LABELS

TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True, slots=True)
class Scored:
    """One scored case."""

    case_id: str
    group: str
    dataset: str
    scores: dict[str, dict[str, float]]
    """{region: {metric: value}}, as bts.metrics.score gives it."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One case as the reader shall see it."""

    title: str
    scored: Scored
    slice: int
    """z of the axial slice, canonical."""
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
    """n, mean, sample standard deviation (NaN for one case) and median over the cases with that region."""
    values = np.array([s.scores[region][metric] for s in scored if region in s.scores])
    std = values.std(ddof=1) if values.size > 1 else np.nan
    return {"n": values.size, "mean": values.mean(), "std": std, "median": np.median(values)}


def regions_of(scored: Sequence[Scored]) -> list[str]:
    """WT, TC, ET, and RC where any case has it."""
    return [r for r in (*REGIONS, *CAVITY) if any(r in s.scores for s in scored)]


def render(contents: Contents) -> str:
    """The page, complete in itself."""
    scored = sorted(contents.scored, key=lambda s: (mean_dice(s.scores), s.case_id))
    regions = regions_of(scored)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["uri"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    environment.filters["score"] = lambda value, digits=3: "–" if np.isnan(value) else f"{value:.{digits}f}"
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(
        c=contents,
        scored=scored,
        regions=regions,
        metrics=METRICS,
        summary={r: {m: summarise(scored, r, m) for m in METRICS} for r in regions},
        legend=[of for label, of in LABELS.items() if label != 4 or "RC" in regions],
        mean=mean_dice,
    )
