"""Scores of many cases → one self-contained HTML page: tables, charts, pictures of the best and worst cases.

Nothing is loaded from anywhere: style and pictures are inside, and so is the one script, which sorts and
filters the table of cases; a browser runs no other (the page's policy names its hash). Every text from
outside (case names, errors, URIs) is escaped. The page itself is templates/report.html, a jinja2 template.
"""

import base64
import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import jinja2
import markupsafe
import numpy as np

from bts.colours import TUMOUR_COLOURS, TYPE_COLOURS, Colours, colours_of
from bts.errors import Failure
from bts.labels import TYPES
from bts.report import charts
from bts.report.curves import draw_classes
from bts.scoring import statistics
from bts.scoring.metrics import PARTS, mean_dice
from bts.scoring.rules import SAID
from bts.scoring.scores import (
    BRIEF,
    REGION_TITLES,
    TITLES,
    Scored,
    column,
    groups_of,
    interval,
    metrics_of,
    regions_of,
    summarise,
    years_of,
)

PAGES = Path(__file__).with_name("templates")
WORST = 12  # cases shown by pictures
KINDS = {b"\x89PNG": "png", b"GIF8": "gif", b"\xff\xd8\xff": "jpeg", b"<?xml": "svg+xml"}  # by first bytes

_BOX = ": a point is a case, the box holds the middle half of them, its line is the median"
CHART_NOTES = {
    "Dice by region": _BOX,
    f"{TITLES['hd95']} by region": _BOX,
    "Dice against volume": f": a point is a case; regions below {charts.LOWEST_ML} ml, also empty ones, "
    "stand at the left edge",
    "Dice against what the model expected": ": a point is a case, on the line it got what the model expected "
    "without the ground truth",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """One case as the reader shall see it."""

    title: str
    scored: Scored
    slice: int
    """z of the axial slice, canonical; of figshare the slice's number in the set."""
    panels: dict[str, bytes]
    """PNG by caption, left to right."""
    turning: bytes = b""
    """GIF of truth beside prediction; empty where there are no images on the truth's grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """All that the page says."""

    title: str
    when: str
    labelmaps: str
    cases: str
    scored: Sequence[Scored]
    failed: Sequence[Failure]
    without_labelmap: Sequence[str]
    held: Sequence[str] = ()
    """Those of them that are held for review."""
    without_truth: Sequence[str]
    pictures: Sequence[Picture]
    comparisons: Mapping[str, Mapping[tuple[str, str], statistics.Paired]] = field(default_factory=dict)
    """Other folder → (region, metric) → these labelmaps against its own."""
    ranking: Mapping[str, float] = field(default_factory=dict)
    """Folder → mean rank, the best first; empty for fewer than three folders."""
    worst: Sequence[tuple[Scored, bytes]] = ()
    """The worst cases, each with truth beside prediction as JPEG."""
    colours: Colours = "field"


def choose(scored: Sequence[Scored]) -> dict[str, Scored]:
    """The best, the median and the worst case by mean Dice; fewer where there are fewer."""
    ranked = _ranked(scored)
    if len(ranked) == 1:
        return {"Only case": ranked[0]}
    places = {"Best case": -1, "Median case": (len(ranked) - 1) // 2, "Worst case": 0}
    if len(ranked) == 2:
        del places["Median case"]
    return {title: ranked[place] for title, place in places.items() if ranked}


def worst(scored: Sequence[Scored]) -> list[Scored]:
    """The lowest by mean Dice, the very lowest first."""
    return _ranked(scored)[:WORST]


def legend_of(scored: Sequence[Scored], colours: Colours = "field") -> list[tuple[str, tuple[int, int, int]]]:
    """(name, RGB) of each colour in the pictures of these cases."""
    regions, legend = regions_of(scored), []
    if {"WT", "GTV"} & set(regions):
        labels = colours_of("", colours)
        legend += [of for label, of in labels.items() if label != 4 or "RC" in regions]
    if "tumour" in regions:
        types = [TYPE_COLOURS[label] for name, (label,) in TYPES.items() if name in regions]
        legend += types or TUMOUR_COLOURS.values()
    return legend


def render(contents: Contents) -> str:
    """The page, complete in itself."""
    scored = _ranked(contents.scored)
    regions, known = regions_of(scored), metrics_of(scored)
    script = (PAGES / "cases.js").read_text("utf-8")
    page = environment().get_template("report.html")
    return page.render(
        c=contents,
        scored=scored,
        regions=regions,
        known=known,
        script=markupsafe.Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        charts=draw_charts(scored),
        chart_notes=CHART_NOTES,
        makers=Counter(one.maker for one in scored),
        flagged=any(one.flags for one in scored),
        parts=[part for of in PARTS if (part := [metric for metric in of if metric in known])],
        rules={year: SAID[year] for year in years_of(scored)},
        titles=TITLES,
        region_titles=REGION_TITLES,
        brief={"dice": "Dice", **BRIEF},
        # In the order of the contents, as the terminal: the bootstrap depends on it.
        summary={r: {m: _of_page(contents.scored, r, m) for m in known} for r in regions},
        groups={
            title: {
                name: {r: _of_page(cases, r, "dice") for r in regions_of(cases)}
                for name, cases in groups_of(contents.scored, part).items()
            }
            for part, title in {"group": "tumour grade or type", "dataset": "dataset"}.items()
        },
        legend=legend_of(scored, contents.colours),
        mean=mean_dice,
    )


def draw_charts(scored: Sequence[Scored]) -> dict[str, bytes]:
    """SVG or PNG by caption; a chart is left out where there is nothing to show."""
    regions = regions_of(scored)
    found: dict[str, bytes] = {}
    if len(scored) < 2:
        return found
    for metric, title in (("dice", "Dice"), ("hd95", TITLES["hd95"])):
        values = {region: column(scored, region, metric) for region in regions}
        if values := {region: of for region, of in values.items() if of.size}:
            spread = charts.draw_spread(values, title, share=metric == "dice")
            found[f"{title} by region"] = spread
    if of_volume := _against(scored, regions, "truth_ml"):
        found["Dice against volume"] = charts.draw_volumes(of_volume)
    if of_expected := _against(scored, regions, "expected"):
        found["Dice against what the model expected"] = charts.draw_expected(of_expected)
    if groups := groups_of(scored):
        found["Cases by group"] = draw_classes({name: {"cases": len(of)} for name, of in groups.items()})
    return found


@functools.cache
def environment() -> jinja2.Environment:
    """Of the templates in templates/: escaping, and the filters that they use."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES, encoding="utf-8"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters["uri"] = data_uri
    found.filters["quoted"] = functools.partial(quote, safe="", errors="surrogateescape")
    found.filters["score"] = lambda value, digits=3: "–" if np.isnan(value) else f"{value:.{digits}f}"
    found.tests["known"] = lambda value: not np.isnan(value)
    return found


def data_uri(picture: bytes) -> str:
    """A PNG, JPEG, GIF or SVG file as the source of an <img>."""
    kind = next(kind for start, kind in KINDS.items() if picture.startswith(start))
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _ranked(scored: Sequence[Scored]) -> list[Scored]:
    """By mean Dice, the lowest first, and by name."""
    return sorted(scored, key=lambda s: (mean_dice(s.scores), s.case_id))


def _against(scored: Sequence[Scored], regions: Sequence[str], what: str) -> dict[str, np.ndarray]:
    """(N, 2) of what is known of a case and its Dice, by region; regions of which nothing is are left out."""
    found = {}
    for region in regions:
        known = [s for s in scored if region in getattr(s, what) and region in s.scores]
        if known:
            found[region] = np.array([(getattr(s, what)[region], s.scores[region]["dice"]) for s in known])
    return found


def _of_page(scored: Sequence[Scored], region: str, metric: str) -> dict[str, float]:
    low, high = interval(scored, region, metric)
    return {**summarise(scored, region, metric), "low": low, "high": high}
