"""The tasks that draw pictures of few cases for a report, once all are scored."""

import json
from collections.abc import Mapping

import numpy as np

from bts.cases import figshare
from bts.cases.read import load_case
from bts.colours import Colours, Legend, colours_of
from bts.errors import CaseError
from bts.report import gallery, rotation, slices
from bts.results.match import Labels, Pair, read_images, read_pair
from bts.storage import Store

NOTHING = {"slice": 0, "captions": [], "panels": [], "turning": b"", "pair": b""}


class Draw:
    """Pair → its pictures; none if a file has gone bad since it was scored."""

    def __init__(self, cases: Store, labelmaps: Store, colours: Colours):
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
        legend = colours_of(found.convention, self.colours)
        sides = "RL" if placed else ""
        panels, turned = {}, b""
        if row["large"]:
            panels, turned = slices.draw(*seen, legend=legend, sides=sides), self.turn(pair, found, legend)
        return {
            "case_id": pair.case.id,
            "slice": z if placed else figshare.number(list(pair.case.files)[z]),
            "captions": list(panels),
            "panels": list(panels.values()),
            "turning": turned,
            "pair": slices.draw_pair(*seen, legend=legend, sides=sides),
        }

    def turn(self, pair: Pair, found: Labels, legend: Legend) -> bytes:
        """The GIF, or nothing where the case has no images on the truth's grid, which its hull is made of."""
        try:
            volume = load_case(pair.case, self.cases, truth=False)
        except CaseError:
            return b""
        if not volume.grid.same_place(found.grid):
            return b""
        return rotation.draw(volume, found.truth[volume.box], found.prediction[volume.box], legend)


class DrawSide:
    """Pairs of one case by folder → PNG of its fullest slice; without it where a labelmap cannot be read."""

    def __init__(self, cases: Store, folders: Mapping[str, Store], colours: Colours):
        self.cases, self.folders, self.colours = cases, folders, colours

    def __call__(self, row: dict) -> dict:
        pairs = {name: Pair.from_row(pair) for name, pair in json.loads(row["pairs"]).items()}
        case = next(iter(pairs.values())).case
        try:
            volume, said, convention = load_case(case, self.cases), {}, ""
            for name, pair in pairs.items():
                found = read_pair(pair, self.cases, self.folders[name])
                said[name], convention = np.ascontiguousarray(found.prediction[volume.box]), found.convention
        except CaseError:
            return {"case_id": case.id, "png": b""}
        return {"case_id": case.id, "png": gallery.grid(volume, said, convention, self.colours)}
