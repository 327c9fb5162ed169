"""Cases in a bucket → one lossless Parquet shard of slices a case, for every preset.

Only what is new or changed is done: a shard's name carries the fingerprint of its case's files. A case with
bad data fails alone, with stage and reason in the run report.

    python -m jobs.preprocess --cases data/cases --shards data/shards
    ray job submit --working-dir . -- python -m jobs.preprocess --cases s3://b/cases --shards s3://b/shards
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from bts.cases import worklist
from bts.cases.case import Case
from bts.cases.read import reader_of
from bts.errors import Failure
from bts.shards.format import FORMAT, read_metadata
from bts.shards.holds import reinstate, retire
from bts.storage import Store
from jobs.driver import incremental, machine
from jobs.driver.figshare_index import index_figshare
from jobs.driver.here import UseRay, fits_here
from jobs.driver.listing import describe, list_cases
from jobs.driver.outcome import Outcome, run_job
from jobs.driver.pipeline import Stage, stream
from jobs.driver.progress import say
from jobs.driver.sizes import by_size
from jobs.workers.shard import MakeShard

LIGHT = 10  # cases are preprocessed in the time in which one is segmented
THREADS = 16  # cases at a time without Ray, at most: each takes a fifth of a gibibyte
CASE_CPUS = 0.5  # two cases a core: one computes while the other waits for the store, or for Ray's next task


@dataclass(frozen=True)
class Settings(incremental.Flags):
    """Flags of jobs.preprocess."""

    cases: str
    """Folder or s3://bucket/prefix with the cases, in any layout that docs/reference/data.md lists."""
    shards: str
    """Folder or s3://bucket/prefix for the shards."""
    labels: str = "auto"
    """Label convention of the ground truth; auto: by the name of each case, or by nnU-Net's dataset.json or a
    dseg.tsv of BIDS; brats2021, brats2023, brats2024, msd, ped2023, ped2024, met2025, goat, fets2022 or menrt
    name one; pairs spell one out: 1=ET,2=NCR,3=NCR,4=ED (value in the file = NCR, ED, ET or RC)."""
    roles: tuple[str, ...] = ()
    """Where file names do not tell what they hold: patterns ROLE=PATTERN whose * is the case
    (t1ce=*_POST.nii.gz seg=*/mask.nii.gz; t1, t1ce, t2, flair, seg), or a CSV file (case, t1, t1ce, …)."""
    patients: str = ""
    """Where case names do not tell who was scanned: a pattern whose * is the patient (*_visit?), a regular
    expression with a group, or a CSV file with columns case and patient. Splits are by patient."""
    allow_missing: tuple[Literal["t1", "t1ce", "t2", "flair"], ...] = ()
    """Take cases that lack these modalities too: their shards lack the columns. Train with --modalities for
    those that are there."""


def main(settings: Settings) -> Outcome:
    settings.check()
    source, output = Store(settings.cases), Store(settings.shards)
    listing = list_cases(source, settings.labels, settings.roles, settings.patients)
    failed = index_figshare(listing, source, output, settings.ray, keep=not settings.dry_run)
    incremental.keep_part(listing, settings)
    failed += [Failure.of(problem) for problem in listing.problems]
    cases = len(listing.cases) + len(failed)
    there, marks = output.keys(), list(wanted(listing.cases, settings.allow_missing))
    own = (key for key in there if "/" not in key or key.startswith("_failed/"))  # not of folders within
    work = worklist.plan(marks, own, ".parquet", settings.retry_failed)
    failed += incremental.failed_before(work, settings, output)
    counts = {"cases": cases, "unchanged": work.done, "left_aside": len(work.aside)}
    counts["without_truth"] = sum(not reader_of(case).has_truth(case) for case in listing.cases)
    if settings.dry_run:
        failed += incremental.foresee(work, settings.allow_missing, truth=True)
        reasons = incremental.explain(work, made_of, lambda key: read_made_of(output, key))
        outcome = incremental.rehearse(reasons, {**counts, "todo": len(work.todo)}, failed)
        for line in describe(listing):
            say(line)
        return outcome
    reinstate(output, (f"{case.id}.{mark}.parquet" for case, mark in marks), there)
    retire(output, work.stale)
    make = MakeShard(source, output, settings.allow_missing)
    settled = incremental.settle(run(work.todo, make, settings.ray), work, output)
    counts["written"] = settled.written
    incremental.say_flagged(settled.flagged)
    details = {"strays": listing.strays[:1000], "flagged_cases": settled.flagged}
    return Outcome(output, counts, failed + settled.failed, details, settings.max_failed)


def made_of(one: worklist.Todo) -> dict:
    """What will make the shard of a case."""
    return {"inputs": one.case.versions, "labels": one.case.labels, "format": FORMAT}


def read_made_of(output: Store, key: str) -> dict:
    """What made an older shard. Raises OSError or ValueError."""
    meta = read_metadata(output.read(key))
    return {name: meta[name] for name in ("inputs", "labels", "format")}


def wanted(cases: list[Case], allow_missing: Collection[str] = ()) -> Iterator[tuple[Case, str]]:
    """Each case with the fingerprint that its shard will carry."""
    for case in cases:
        options: dict[str, object] = {"labels": case.labels}
        if missing := [m for m in reader_of(case).missing(case) if m in allow_missing]:
            options["allow_missing"] = missing
        yield case, worklist.case_fingerprint(case, case.files, options=options, version=FORMAT)


def run(todo: list[worklist.Todo], make: MakeShard, ray: UseRay) -> Iterator[dict]:
    """Stream the cases, one task a case."""
    rows = [one.to_row() for one in worklist.largest_first(todo)]
    if not rows:
        say("nothing to do: no case is left to preprocess")
        return
    here = fits_here(ray, math.ceil(len(rows) / LIGHT), make.output)
    for some, memory in by_size(rows):
        resources = {"num_cpus": CASE_CPUS, **memory}
        at_once = 1 if memory else min(int(machine.cores() / CASE_CPUS), THREADS)
        stages = [Stage("read", make, resources=resources, at_once=at_once)]
        yield from stream("preprocess", some, stages, "no" if here else "yes", make.output)


if __name__ == "__main__":
    run_job("preprocess", Settings, main)
