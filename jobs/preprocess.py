"""Cases in a bucket → one lossless Parquet shard of slices a case, for every preset.

Only what is new or changed is done: a shard's name carries the fingerprint of its case's files. A case with
bad data fails alone, with stage and reason in the run report.

    python -m jobs.preprocess --cases data/cases --shards data/shards
    ray job submit --working-dir . -- python -m jobs.preprocess --cases s3://b/cases --shards s3://b/shards
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import ray

from bts import shards, worklist
from bts.cases import Case
from bts.errors import CaseError
from bts.preprocess import load_case
from bts.storage import Store
from jobs import common
from jobs.figshare_index import index_figshare


@dataclass
class Settings:
    """Flags of jobs.preprocess."""

    cases: str
    """Folder or s3://bucket/prefix with the cases, in any layout of BraTS, of MSD Task01 or figshare."""
    shards: str
    """Folder or s3://bucket/prefix for the shards."""
    labels: Literal["auto", "brats2021", "brats2023", "brats2024", "msd"] = "auto"
    """Label convention of the truths; auto tells it by the name of each case."""
    max_failed: str = "0"
    """Exit with 0 in spite of this many failed cases, or this share of all (5%)."""


class MakeShard:
    """One case → its shard, written at once; older shards of the case are deleted after."""

    def __init__(self, cases: Store, output: Store):
        self.cases, self.output = cases, output

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        case = Case.from_json(row["case"])
        try:
            volume = load_case(case, self.cases)
        except CaseError as error:
            return {"case_id": case.id, "failure": common.failure(case.id, error)}
        versions = {role: entry.version for role, entry in case.files.items()}
        data = shards.write_shard(volume, versions)
        self.output.put(f"{case.id}.{row['fingerprint']}.parquet", data)
        for key in row["older"]:
            self.output.delete(key)
        seconds = time.monotonic() - started
        return {"case_id": case.id, "failure": None, "bytes": len(data), "seconds": seconds}


def main(settings: Settings) -> common.Outcome:
    max_failed = common.check_max_failed(settings.max_failed)
    source, output = Store(settings.cases), Store(settings.shards)
    listing = common.list_cases(source, settings.labels)
    unread = index_figshare(listing, source, output)
    failed = [common.failure(problem.case, problem) for problem in listing.problems] + unread
    work = worklist.plan(wanted(listing.cases), output.list(), ".parquet")
    for key in work.stale:
        output.delete(key)
    written = 0
    for result in run(work.todo, source, output):
        if result["failure"]:
            failed.append(result["failure"])
        else:
            written += 1
    cases = len(listing.cases) + len(listing.problems) + len(unread)
    counts = {"cases": cases, "written": written, "unchanged": work.done}
    return common.Outcome(output, counts, failed, {"strays": listing.strays[:1000]}, max_failed)


def wanted(cases: list[Case]) -> Iterator[tuple[Case, str]]:
    """Each case with the fingerprint that its shard will carry."""
    for case in cases:
        options = {"labels": case.labels}
        yield case, worklist.case_fingerprint(case, case.files, options=options, version=shards.FORMAT)


def run(todo: list, source: Store, output: Store) -> Iterator[dict]:
    """Stream the cases through Ray, one task a case."""
    if not todo:
        common.say("nothing to do: every case has its shard")
        return
    common.start_ray()
    rows = [{"case": case.to_json(), "fingerprint": mark, "older": older} for case, mark, older in todo]
    cases = ray.data.from_items(rows, override_num_blocks=len(rows))
    yield from common.stream("preprocess", len(rows), cases, MakeShard(source, output))


if __name__ == "__main__":
    common.run_job("preprocess", Settings, main)
