"""Several folders of labelmaps of the same cases, side by side: what `jobs.evaluate --against` adds.

Not a command; the figures beside these pictures are bts.scoring.comparison's. Bars of each region's Dice and
IoU by folder, over the cases that every folder has, and of a few cases one slice with the truth and each
folder's answer.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import ray

from bts.cases.read import load_case
from bts.errors import CaseError, UsageError
from bts.report import gallery
from bts.report.curves import draw_bars
from bts.report.page import Scored, choose, means
from bts.report.slices import Colours
from bts.results.match import Pair, read_pair
from bts.storage import Store
from jobs.driver import common

SHOWN = ("dice", "iou")


def name_folders(folders: Sequence[Store]) -> dict[str, Store]:
    """Each folder by the last part of its URI. Raises UsageError where two are called the same."""
    named = {folder.uri.rstrip("/").rpartition("/")[2]: folder for folder in folders}
    if len(named) < len(folders):
        raise UsageError("--against: two folders have the same name; their last parts tell them apart")
    return named


class Grid:
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


def draw(
    scored: Mapping[str, Sequence[Scored]], pairs: Mapping[str, Sequence[Pair]], drawer: Grid
) -> dict[str, bytes]:
    """PNG by file name: comparison.png and comparison-CASE.png of the best, the median and the worst case.

    scored, pairs: by folder, the first one ranks the cases. Raises UsageError if they share no scored case.
    """
    shared = set.intersection(*({one.case_id for one in of} for of in scored.values()))
    if not shared:
        raise UsageError(f"--against: no case was scored in all of {', '.join(scored)}")
    same = {name: [one for one in of if one.case_id in shared] for name, of in scored.items()}
    found = {"comparison.png": draw_bars({name: means(of, SHOWN) for name, of in same.items()})}
    chosen = {one.case_id: {} for one in choose(same[next(iter(same))]).values()}
    for name, of in pairs.items():
        for pair in of:
            if pair.case.id in chosen:
                chosen[pair.case.id][name] = pair.to_row()
    common.start_ray()
    rows = [{"pairs": json.dumps(of)} for of in chosen.values()]
    grids = ray.data.from_items(rows, override_num_blocks=len(rows)).map(drawer.__call__)
    return found | {f"comparison-{r['case_id']}.png": r["png"] for r in grids.iter_rows() if r["png"]}
