"""Draws synthetic BraTS-like cases, as many as wanted, in the layout and conventions of BraTS 2023.

Case k of a seed is the same whatever the count; cases that are complete already are left alone. With --raw,
studies as a scanner gives them, for jobs.intake: DICOM series of two vendors with skull, each modality in a
pose of its own, and a localiser, a derived map and an aborted series among them.

    python -m jobs.phantom --cases data/cases --count 16 --seed 0
    python -m jobs.phantom --cases data/scans --count 4 --raw
    ray job submit --working-dir . -- python -m jobs.phantom --cases s3://b/cases --count 2000 --seed 0
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from bts.errors import Failure, RunError, UsageError
from bts.phantom.case import LEAST, SIZE, case_keys, write_case
from bts.phantom.study import make_study, write_dicom, write_nifti
from bts.storage import Store
from jobs.driver.here import UseRay
from jobs.driver.outcome import Outcome, run_job
from jobs.driver.pipeline import Stage, stream
from jobs.driver.progress import say


@dataclass
class Settings:
    """Flags of jobs.phantom."""

    cases: str
    """Folder or s3://bucket/prefix for the cases: a folder each, five .nii.gz, about 9 MB at full size."""
    count: int
    """How many cases the folder is to hold, from --start on."""
    seed: int = 0
    """Another seed, other cases under the same names: give it another folder."""
    start: int = 0
    """Number of the first case."""
    size: tuple[int, int, int] = SIZE
    """Voxels in x, y, z; fewer draw the same anatomy smaller, at 1 mm still."""
    raw: bool = False
    """Draw raw studies instead of cases; `_truth/` tells the pose of each series."""
    raw_format: Literal["dicom", "nifti"] = "dicom"
    """Files of raw studies: DICOM, a file a slice, or NIfTI under dcm2niix's names."""
    ray: UseRay = "auto"
    """auto: without a cluster and with few cases (eight) this process draws them itself, without Ray. no:
    never start Ray. yes: always. The cases are the same."""


def main(settings: Settings) -> Outcome:
    check(settings)
    output = Store(settings.cases)
    there = output.keys()
    wanted = range(settings.start, settings.start + settings.count)
    todo = [index for index in wanted if not there.issuperset(keys(settings, index))]
    size = sum(run(todo, settings, output))
    counts = {"cases": settings.count, "written": len(todo), "unchanged": settings.count - len(todo)}
    return Outcome(output, counts | {"bytes": size})


def check(settings: Settings) -> None:
    """Raises UsageError for numbers that make no cases."""
    for flag, least in (("count", 1), ("seed", 0), ("start", 0)):
        if getattr(settings, flag) < least:
            raise UsageError(f"--{flag} {getattr(settings, flag)}: must be at least {least}")
    if settings.raw_format != "dicom" and not settings.raw:
        raise UsageError(f"--raw-format {settings.raw_format}: give --raw too; cases are NIfTI as they are")
    if min(settings.size) < LEAST:
        raise UsageError(f"--size {settings.size}: at least {LEAST} voxels along each axis")


def keys(settings: Settings, index: int) -> Iterable[str]:
    """What there is when a case or study is complete: all its files, or its truth, which is written last."""
    return [f"_truth/{index:05d}.json"] if settings.raw else case_keys(index).values()


class MakeStudy:
    """One index → the files of its raw study, then its truth."""

    def __init__(self, settings: Settings, output: Store):
        self.settings, self.output = settings, output

    def __call__(self, row: dict) -> dict:
        index = int(row["item"])
        study = make_study(self.settings.seed, index, size=self.settings.size)
        files = write_dicom(study) if self.settings.raw_format == "dicom" else write_nifti(study)
        for key, data in files.items():
            self.output.put(key, data)
        (truth,) = keys(self.settings, index)
        self.output.put(truth, json.dumps(study.truth(), indent=1).encode())
        return {"bytes": sum(map(len, files.values()))}


class MakeCase:
    """One index → the five files of its case, written at once; the truth last."""

    def __init__(self, settings: Settings, output: Store):
        self.settings, self.output = settings, output

    def __call__(self, row: dict) -> dict:
        files = write_case(self.settings.seed, int(row["item"]), self.settings.size)
        for key, data in files.items():
            self.output.put(key, data)
        return {"bytes": sum(map(len, files.values()))}


def run(todo: list[int], settings: Settings, output: Store) -> Iterator[int]:
    """Bytes of each case as it is done, one task a case."""
    if not todo:
        say("nothing to do: every case is there")
        return
    make = MakeStudy if settings.raw else MakeCase
    rows = [{"case_id": f"phantom {index}", "item": index} for index in todo]
    for result in stream("phantom", rows, [Stage("draw", make(settings, output))], settings.ray, output):
        if result["failure"]:
            raise RunError(Failure.from_json(result["failure"]).message)
        yield result["bytes"]


if __name__ == "__main__":
    run_job("phantom", Settings, main)
