"""Pictures of a report: which cases, drawn by tasks, put together.

Of one folder of labelmaps the best, the median and the worst case, and many of the worst in a montage. Of
several (`--against`), bars of each region's Dice and IoU by folder, over the cases that every folder has, and
of a few cases one slice with the truth and each folder's answer; the figures beside them are
bts.scoring.comparison's.
"""

import json
import re
from collections.abc import Container, Mapping, Sequence

from bts.colours import Colours
from bts.errors import UsageError
from bts.report import gallery, page
from bts.report.curves import draw_bars
from bts.report.page import Picture, choose
from bts.results.match import Pair
from bts.scoring.scores import Scored, means
from bts.storage import Store
from jobs.driver.here import UseRay, in_tasks
from jobs.workers.draw import Draw, DrawSide

DRAWING = "drawing pictures"  # for the message where that kills its workers
SHOWN = ("dice", "iou")
SOMETIMES = re.compile(r"cases/.+\.html|montage\.png|brats\.csv|comparison(\.csv|(-.+)?\.png)")
"""Files that not every report of a folder has."""


def draw_cases(
    scored: Sequence[Scored], pairs: Sequence[Pair], drawer: Draw, ray: UseRay
) -> tuple[list[Picture], list[tuple[Scored, bytes]]]:
    """(best, median and worst case, large; many of the worst, small), made in tasks."""
    chosen, worst = page.choose(scored), page.worst(scored)
    large = {one.case_id for one in chosen.values()}
    wanted = large | {one.case_id for one in worst}
    rows = [{**pair.to_row(), "large": pair.case.id in large} for pair in pairs if pair.case.id in wanted]
    if not rows:
        return [], []
    found = {row["case_id"]: row for row in in_tasks(rows, drawer, ray, DRAWING)}
    shown = []
    for title, one in chosen.items():
        row = found[one.case_id]
        if row["panels"]:
            panels = dict(zip(row["captions"], row["panels"], strict=True))
            shown.append(Picture(title, one, row["slice"], panels, row["turning"]))
    return shown, [(one, found[one.case_id]["pair"]) for one in worst if found[one.case_id]["pair"]]


def montage(worst: Sequence[tuple[Scored, bytes]], colours: Colours) -> bytes:
    """The worst cases in one picture, as PNG: truth at the left, prediction at the right."""
    captions = {}
    for one, picture in worst:
        dice = " ".join(f"{region} {of['dice']:.2f}" for region, of in one.scores.items())
        captions[f"{one.case_id}  {dice}"] = picture
    legend = dict(enumerate(page.legend_of([one for one, _ in worst], colours)))
    return gallery.montage(captions, "Worst cases by mean Dice: truth, prediction", legend)


def write_files(output: Store, files: Mapping[str, bytes], pages: Container[str]) -> None:
    """Put the files of a report. What an earlier one left of cases and comparisons that this one has not
    goes: beside the new page it would pass for its own. `pages`: keys of the pages of its cases."""
    for name, data in files.items():
        output.put(name, data)
    for key in filter(SOMETIMES.fullmatch, output.keys()):
        if key not in files and key not in pages:
            output.delete(key)


def name_folders(folders: Sequence[Store]) -> dict[str, Store]:
    """Each folder by the last part of its URI. Raises UsageError where two are called the same."""
    named = {folder.uri.rstrip("/").rpartition("/")[2]: folder for folder in folders}
    if len(named) < len(folders):
        raise UsageError("--against: two folders have the same name; their last parts tell them apart")
    return named


def draw_comparison(
    scored: Mapping[str, Sequence[Scored]],
    pairs: Mapping[str, Sequence[Pair]],
    drawer: DrawSide,
    ray: UseRay,
) -> dict[str, bytes]:
    """PNG by file name: comparison.png and comparison-CASE.png of the best, the median and the worst case.

    scored, pairs: by folder, the first one ranks the cases. Raises UsageError if they share no scored case.
    """
    shared = set.intersection(*({one.case_id for one in of} for of in scored.values()))
    if not shared:
        raise UsageError(f"--against: no case was scored in all of {', '.join(scored)}")
    same = {name: [one for one in of if one.case_id in shared] for name, of in scored.items()}
    found = {"comparison.png": draw_bars({name: means(of, SHOWN) for name, of in same.items()})}
    chosen: dict[str, dict[str, dict]] = {one.case_id: {} for one in choose(same[next(iter(same))]).values()}
    for name, of in pairs.items():
        for pair in of:
            if pair.case.id in chosen:
                chosen[pair.case.id][name] = pair.to_row()
    rows = [{"pairs": json.dumps(of)} for of in chosen.values()]
    grids = in_tasks(rows, drawer, ray, DRAWING)
    return found | {f"comparison-{r['case_id']}.png": r["png"] for r in grids if r["png"]}
