"""A folder of labelmaps → one zip for a challenge: CASE.nii.gz of every case at its top, and nothing else.

Each must be a whole NIfTI file. With --cases the set must be complete, in the labels that the cases' names
tell. What lacks a labelmap, or has one in others, or a damaged one, is named, no zip is written, the exit
code is 3.
figshare's patients are not among them, for a listing does not tell who they are.
One labelmap at a time is in memory. No Ray: the store is the limit.

    python -m jobs.export --labelmaps data/labelmaps --cases data/cases --zip submission.zip
    python -m jobs.export --labelmaps s3://b/labelmaps --cases s3://b/cases --zip s3://b/submissions/first.zip
"""

import re
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from isal import igzip

from bts.cases.sidecars import told_beside
from bts.cases.worklist import NOTE
from bts.errors import CaseError, Failure, RunError, UsageError
from bts.images.nifti import read_nifti
from bts.labels import WRITTEN, is_known, meaning, values_of
from bts.results.labelmap_names import by_case, labelmaps_of
from bts.results.layout import held, labelmap_key, marked_cases
from bts.results.match import Pair, match, outdated, read_markers, refuse_cut_off, refuse_older
from bts.storage import Store, split_uri
from jobs.driver.incremental import READERS
from jobs.driver.listing import list_cases
from jobs.driver.outcome import Outcome, run_job
from jobs.driver.progress import Meter, counted, say

NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
GZIP = b"\x1f\x8b"
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in the zip: equal labelmaps give equal bytes


@dataclass
class Settings:
    """Flags of jobs.export."""

    labelmaps: str
    """Folder or s3://bucket/prefix with the labelmaps: CASE.nii.gz, CASE-seg.nii.gz or another tool's name
    (docs/reference/data.md)."""
    zip: str
    """File or s3://bucket/key to write."""
    cases: str = ""
    """Folder or s3://bucket/prefix with the cases that must all be in it; empty: whatever is there."""
    roles: tuple[str, ...] = ()
    """Where file names do not tell what they hold: as jobs.segment was given it."""


def main(settings: Settings) -> Outcome:
    labelmaps, (output, name) = Store(settings.labelmaps), split_uri(settings.zip)
    if not name.lower().endswith(".zip"):
        raise UsageError(f"--zip {settings.zip}: give the name of a file that ends in .zip")
    there = labelmaps.list()
    keys = {entry.key for entry in there}
    marked, failed, aged = marked_cases(keys), [], []
    wanted = sorted(labelmaps_of(keys, marked))
    if settings.cases:
        cases = Store(settings.cases)
        listing = list_cases(cases, "auto", settings.roles)
        wanted = [case.id for case in listing.cases]
        failed = [Failure.of(problem) for problem in listing.problems]
        if listing.slices:  # as of a folder of both, of which a model segments the one kind
            say(f"{counted(len(listing.slices), 'figshare slice')}, of patients that are not looked for")
        told = told_beside(labelmaps, there, "auto")
        aged = unfitting(match(listing.cases, there, truths=False, labels=told).pairs, cases, labelmaps)
    if not wanted and not failed:
        raise UsageError(f"{settings.cases or labelmaps.uri}: there is nothing to put into a zip")
    found = labelmaps_of(keys, marked.union(wanted))
    chosen, unfit = choose(sorted(wanted), found, keys, labelmaps)
    failed += [Failure.of(problem, stage="export") for problem in unfit + aged]
    counts = {"cases": len(wanted), "written": 0, "zip": settings.zip}
    if not failed:
        with tempfile.TemporaryDirectory() as here:
            path = Path(here, "labelmaps.zip")
            damaged = pack(chosen, marked, labelmaps, path)
            failed = [Failure.of(problem, stage="export") for problem in damaged]
            if not failed:
                output.put_file(name, str(path))
                counts |= {"written": len(chosen), "bytes": path.stat().st_size}
    return Outcome(None, counts, failed)


def choose(
    wanted: Iterable[str], found: Mapping[str, list[str]], keys: set[str], labelmaps: Store
) -> tuple[dict[str, str], list[CaseError]]:
    """(key of each case's one labelmap, what is wrong with those that have none, several or an old one)."""
    chosen, unfit, failures = {}, [], by_case(keys, NOTE)
    for case in wanted:
        there = found.get(case, [])
        if len(there) == 1:
            if case in failures:
                unfit.append(outdated(case, there[0]))
            else:
                chosen[case] = there[0]
            continue
        problem, mend = f"has no labelmap in {labelmaps.uri}", "run jobs.segment"
        if there:
            problem, mend = f"has {len(there)} labelmaps: {', '.join(sorted(there))}", "keep one"
        elif (waiting := held(labelmap_key(case))) in keys:
            problem, mend = f"is held for review in {waiting}", "look at it, then move it up"
        unfit.append(CaseError(problem, mend=mend, case=case))
    return chosen, unfit


def unfitting(pairs: Iterable[Pair], cases: Store, labelmaps: Store) -> list[CaseError]:
    """What is wrong with the labelmaps that were made of other files than their cases have now, or that hold
    other labels than the challenge of their cases."""

    def problem_of(pair: Pair) -> CaseError | None:
        try:
            markers = read_markers(pair, labelmaps)
            refuse_older(pair, markers, cases)
            refuse_other_labels(pair, {marker.labels for marker in markers} or {pair.labels})
        except CaseError as error:
            return error
        return None

    told = (pair for pair in pairs if pair.markers or pair.labels)
    with ThreadPoolExecutor(READERS) as threads:
        return list(filter(None, threads.map(problem_of, told)))


def refuse_other_labels(pair: Pair, said: Iterable[str]) -> None:
    """Raise CaseError where a labelmap's values (conventions of which are `said`) mean something else in the
    challenge that the name of its case tells, as far as both are known."""
    if not is_known(pair.case.labels):
        return
    due = values_of(pair.case.labels)
    for convention in filter(is_known, said):
        held = {value: label for value, label in values_of(convention).items() if label in WRITTEN}
        if any(due.get(value) != label for value, label in held.items()):
            raise CaseError(
                f"its labelmap holds {meaning(convention)} where its challenge has "
                f"{meaning(pair.case.labels)}",
                mend="write it in the challenge's labels (jobs.segment without --labels does), or leave "
                "--cases out if the zip is meant to be so",
                case=pair.case.id, file=pair.labelmap, stage="labels",
            )  # fmt: skip


def pack(chosen: Mapping[str, str], marked: Set[str], labelmaps: Store, path: Path) -> list[CaseError]:
    """Write the zip; what is wrong with the labelmaps that are no whole images, or that a run left which was
    cut off. marked: cases with a marker. Raises RunError for one that cannot be read."""
    progress, damaged = Meter("export", len(chosen)), []
    with zipfile.ZipFile(path, "w") as file:  # stored: gzip has done the work
        for case, key in chosen.items():
            try:
                data = labelmaps.read(key)
                if not NIFTI.search(key):
                    raise CaseError("a challenge takes NIfTI alone", mend="save it as .nii.gz", file=key)
                found = read_nifti(data, key)
                if case not in marked:
                    refuse_cut_off(found, key)
            except OSError as error:
                raise RunError(f"{labelmaps.uri}/{key}: cannot be read ({error})") from None
            except CaseError as error:
                error.case = case
                damaged.append(error)
                continue
            member = zipfile.ZipInfo(labelmap_key(case), EPOCH)
            member.external_attr = 0o644 << 16  # who unpacks it may be another user
            file.writestr(member, data if data[:2] == GZIP else igzip.compress(data, mtime=0))
            progress.step()
    return damaged


if __name__ == "__main__":
    run_job("export", Settings, main)
