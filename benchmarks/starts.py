"""How long a command takes before it does anything: its imports and its flags, by `--help`.

Beside the import of the command and of the libraries that its driver loaded before (20 November 2026), when
it did not need them yet.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.table import ROOT, Row, in_turn, timed

RUNS = 3
BEFORE = {
    "preprocess": "ray.data",
    "segment": "ray.data, torch",
    "train fast": "ray.data, ray.train, torch, mlflow",
    "evaluate": "ray.data, torch, matplotlib, mlflow",
}


def rows(place: Path) -> Iterator[Row]:
    for command, libraries in BEFORE.items():
        job, *words = command.split()
        ours, theirs = in_turn(
            RUNS,
            lambda job=job, words=words: timed(lambda: run("-m", f"jobs.{job}", *words, "--help")),
            lambda job=job, libraries=libraries: timed(lambda: run("-c", f"import {libraries}, jobs.{job}")),
        )
        yield Row(
            what=f"start of jobs.{job}", unit="s", ours=ours, against="with what it imported before",
            theirs=theirs, target=2, binds="imports: python -X importtime -m jobs." + job,
        )  # fmt: skip


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
