"""Labelmaps → back on the scanner's grid, as NIfTI and as DICOM SEG that refers to the source series.

For cases that jobs.intake made, by the matrices of their records. Only what is new or changed is done. A
DICOM SEG carries the identity of its scans, for it goes where they came from.

    python -m jobs.deliver --labelmaps data/labelmaps --cases data/cases --results data/results --dicom-seg
    ray job submit --working-dir . -- python -m jobs.deliver --labelmaps s3://b/labelmaps \\
        --cases s3://b/cases --results s3://b/results
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any, Literal, get_args

from bts.cases import worklist
from bts.cases.case import Case
from bts.cases.layouts import Listing
from bts.cases.said import list_folder
from bts.errors import UsageError
from bts.intake import tools
from bts.intake.identity import read_identity
from bts.intake.index import series_files
from bts.plain_json import parse
from bts.results.labelmap_names import by_case
from bts.results.layout import MARKER, RESULT, left_to_do, marker_key
from bts.storage import Entry, Store
from jobs.driver import incremental
from jobs.driver.outcome import Outcome, run_job
from jobs.driver.pipeline import Stage, stream
from jobs.driver.progress import counted, say
from jobs.workers.deliver import FORMAT, Deliver, mark_of, native_key, seg_key

Space = Literal["t1ce", "t1", "t2", "flair"]
SPACES = get_args(Space)
NOT_ASKED: dict[str, Any] = {"uri": "", "keys": [], "problem": "", "nifti": False}
"""Where the files of a series lie, and their keys there, or the problem; nifti: it did not come as DICOM."""


@dataclass(frozen=True)
class Settings(incremental.Flags):
    """Flags of jobs.deliver."""

    labelmaps: str
    """Folder or s3://bucket/prefix with the labelmaps of jobs.segment."""
    cases: str
    """Folder or s3://bucket/prefix with the cases of jobs.intake, and their records."""
    results: str
    """Folder or s3://bucket/prefix for what goes back to the scanner's side."""
    space: Space = "t1ce"
    """The series whose grid the labels are put on."""
    dicom_seg: bool = False
    """Also write a DICOM SEG; the scans must still lie where jobs.intake found them. A study that came as
    NIfTI gets its NIfTI and counts as failed, for no DICOM SEG can refer to it."""
    scans: str | None = None
    """Where the scans lie now, if not there."""


def main(settings: Settings) -> Outcome:
    settings.check()
    labelmaps, cases, output = Store(settings.labelmaps), Store(settings.cases), Store(settings.results)
    for name in ("SimpleITK", *(("pydicom", "highdicom") if settings.dicom_seg else ())):
        tools.load(name)
    there = output.keys()
    found, waiting = list_cases(labelmaps, cases)
    listing = Listing(found)
    if not listing.cases and not waiting:
        raise UsageError(f"{labelmaps.uri}: no labelmap of a case that jobs.intake made ({cases.uri}/_done/)")
    incremental.keep_part(listing, settings)
    work = plan(listing.cases, there, settings)
    failed = incremental.failed_before(work, settings, output)
    counts = {"cases": len(listing.cases), "unchanged": work.done, "left_aside": len(work.aside)}
    counts["held"] = waiting
    if settings.dry_run:
        reasons = incremental.explain(
            work, lambda one: made_of(one.case, settings), partial(incremental.made_of_record, output)
        )
        return incremental.rehearse(reasons, {**counts, "todo": len(work.todo)}, failed)
    for key in work.stale:
        output.delete(key)
    deliver = Deliver(labelmaps, cases, output, settings.space, settings.dicom_seg)
    settled = incremental.settle(run(work.todo, cases, deliver, settings), work, output)
    counts |= {"written": settled.written, "flagged": len(settled.flagged)}
    details = {"flagged_cases": settled.flagged}
    return Outcome(output, counts, failed + settled.failed, details, settings.max_failed)


def list_cases(labelmaps: Store, cases: Store) -> tuple[list[Case], int]:
    """(each labelmap with its record and that of its case; how many wait for review). It says how many are
    of other cases."""
    records, markers = _records(cases), _records(labelmaps)
    found, others, waiting = [], 0, 0
    for entry in labelmaps.list():
        named = RESULT.fullmatch(entry.key)
        if not named or not (case_id := named["case"]):
            continue
        if case_id not in records:
            others += 1
            continue
        if entry.key.startswith("_held/"):
            waiting += 1
            continue
        files = {"labelmap": entry, **_numbered("record", records[case_id])}
        files |= _numbered("marker", markers.get(case_id, ()))
        found.append(Case(case_id, case_id, "scans", "", "", files))
    if others:
        say(f"{labelmaps.uri}: {counted(others, 'labelmap')} of no case that jobs.intake made")
    if waiting:
        say(f"{labelmaps.uri}: {counted(waiting, 'labelmap')} in _held/ for review, not delivered")
    return found, waiting


def _records(store: Store) -> dict[str, list[Entry]]:
    """Case id → its result records: one, unless two runs overlapped."""
    entries = {entry.key: entry for entry in store.list("_done")}
    return {case: [entries[key] for key in keys] for case, keys in by_case(entries, MARKER).items()}


def _numbered(role: str, entries: Iterable[Entry]) -> dict[str, Entry]:
    """record, record2, …"""
    return {role if n == 1 else f"{role}{n}": entry for n, entry in enumerate(entries, 1)}


def made_of(case: Case, settings: Settings) -> dict:
    """All that makes a delivered labelmap."""
    options = {"space": settings.space, "dicom_seg": settings.dicom_seg}
    return {"inputs": case.versions, **options, "format": FORMAT}


def plan(cases: list[Case], there: set[str], settings: Settings) -> worklist.Work:
    """What is left: a case is done if its record carries today's fingerprint and its files are present."""
    wanted, void = [], set()
    # What else is delivered of the very same labelmaps stands beside it, and is no older result.
    others = [o for o in product(SPACES, (False, True)) if o != (settings.space, settings.dicom_seg)]
    marks = {case.id: mark_of(case, settings.space, settings.dicom_seg) for case in cases}
    markers = by_case(there, MARKER)
    more = [case for case in cases if {*markers.get(case.id, ())} - {marker_key(case.id, marks[case.id])}]
    beside = {mark_of(case, *other) for case in more for other in others}
    there = {key for key in there if beside.isdisjoint(key.split("."))}
    for case in cases:
        mark = marks[case.id]
        keys = {native_key(case.id, settings.space)}
        keys |= {seg_key(case.id, settings.space)} if settings.dicom_seg else set()
        if not keys <= there:
            void.add(marker_key(case.id, mark))
        wanted.append((case, mark))
    return left_to_do(wanted, there, void, settings.retry_failed)


def run(todo: list[worklist.Todo], cases: Store, deliver: Deliver, settings: Settings) -> Iterator[dict]:
    """Stream the labelmaps, one task each."""
    if not todo:
        say("nothing to do: no labelmap is left to deliver")
        return
    scans = find_scans(todo, cases, settings) if settings.dicom_seg else {}
    made = {case.id: case.to_json() for case in list_folder(cases, "brats2023").cases}
    rows = [
        {
            **one.to_row(),
            "scans": json.dumps(scans.get(one.case.id, NOT_ASKED)),
            "made_case": made.get(one.case.id, ""),
        }
        for one in worklist.largest_first(todo)
    ]
    stages = [Stage("deliver", deliver, resources={"num_cpus": 0.5})]
    yield from stream("deliver", rows, stages, settings.ray, deliver.output)


def find_scans(todo: list[worklist.Todo], cases: Store, settings: Settings) -> dict[str, dict[str, Any]]:
    """Case id → where the files of its series lie, as NOT_ASKED has it."""
    identity, _ = read_identity(False)
    rows = series_files(cases, (entry.key for entry in cases.list("_index")))

    @cache
    def listed(uri: str) -> dict[str, str]:
        return {identity.opaque(entry.key): entry.key for entry in Store(uri).list()}

    found = {}
    for one in todo:
        told = found[one.case.id] = {**NOT_ASKED}
        try:
            record = parse(cases.read(one.case.files["record"].key))
            told["uri"] = settings.scans or str(record["scans"])
            series = record["series"].get(settings.space, {"uid": "", "files": 0})
            uid, count = (str(record["study_uid"]), str(series["uid"])), int(series["files"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            told["problem"] = f"the record of jobs.intake cannot be read ({type(error).__name__})"
            continue
        told["nifti"] = not series["uid"]
        there = listed(told["uri"])
        keys = [] if told["nifti"] else [there[file] for file in rows.get(uid, ()) if file in there]
        if len(keys) == count:
            told["keys"] = keys
        elif len(keys) > count:
            told["problem"] = "its source series has more files now than when it was taken in"
        else:
            told["problem"] = "its source series is not there any more, or was indexed under another key"
    return found


if __name__ == "__main__":
    run_job("deliver", Settings, main)
