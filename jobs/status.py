"""Counts the cases of a bucket: segmented (by which model), held for review, flagged, failed, left.

Reads a folder of jobs.segment while it works or afterwards; writes nothing. No Ray: the store is the limit.
With --scans and --results it tells the whole chain, from the scanner and back to it.

    python -m jobs.status --labelmaps data/labelmaps --cases data/cases
    python -m jobs.status --labelmaps data/labelmaps --cases data/cases --scans data/scans --results data/back
    python -m jobs.status --labelmaps s3://b/labelmaps --cases s3://b/cases
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bts.cases.case import Case
from bts.cases.layouts import Listing
from bts.cases.worklist import NOTE
from bts.errors import Failure, UsageError
from bts.results.labelmap_names import labelmaps_of
from bts.results.layout import MARKER, held, labelmap_key, marked_cases, versions_of
from bts.results.marker import Marker
from bts.storage import Store
from jobs.driver import chain
from jobs.driver.incremental import READERS
from jobs.driver.listing import list_cases
from jobs.driver.outcome import Outcome, run_job
from jobs.driver.progress import counted, plain

SHOWN = 20  # lines of a kind; all are counted


@dataclass
class Settings:
    """Flags of jobs.status."""

    labelmaps: str
    """Folder or s3://bucket/prefix that jobs.segment writes to."""
    cases: str = ""
    """Folder or s3://bucket/prefix with the cases, to tell what is left and what has changed since."""
    scans: str = ""
    """Folder or s3://bucket/prefix that jobs.intake reads, to tell which studies have no case; needs
    --cases."""
    results: str = ""
    """Folder or s3://bucket/prefix that jobs.deliver writes to, to tell which labelmaps are delivered."""
    roles: tuple[str, ...] = ()
    """Where file names do not tell what they hold: as jobs.segment was given it."""


def main(settings: Settings) -> Outcome:
    if settings.scans and not settings.cases:
        raise UsageError("--scans: give --cases too, where jobs.intake has put what it made of them")
    taken = say_taken_in(Store(settings.scans), Store(settings.cases)) if settings.scans else {}
    output = Store(settings.labelmaps)
    listing = list_cases(Store(settings.cases), "auto", settings.roles) if settings.cases else None
    keys = output.keys()
    notes = {
        named["case"]: (key, int(named["tries"])) for key in sorted(keys) if (named := NOTE.fullmatch(key))
    }
    markers, unreadable = read_markers(keys, output)
    gone = take_gone(listing, markers, notes)
    waiting = sorted(case for case in markers if held(labelmap_key(case)) in keys)
    flagged = {case: marker.flags for case, marker in sorted(markers.items()) if marker.flags}
    counts = {"segmented": len(markers), "held": len(waiting), "flagged": len(flagged), "noted": len(notes)}
    counts |= taken
    say_absent(output, keys)
    print(f"{output.uri}: {counted(len(markers), 'case')} segmented")
    for maker, number in Counter(marker.named_maker for marker in markers.values()).most_common():
        print(plain(f"  {number} by {maker}"))
    show("held for review", waiting)
    show("flagged", [f"{case}: {'; '.join(flags)}" for case, flags in flagged.items()])
    show("failed", failures(notes, output))
    marked = marked_cases(keys)
    others = labelmaps_of(keys, marked).keys() - marked - notes.keys()
    show("without a result record, of another tool or a run that was cut off", sorted(others), "labelmap")
    show("with a result record that cannot be read; delete it, then jobs.segment makes them anew", unreadable)
    if listing:
        show("refused in the listing", list(map(str, listing.problems)))
        show("of no case there (deleted, renamed, or of another folder); what was made of them stays", gone)
        spoilt = {named["case"] for named in map(MARKER.fullmatch, unreadable) if named}
        counts |= say_left(listing.cases, markers, notes.keys() | spoilt) | {"gone": len(gone)}
        if listing.slices:
            slices = counted(len(listing.slices), "figshare slice")
            print(f"{slices}, whose patients, told inside, are not counted")
    if settings.results:
        counts |= say_delivered(Store(settings.results), set(markers) - set(waiting), output)
    say_rate(markers.values())
    return Outcome(None, counts)


def say_absent(store: Store, keys: Set[str]) -> None:
    """Where a listing is empty: a mistyped path must not look like a night in which nothing was done."""
    if not keys:
        print(f"{store.uri}: nothing is here, or there is no such folder; check the path")


def read_markers(keys: set[str], output: Store) -> tuple[dict[str, Marker], list[str]]:
    """({case: its marker, the newest of several}, keys of those that cannot be read). Without the markers
    whose labelmap is gone: jobs.segment makes it again."""

    def read(key: str) -> Marker | None:
        with suppress(OSError, ValueError):
            return Marker.from_json(output.read(key))
        return None

    named = [(found["case"], key) for key in sorted(keys) if (found := MARKER.fullmatch(key))]
    named = [one for one in named if {labelmap_key(one[0]), held(labelmap_key(one[0]))} & keys]
    markers: dict[str, Marker] = {}
    unreadable = []
    with ThreadPoolExecutor(READERS) as threads:
        for (case, key), marker in zip(named, threads.map(read, [key for _, key in named]), strict=True):
            if marker is None:
                unreadable.append(key)
            elif case not in markers or marker.written > markers[case].written:
                markers[case] = marker
    return markers, unreadable


def failures(notes: Mapping[str, tuple[str, int]], output: Store) -> list[str]:
    """A line a case that failed when it was last segmented: where, why, in how many runs."""
    found = []
    for key, tries in notes.values():
        try:
            said = Failure.from_json(output.read(key)).message
        except (OSError, ValueError):
            said = f"its failure record {key} cannot be read"
        found.append(f"{said} (runs: {tries})")
    return found


def take_gone(listing: Listing | None, *found: dict[str, Any]) -> list[str]:
    """Take what is of no case of the listing out of markers and notes; the names of those cases. None where
    there are figshare slices, whose patients are told inside."""
    if listing is None or listing.slices:
        return []
    known = {case.id for case in listing.cases} | {problem.case for problem in listing.problems}
    gone = sorted({case for of in found for case in of} - known)
    for of in found:
        for case in gone:
            of.pop(case, None)
    return gone


def say_left(cases: Iterable[Case], markers: Mapping[str, Marker], notes: Container[str]) -> dict[str, int]:
    """What the next run will do, as far as the files tell: not whether model or options are new.

    notes: cases that failed, or whose marker cannot be read.
    """
    left, changed = [], []
    for case in cases:
        if case.id in markers:
            then, now = markers[case.id].versions_read, versions_of(case)
            if then != now and then.keys() & now.keys():  # jobs.fuse tells of labelmaps, not of scans
                changed.append(case.id)
        elif case.id not in notes:
            left.append(case.id)
    show("left", left)
    show("changed since", changed)
    return {"left": len(left), "changed": len(changed)}


def say_taken_in(scans: Store, cases: Store) -> dict[str, int]:
    """Studies that have a case, and those that have none; and why, as the last run of jobs.intake has it."""
    there = cases.keys()
    studies, new = chain.scanned(scans, cases, there)
    if not studies and not new:
        say_absent(scans, scans.keys())
    made, waiting = chain.taken_in(there)
    left = sorted(studies - made)
    print(f"{scans.uri}: {counted(len(studies), 'study')}, {len(studies & made)} taken in")
    show("that jobs.intake has not looked at yet", [], "file", new)
    show("without a case", left, "study")
    show("held for review", sorted(waiting), "case")
    show("of the last run of jobs.intake", list(chain.last_failures(cases, there)), "failure")
    counts = {"studies": len(studies), "taken_in": len(studies & made), "not_taken_in": len(left)}
    return {**counts, "new_files": new, "cases_held": len(waiting)}


def say_delivered(results: Store, segmented: Set[str], labelmaps: Store) -> dict[str, int]:
    """Labelmaps that went back, and those that did not; one that was made anew since is to go back again."""
    there = results.keys()
    say_absent(results, there)
    done, failed = chain.delivered(there)
    done -= chain.outdated(results, there, labelmaps)
    left = sorted(segmented - done - failed)
    print(f"{results.uri}: {counted(len(done), 'labelmap')} delivered")
    show("to deliver", left)
    show("of the last run of jobs.deliver", list(chain.last_failures(results, there)), "failure")
    return {"delivered": len(done), "to_deliver": len(left)}


def show(what: str, lines: list[str], thing: str = "", number: int = 0) -> None:
    """How many (number, where they have no lines) things, and the first of them."""
    if number := number or len(lines):
        print(f"{counted(number, thing) if thing else number} {what}")
    for line in lines[:SHOWN]:
        print(plain(f"  {line}"))
    if len(lines) > SHOWN:
        print("  …")


def say_rate(markers: Iterable[Marker]) -> None:
    """When the last labelmap was written, and what a case took in each stage."""
    seconds: dict[str, list[float]] = {}
    for marker in markers:
        for stage, took in marker.seconds.items():
            seconds.setdefault(stage, []).append(took)
    if seconds:
        means = ", ".join(f"{stage} {sum(of) / len(of):.2f}" for stage, of in seconds.items())
        print(f"seconds a case: {means}; last written {max(m.written for m in markers)}")


if __name__ == "__main__":
    run_job("status", Settings, main)
