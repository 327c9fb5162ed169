"""Labelmaps of several models or tools → one labelmap a case, by majority, SIMPLE or STAPLE.

Any folder of labelmaps is taken, such as those that the containers of BraTS orchestrator wrote: CASE.nii.gz,
CASE-seg.nii.gz or CASE.nii each. Only what is new or changed is done; a case that lacks a labelmap, or whose
labelmaps lie on different grids, fails alone. What comes out is a folder as jobs.segment writes it.

    python -m jobs.fuse --labelmaps OUT/ours OUT/nnunet OUT/zoo --method simple --fused OUT/fused
    ray job submit --working-dir . -- python -m jobs.fuse --labelmaps s3://b/a s3://b/b s3://b/c --fused s3://b/f
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from bts.cases import worklist
from bts.cases.case import Case
from bts.cases.datasets import identify
from bts.cases.layouts import Listing
from bts.cases.sidecars import told_beside
from bts.errors import CaseError, Failure, UsageError
from bts.inference.fusion import MOST, Method
from bts.labels import UNKNOWN, spelt
from bts.results.files import refuse_foreign
from bts.results.labelmap_names import by_case, labelmaps_of
from bts.results.layout import labelmap_key, left_to_do, marked_cases, marker_key
from bts.results.match import Pair, match
from bts.storage import Entry, Store
from jobs.driver import incremental
from jobs.driver.here import UseRay
from jobs.driver.outcome import Outcome, run_job
from jobs.driver.pipeline import Stage, stream
from jobs.driver.progress import counted, say
from jobs.workers.fuse import FORMAT, Fuse

Listed = Mapping[str, Entry]
"""A folder's files by their keys."""


@dataclass(frozen=True)
class Settings(incremental.Flags):
    """Flags of jobs.fuse."""

    labelmaps: tuple[str, ...]
    """Folders or s3://bucket/prefixes with labelmaps, two to ten, three or more to be of use."""
    fused: str
    """Folder or s3://bucket/prefix for the fused labelmaps, in the first folder's label convention."""
    method: Method = "simple"
    """majority: more than half. simple: weighted by agreement, poor ones left out (from four on). staple: by
    each one's sensitivity and specificity. Each of WT, TC and ET by itself."""
    labels: str = "auto"
    """Label convention of labelmaps that jobs.segment did not write; auto is what nnU-Net's dataset.json
    beside them names, else what the name of each case tells; or a name or pairs, as jobs.preprocess takes
    them."""

    def check(self) -> None:
        """Raise UsageError for values that make no sense."""
        super().check()
        if not 2 <= len(self.labelmaps) <= MOST:
            raise UsageError(f"--labelmaps: {counted(len(self.labelmaps), 'folder')}; give 2 to {MOST}")
        uris = [Store(uri).uri for uri in self.labelmaps]
        if len(set(uris)) < len(uris) or Store(self.fused).uri in uris:
            raise UsageError("--labelmaps, --fused: a folder is given twice")
        spelt(self.labels)


def main(settings: Settings) -> Outcome:
    settings.check()
    folders, output = [Store(uri) for uri in settings.labelmaps], Store(settings.fused)
    listings = [{entry.key: entry for entry in folder.list()} for folder in folders]
    told = []
    for folder, listing in zip(folders, listings, strict=True):
        if not labelmaps_of(listing):
            raise UsageError(f"{folder.uri}: there are no labelmaps here; expected CASE.nii.gz")
        told.append(told_beside(folder, listing.values(), settings.labels))
    named = Listing(cases_in(listings, spelt(settings.labels)))
    incremental.keep_part(named, settings)
    cases = named.cases
    pairs, unpaired = paired(cases, folders, listings, told)
    there = output.keys()
    refuse_foreign(pairs, there, output, "give --fused another folder")
    made = [joined(case, pairs[case.id], listings) for case in cases if case.id in pairs]
    wanted = [(case, fingerprint(case, pairs[case.id], settings.method, told)) for case in made]
    gone = {marker_key(case.id, mark) for case, mark in wanted if labelmap_key(case.id) not in there}
    work = left_to_do(wanted, there, gone, settings.retry_failed)
    failed = unpaired + incremental.failed_before(work, settings, output)
    counts = {"cases": len(cases), "unchanged": work.done, "left_aside": len(work.aside)}
    if settings.dry_run:
        reasons = [(one.case.id, "changed" if one.older else "new") for one in work.todo]
        return incremental.rehearse(reasons, {**counts, "todo": len(work.todo)}, failed)
    for key in work.stale:
        output.delete(key)
    note_unpaired(unpaired, cases, settings.method, output, there)
    make = Fuse(folders, output, settings.method)
    settled = incremental.settle(run(work.todo, pairs, make, settings.ray), work, output)
    incremental.say_flagged(settled.flagged)
    counts |= {"written": settled.written, "flagged": len(settled.flagged)}
    details = {
        "method": settings.method,
        "folders": [folder.uri for folder in folders],
        "flagged_cases": settled.flagged,
    }
    return Outcome(output, counts, failed + settled.failed, details, settings.max_failed)


def cases_in(listings: Sequence[Listed], labels: str) -> list[Case]:
    """What the names of labelmaps tell of their cases, of every folder together."""
    marked = {case_id for listing in listings for case_id in marked_cases(listing)}
    ids = {case_id for listing in listings for case_id in labelmaps_of(listing, marked)}
    found = []
    for case_id in sorted(ids):
        dataset, told, patient = identify(case_id, ())
        found.append(Case(case_id, patient, dataset, "", told if labels == "auto" else labels, {}))
    return found


def paired(
    cases: Sequence[Case], folders: Sequence[Store], listings: Sequence[Listed], told: Sequence[str]
) -> tuple[dict[str, list[Pair]], list[Failure]]:
    """(case → its labelmap in each folder, failures of the cases of which one is not there).

    told: the label convention that each folder names, or empty.
    """
    found: dict[str, list[Pair]] = {case.id: [] for case in cases}
    problems: dict[str, CaseError] = {}
    for folder, listing, labels in zip(folders, listings, told, strict=True):
        matched = match(cases, listing.values(), truths=False, labels=labels)
        for pair in matched.pairs:
            found[pair.case.id].append(pair)
            if not pair.markers and UNKNOWN == pair.case.labels == pair.labels:
                problems[pair.case.id] = CaseError(
                    "its name does not tell which labels it uses",
                    mend="say so with --labels brats2021|brats2023|…",
                    case=pair.case.id, file=f"{folder.uri}/{pair.labelmap}", stage="list",
                )  # fmt: skip
        problems |= {problem.case: problem for problem in matched.problems}
        for case_id in matched.without_labelmap:
            mend = "segment it there too, or fuse the other folders"
            problems[case_id] = CaseError(
                f"has no labelmap in {folder.uri}", mend=mend, case=case_id, stage="list"
            )
    whole = {case_id: pairs for case_id, pairs in found.items() if case_id not in problems}
    return whole, [Failure.of(problem) for problem in problems.values()]


def note_unpaired(
    failed: Iterable[Failure], cases: Iterable[Case], method: Method, output: Store, there: Set[str]
) -> None:
    """Note the cases that have not a labelmap of now in every folder: what was fused of them is an older one,
    and not to be scored."""
    known = {case.id: case for case in cases if labelmap_key(case.id) in there}
    noted = by_case(there, worklist.NOTE)
    for failure in failed:
        if failure.case_id not in known or failure.case_id in noted:
            continue
        case = known[failure.case_id]
        incremental.note([(worklist.Todo(case, fingerprint(case, (), method, ())), failure)], output)


def joined(case: Case, pairs: Sequence[Pair], listings: Sequence[Listed]) -> Case:
    """The case with its labelmaps, by their folder's number, as the files that it is made from."""
    files = {}
    for n, (pair, listing) in enumerate(zip(pairs, listings, strict=True)):
        files[str(n)] = replace(listing[pair.labelmap], version=pair.version)
    return replace(case, files=files)


def fingerprint(case: Case, pairs: Sequence[Pair], method: Method, told: Sequence[str]) -> str:
    """Of all that makes a fused labelmap and its marker: those of its labelmaps too, for equal bytes may be
    written in another convention, or made by other models."""
    markers = [pair.markers for pair in pairs]
    options: dict[str, object] = {"fused": method, "labels": case.labels, "markers": markers}
    if any(told):
        options["labels of the folders"] = list(told)
    return worklist.case_fingerprint(case, case.files, options=options, version=FORMAT)


def run(todo: list[worklist.Todo], pairs: dict[str, list[Pair]], make: Fuse, ray: UseRay) -> Iterator[dict]:
    """Stream the cases, one task a case."""
    if not todo:
        say("nothing to do: no case is left to fuse")
        return
    rows = [{**one.to_row(), "pairs": json.dumps([p.to_row() for p in pairs[one.case.id]])} for one in todo]
    yield from stream("fuse", rows, [Stage("fuse", make)], ray, make.output)


if __name__ == "__main__":
    run_job("fuse", Settings, main)
