"""One scored case → its own HTML page: three planes with truth and prediction, every score, what made it.

Complete in itself, like the report that links to it: no script, nothing loaded. The page is
templates/case.html.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from bts.cases import figshare
from bts.colours import Colours, colours_of
from bts.report import slices
from bts.report.page import environment
from bts.results.marker import Marker
from bts.results.match import Labels, Pair
from bts.scoring.scores import REGION_TITLES, TITLES, Scored, metrics_of

SIDES = {
    "axial": "R is the patient’s right",
    "coronal": "R is the patient’s right",
    "sagittal": "A is the front",
}


def key(case_id: str) -> str:
    """Of a case's page, beside the report."""
    return f"cases/{case_id}.html"


def render(
    scored: Scored,
    pair: Pair,
    labels: Labels,
    images: Mapping[str, np.ndarray],
    *,
    places: Sequence[str],
    colours: Colours,
) -> bytes:
    """The page. images: those of slices.BACKGROUNDS that there are, (D, H, W) of any dtype; places: the
    URIs of the labelmaps and of the cases.
    """
    legend = colours_of(labels.convention, colours)
    occur = {int(label) for found in (labels.truth, labels.prediction) for label in slices.present(found)}
    planes = slices.draw_planes(
        labels.truth,
        labels.prediction,
        images,
        labels.grid.zooms,
        legend=legend,
        placed=pair.case.traits.placed,
    )
    if not pair.case.traits.placed:
        at, panels = planes["slice"]
        planes = {"slice": (figshare.number(list(pair.case.files)[at]), panels)}
    page = environment().get_template("case.html")
    html = page.render(
        s=scored,
        titles=TITLES,
        regions=list(scored.scores),
        region_titles=REGION_TITLES,
        known=metrics_of([scored]),
        planes=planes,
        sides=SIDES,
        legend=[of for label, of in legend.items() if label in occur],
        colours=colours,
        provenance=_provenance(pair, labels, places),
    )
    return html.encode(errors="backslashreplace")


def _provenance(pair: Pair, labels: Labels, places: Sequence[str]) -> dict[str, str]:
    """What the page says of where its labels come from."""
    folder, cases = places
    shape = "×".join(map(str, labels.grid.source_shape))
    spacing = "×".join(f"{mm:g}" for mm in reversed(labels.grid.zooms))
    grid = f"{shape} voxels of {spacing} mm, {labels.grid.orientation}"
    truth = pair.case.files.get("seg")
    (marker,) = labels.markers if len(labels.markers) == 1 else (Marker(),)
    return {
        "Labelmap": f"{folder}/{pair.labelmap} ({pair.version})",
        "Ground truth": f"{cases}/{truth.key} ({truth.version})" if truth else f"in the slices of {cases}",
        "Grid": grid if pair.case.traits.spaced else f"{shape} pixels and slices, of no known size",
        "Labels": labels.convention,
        "Models": ", ".join(f"{one.get('name', '')} {one.get('digest', '')}" for one in marker.models),
        "Options": ", ".join(f"{name} {on}" for name, on in marker.options.items()),
        "Versions": ", ".join(f"{name} {of}" for name, of in marker.versions.items()),
        "Written": marker.written,
    }
