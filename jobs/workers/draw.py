"""Pictures of a report: of few cases, chosen when all are scored. Not a command."""

from collections.abc import Sequence

import ray

from bts.cases import figshare
from bts.cases.read import load_case
from bts.errors import CaseError
from bts.report import gallery, page, rotation, slices
from bts.report.page import Picture, Scored
from bts.results.match import Labels, Pair, read_images, read_pair
from bts.storage import Store
from jobs.driver import common

NOTHING = {"slice": 0, "captions": [], "panels": [], "turning": b"", "pair": b""}


class Draw:
    """Pair → its pictures; none if a file has gone bad since it was scored."""

    def __init__(self, cases: Store, labelmaps: Store, colours: slices.Colours):
        self.cases, self.labelmaps, self.colours = cases, labelmaps, colours

    def __call__(self, row: dict) -> dict:
        pair = Pair.from_row(row)
        try:
            found = read_pair(pair, self.cases, self.labelmaps)
        except CaseError:
            return {"case_id": pair.case.id, **NOTHING}
        z = slices.fullest_slice(found.truth, found.prediction)
        images = read_images(pair.case, self.cases, found.grid, slices.BACKGROUNDS)
        placed = pair.case.traits.placed
        seen = found.truth[z], found.prediction[z], {n: image[z] for n, image in images}, found.grid.zooms[1:]
        legend = slices.legend_of(found.convention, self.colours)
        how = {"legend": legend, "sides": "RL" if placed else ""}
        panels, turned = {}, b""
        if row["large"]:
            panels, turned = slices.draw(*seen, **how), self.turn(pair, found, legend)
        return {
            "case_id": pair.case.id,
            "slice": z if placed else figshare.number(list(pair.case.files)[z]),
            "captions": list(panels),
            "panels": list(panels.values()),
            "turning": turned,
            "pair": slices.draw_pair(*seen, **how),
        }

    def turn(self, pair: Pair, found: Labels, legend: slices.Legend) -> bytes:
        """The GIF, or nothing where the case has no images on the truth's grid, which its hull is made of."""
        try:
            volume = load_case(pair.case, self.cases, truth=False)
        except CaseError:
            return b""
        if not volume.grid.same_place(found.grid):
            return b""
        return rotation.draw(volume, found.truth[volume.box], found.prediction[volume.box], legend)


def draw(
    scored: Sequence[Scored], pairs: Sequence[Pair], drawer: Draw
) -> tuple[list[Picture], list[tuple[Scored, bytes]]]:
    """(best, median and worst case, large; many of the worst, small), made in tasks."""
    chosen, worst = page.choose(scored), page.worst(scored)
    large = {one.case_id for one in chosen.values()}
    wanted = large | {one.case_id for one in worst}
    rows = [{**pair.to_row(), "large": pair.case.id in large} for pair in pairs if pair.case.id in wanted]
    if not rows:
        return [], []
    common.start_ray()
    drawn = ray.data.from_items(rows, override_num_blocks=len(rows)).map(drawer.__call__)
    found = {row["case_id"]: row for row in drawn.iter_rows()}
    shown = []
    for title, one in chosen.items():
        row = found[one.case_id]
        if row["panels"]:
            panels = dict(zip(row["captions"], row["panels"], strict=True))
            shown.append(Picture(title, one, row["slice"], panels, row["turning"]))
    return shown, [(one, found[one.case_id]["pair"]) for one in worst if found[one.case_id]["pair"]]


def montage(worst: Sequence[tuple[Scored, bytes]], colours: slices.Colours) -> bytes:
    """The worst cases in one picture, as PNG: truth at the left, prediction at the right."""
    captions = {}
    for one, picture in worst:
        dice = " ".join(f"{region} {of['dice']:.2f}" for region, of in one.scores.items())
        captions[f"{one.case_id}  {dice}"] = picture
    legend = dict(enumerate(page.legend_of([one for one, _ in worst], colours)))
    return gallery.montage(captions, "Worst cases by mean Dice: truth, prediction", legend)
