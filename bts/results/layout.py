"""Where the results of a case lie in a folder of labelmaps.

`CASE.nii.gz`, and of slices `masks/CASE/NUMBER.png`; `_done/CASE.FINGERPRINT.json` vouches for them, written
last. On request also `_probabilities/CASE.TARGET.nii.gz`. Flagged results may wait in `_held/` for review.
"""

import re
from collections.abc import Iterable, Set

from bts.cases import figshare, worklist
from bts.cases.case import Case, CaseVolume
from bts.cases.read import reader_of
from bts.labels import WRITTEN_AS, can_be_written

LABELMAP = re.compile(r"(?P<case>[^/.][^/]*?)([-_]seg)?\.nii(\.gz)?", re.IGNORECASE)  # another tool's too
MARKER = re.compile(r"_done/(?P<case>[^/]+)\.[^./]+\.json")
RESULT = re.compile(
    r"(_held/)?((?P<case>[^/]+)\.nii\.gz|masks/(?P<masked>[^/]+)/\d+\.png"
    r"|_probabilities/(?P<of>[^/]+)\.[A-Za-z]+\.nii\.gz)",
    re.DOTALL,
)


def convention_of(case: Case | CaseVolume, asked: str, targets: str) -> str:
    """The convention to write a case's labelmap in; a model for figshare tells it, not --labels."""
    if targets in WRITTEN_AS:
        return WRITTEN_AS[targets]
    if asked != "auto":
        return asked
    # A truth of one tumour volume (MEN-RT) has no value for oedema.
    return case.labels if case.labels and can_be_written(case.labels) else "brats2023"


def versions_of(case: Case) -> dict[str, str]:
    """Role → version of the files that a labelmap of the case would now be made from."""
    return {role: case.files[role].version for role in reader_of(case).inputs(case)}


def labelmap_key(case_id: str) -> str:
    """Where a labelmap lies that nobody has to review."""
    return f"{case_id}.nii.gz"


def marker_key(case_id: str, fingerprint: str) -> str:
    """Where the marker lies that vouches for it; `MARKER` matches it."""
    return f"_done/{case_id}.{fingerprint}.json"


def marked_cases(keys: Iterable[str]) -> set[str]:
    """Ids of the cases that have a marker among a folder's keys."""
    return {named["case"] for named in map(MARKER.fullmatch, keys) if named}


def left_to_do(
    wanted: Iterable[tuple[Case, str]], there: Set[str], void: Set[str], retries: int
) -> worklist.Work:
    """`worklist.plan` of results that a marker vouches for, in a folder with the keys `there`.

    void: keys of markers that do not count, because a result that they vouch for is gone.
    """
    known = (key for key in there - void if key.startswith(("_done/", "_failed/")))
    return worklist.plan(wanted, known, ".json", retries, one_place=True)


def probability_key(case_id: str, target: str) -> str:
    """Where the probabilities of a target lie."""
    return f"_probabilities/{case_id}.{target}.nii.gz"


def held(key: str) -> str:
    """Where a flagged result waits for review instead."""
    return f"_held/{key}"


def result_keys(case: Case) -> list[str]:
    """The labelmap, and of figshare the mask of each slice: what there must be for a case to be done."""
    numbered = case.files if case.traits.reader == "slices" else ()
    masks = [f"masks/{case.id}/{figshare.number(key)}.png" for key in numbered]
    return [labelmap_key(case.id), *masks]


def results_of(keys: Iterable[str]) -> dict[str, set[str]]:
    """Case id → keys of its results in a listing, those that wait for review too."""
    found: dict[str, set[str]] = {}
    for key in keys:
        if not key.startswith("_done/") and (named := RESULT.fullmatch(key)):
            found.setdefault(named["case"] or named["masked"] or named["of"], set()).add(key)
    return found


def whole(case: Case, present: Set[str], targets: Iterable[str] = ()) -> bool:
    """Whether all results of a case are there, in their place or waiting for review, and beside them the
    probabilities of all targets that are asked for."""
    there = all(key in present or held(key) in present for key in result_keys(case))
    return there and all(probability_key(case.id, target) in present for target in targets)
