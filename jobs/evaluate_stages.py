"""The tasks of jobs.evaluate: score a case, draw a case.

Not a command.
"""

import json

from bts import figshare, lesions, metrics, pictures
from bts.errors import CaseError
from bts.pairs import Pair, made_by, read_images, read_pair
from bts.storage import Store
from jobs import common


class Score:
    """Pair → its scores as JSON and the maker of its labelmap, or its failure."""

    def __init__(self, cases: Store, labelmaps: Store):
        self.cases, self.labelmaps = cases, labelmaps

    def __call__(self, row: dict) -> dict:
        pair = Pair.from_row(row)
        try:
            truth, prediction, grid, convention = read_pair(pair, self.cases, self.labelmaps)
        except CaseError as error:
            failure = json.dumps(common.failure(pair.case.id, error))
            return {"case_id": pair.case.id, "scores": "", "maker": "", "failure": failure}
        regions = metrics.regions_of(convention)
        if pictures.knows_place(pair.case.dataset):
            rules = lesions.RULES.get(pair.case.dataset, lesions.GLIOMA)
            scores = metrics.measure(truth, prediction, *regions, spacing=grid.zooms, rules=rules)
        else:
            scores = metrics.score(truth, prediction, *regions)
        maker = made_by(pair, self.labelmaps)
        return {"case_id": pair.case.id, "scores": json.dumps(scores), "maker": maker, "failure": ""}


class Draw:
    """Pair → PNG panels of its fullest slice; without panels if a file has gone bad since scoring."""

    def __init__(self, cases: Store, labelmaps: Store):
        self.cases, self.labelmaps = cases, labelmaps

    def __call__(self, row: dict) -> dict:
        pair = Pair.from_row(row)
        try:
            truth, prediction, grid, convention = read_pair(pair, self.cases, self.labelmaps)
        except CaseError:
            return {"case_id": pair.case.id, "z": 0, "captions": [], "panels": []}
        z = pictures.fullest_slice(truth, prediction)
        images = read_images(pair.case, self.cases, grid, pictures.BACKGROUNDS)
        slices = {name: image[z] for name, image in images}
        placed = pictures.knows_place(pair.case.dataset)
        legend = pictures.LEGENDS.get(convention, pictures.LABELS)
        panels = pictures.draw(truth[z], prediction[z], slices, grid.zooms[1:], legend=legend, sides=placed)
        shown = z if placed else figshare.number(list(pair.case.files)[z])
        columns = {"captions": list(panels), "panels": list(panels.values())}
        return {"case_id": pair.case.id, "z": shown, **columns}
