"""What a night without news costs: `python -m benchmarks.planning [--cases 100000]`.

A folder of cases with the names of BraTS, five files each, and all their results: of each the name alone.
jobs.preprocess and jobs.segment list both, plan, and find nothing to do. Prints seconds, seconds of CPU and
peak memory of each whole command, beside the same of a folder of 100 cases.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.table import Row
from bts.cases.said import list_folder
from bts.results.layout import labelmap_key, marker_key
from bts.storage import Store
from jobs import preprocess, segment
from jobs.workers.write import Write

MODALITIES = ("t1n", "t1c", "t2w", "t2f", "seg")
SIZE = 1_800_000  # bytes that a file says it has
NAMES = 10_000  # of one file; file systems allow some 30,000
CASES, BOUND = 100_000, 20.0  # of `make bench`, and the seconds that they may take
FEW = 100  # cases of the folder that tells what the commands cost without cases


class Files:
    """Makes files that say they have SIZE bytes: names of a few files, which are made faster than files."""

    def __init__(self, folder: Path):
        self.folder, self.made = folder, 0
        folder.mkdir()

    def make(self, path: Path) -> None:
        one = self.folder / str(self.made // NAMES)
        if self.made % NAMES == 0:
            with one.open("wb") as file:
                file.truncate(SIZE)
        os.link(one, path)
        self.made += 1


def make_cases(place: Path, count: int, *, shards: bool = True) -> None:
    """Folders `cases`, `shards` and `labelmaps` of so many cases that are done."""
    place.mkdir()
    files = Files(place / "files")
    for n in range(count):
        case = f"BraTS-GLI-{n:06d}-000"
        (place / "cases" / case).mkdir(parents=True)
        for modality in MODALITIES:
            files.make(place / "cases" / case / f"{case}-{modality}.nii.gz")
    (place / "shards").mkdir()
    (place / "labelmaps" / "_done").mkdir(parents=True)
    for key in results(place):
        if shards or not key.startswith("shards/"):
            files.make(place / key)


def results(place: Path) -> Iterator[str]:
    """Keys of the results of all cases."""
    source = Store(str(place / "cases"))
    cases = list_folder(source).cases
    for case, mark in preprocess.wanted(cases):
        yield f"shards/{case.id}.{mark}.parquet"
    settings = segment.Settings(cases=source.uri, labelmaps=str(place / "labelmaps"))
    models = segment.read_models(settings.model)
    write = Write(source, Store(settings.labelmaps), models.described, models.finish, settings)
    for case in cases:
        yield f"labelmaps/{labelmap_key(case.id)}"
        yield f"labelmaps/{marker_key(case.id, segment.fingerprint(case, write))}"


def rows(place: Path) -> Iterator[Row]:
    """`segment` alone, which has more to plan."""
    folder = place / "planning"
    shutil.rmtree(folder, ignore_errors=True)
    make_cases(folder, CASES, shards=False)
    command = [sys.executable, "-m", "jobs.segment", "--cases", str(folder / "cases")]
    seconds, cpu, _, line = measure([*command, "--labelmaps", str(folder / "labelmaps")])
    assert line["unchanged"] == CASES, line
    shutil.rmtree(folder)
    for what, took in (("", seconds), (", CPU", cpu)):
        yield Row(
            what=f"planning of {CASES:,}{what}", unit="s", ours=[took], against="the bound", theirs=[BOUND],
            target=None if what else 1,
            binds="names told apart, the file system's list: docs/explanation/scale.md",
        )  # fmt: skip


def measure(command: list[str]) -> tuple[float, float, float, dict]:
    """(seconds, seconds of CPU, peak MB, last line) of a command."""
    began, peak, cpu = time.monotonic(), 0, 0.0
    with tempfile.TemporaryFile("w+") as out:
        job = psutil.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        while job.poll() is None:
            try:
                peak, cpu = max(peak, job.memory_info().rss), sum(job.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
            time.sleep(0.05)
        seconds = time.monotonic() - began
        out.seek(0)
        return seconds, cpu, peak / 1e6, json.loads(out.read().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES)
    wanted = parser.parse_args().cases
    print(f"{'job':12}{'cases':>9}{'seconds':>9}{'CPU s':>8}{'peak MB':>9}{'KB a case':>11}")
    with tempfile.TemporaryDirectory() as folder:
        for count in (FEW, wanted):
            make_cases(Path(folder, str(count)), count)
        for job, results in (("preprocess", "shards"), ("segment", "labelmaps")):
            before = 0.0
            for count in (FEW, wanted):
                place = Path(folder, str(count))
                command = [sys.executable, "-m", f"jobs.{job}", "--cases", str(place / "cases")]
                seconds, cpu, peak, line = measure([*command, f"--{results}", str(place / results)])
                assert line["unchanged"] == count, line
                a_case = f"{(peak - before) * 1e3 / count:11.1f}" if before else ""
                print(f"{job:12}{count:9}{seconds:9.1f}{cpu:8.1f}{peak:9.0f}{a_case}", flush=True)
                before = peak


if __name__ == "__main__":
    main()
