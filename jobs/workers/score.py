"""The task of jobs.evaluate that every case goes through: score it, write its page.

Not a command. Here is no torch: a worker that only scores is up in a second.
"""

import json

from bts.colours import Colours
from bts.labels import regions_of
from bts.report import case_page, slices
from bts.results.match import Labels, Pair, read_images, read_pair
from bts.scoring import metrics
from bts.scoring.rules import rules_of
from bts.scoring.scores import Scored
from bts.storage import Store


class Score:
    """Pair → its scores and what else is known of it as JSON; and its page. Raises CaseError, RunError."""

    def __init__(
        self, cases: Store, labelmaps: Store, pages: Store | None = None, colours: Colours = "field"
    ):
        """pages: the report beside which each case gets its page; None for no pages."""
        self.cases, self.labelmaps, self.pages, self.colours = cases, labelmaps, pages, colours

    def __call__(self, row: dict) -> dict:
        pair = Pair.from_row(row)
        found = read_pair(pair, self.cases, self.labelmaps)
        scores, about = _measure(pair, found), self._about(pair, found)
        if self.pages:
            self._write_page(self.pages, pair, found, scored_of(pair, scores, about))
        return {"scores": json.dumps(scores), "about": json.dumps(about)}

    def _about(self, pair: Pair, found: Labels) -> dict:
        known = pair.case.traits.spaced
        regions = rules_of(pair.case.dataset, pair.rules).regions if known else {}
        volumes = metrics.volumes_ml(found.truth, regions, found.grid.zooms)
        page = self.colours if self.pages else ""
        said = {"maker": found.maker, "flags": found.flags, "expected": found.expected}
        return {**said, "truth_ml": volumes, "page": page}

    def _write_page(self, pages: Store, pair: Pair, found: Labels, scored: Scored) -> None:
        images = dict(read_images(pair.case, self.cases, found.grid, slices.BACKGROUNDS))
        places = (self.labelmaps.uri, self.cases.uri)
        page = case_page.render(scored, pair, found, images, places=places, colours=self.colours)
        pages.put(case_page.key(pair.case.id), page)


def scored_of(pair: Pair, scores: dict, about: dict) -> Scored:
    """Scores and what else is known, as the report takes them."""
    case = pair.case
    known = {name: about[name] for name in ("maker", "flags", "truth_ml")}
    known["expected"] = about.get("expected", {})  # older scores have none
    return Scored(case.id, case.group, case.dataset, scores, case.patient, rules=pair.rules, **known)


def _measure(pair: Pair, found: Labels) -> dict[str, dict[str, float]]:
    sides = found.truth, found.prediction
    if not pair.case.traits.spaced:
        return metrics.score(*sides, *regions_of(found.convention))
    rules = rules_of(pair.case.dataset, pair.rules)
    return metrics.measure(*sides, rules.regions, rules.where_present, spacing=found.grid.zooms, rules=rules)
