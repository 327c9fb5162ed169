"""What does a bucket cost? `python -m benchmarks.scale`: hours, machines and money from figures of one case.

`--check` runs jobs.segment at two sizes on this machine, and sets the second beside what the first foretells;
`--driver` measures the most that one job can hand out.
"""

import json
import math
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import ray
import tyro

from benchmarks.material import make_cases
from benchmarks.table import python
from bts.model import save_model
from bts.nets import build
from bts.presets import FAST
from jobs import common

SIZES = (1_000, 100_000, 10_000_000)
SMALL, LARGE = 17, 68  # cases of the check
DRIVEN = 2000  # cases of the driver's measurement, after 200 that start the workers
LISTED = 1000  # keys that one request lists


@dataclass
class Figures:
    """Of one case (240×240×155, four modalities), and of the machines and the bucket."""

    preprocess_s: float = 0.4
    """CPU seconds from files to shard."""
    read_s: float = 0.27
    """CPU seconds of segment's first stage."""
    write_s: float = 0.1
    """CPU seconds of segment's last stage."""
    predict_cpu_s: float = 1.2
    """CPU seconds of the predicting stage where there is no GPU."""
    predict_gpu_s: float = 0.05
    """GPU seconds of the predicting stage."""
    cores: int = 64
    """CPU cores of the cluster."""
    gpus: int = 4
    """GPUs of the cluster; 0: predict on the cores."""
    core_price: float = 0.04
    """Of a core, an hour."""
    gpu_price: float = 3.0
    """Of a GPU, an hour."""
    source_mb: float = 8.7
    """Of a case's files in the bucket."""
    shard_mb: float = 7.4
    """Of its shard."""
    get_price: float = 0.4e-6
    """Of one request that reads."""
    put_price: float = 5e-6
    """Of one request that writes or lists."""
    check: bool = False
    """Run jobs.segment at two sizes here instead."""
    driver: bool = False
    """Measure instead how many cases a second one job hands out, through three stages that do nothing."""


def hours(figures: Figures, cases: int) -> tuple[float, float, str]:
    """(hours of preprocess, hours of segment, which part of the cluster binds segment)."""
    stages = figures.read_s + figures.write_s
    on_cores = (stages + (0 if figures.gpus else figures.predict_cpu_s)) * cases / figures.cores
    on_gpus = figures.predict_gpu_s * cases / figures.gpus if figures.gpus else 0
    binds = "CPU" if on_cores >= on_gpus else "GPU"
    return figures.preprocess_s * cases / figures.cores / 3600, max(on_cores, on_gpus) / 3600, binds


def requests(cases: int) -> tuple[int, int]:
    """(reads, writes and lists) of preprocess and segment together, as benchmarks.requests counts them."""
    listing = 2 * math.ceil(5 * cases / LISTED) + 2 * math.ceil(cases / LISTED)
    return (5 + 4) * cases, (1 + 2) * cases + listing


def table(figures: Figures) -> None:
    an_hour = figures.cores * figures.core_price + figures.gpus * figures.gpu_price
    print(f"{figures.cores} cores, {figures.gpus} GPUs: {an_hour:.2f} an hour")
    balance = (figures.read_s + figures.write_s) / figures.predict_gpu_s
    print(f"a GPU keeps {balance:.0f} cores busy that read and write")
    head = (
        "cases",
        "preprocess, h",
        "segment, h",
        "binds",
        "machines",
        "requests",
        "source, TB",
        "shards, TB",
    )
    print("".join(f"{name:>15}" for name in head))
    for cases in SIZES:
        first, second, binds = hours(figures, cases)
        reads, writes = requests(cases)
        asked = reads * figures.get_price + writes * figures.put_price
        place = (cases * figures.source_mb / 1e6, cases * figures.shard_mb / 1e6)
        numbers = ((first + second) * an_hour, asked, *place)
        print(f"{cases:15,}{first:15.2f}{second:15.2f}{binds:>15}", *(f"{n:14.2f}" for n in numbers))


def check() -> None:
    """The slope of two runs beside the sum of the stages' seconds of the first."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "fast.safetensors").write_bytes(save_model(build(FAST), FAST, {}))
        took = {}
        for cases in (SMALL, LARGE):
            shutil.rmtree(place / "labelmaps", ignore_errors=True)
            where = ["--cases", str(make_cases(place, cases)), "--labelmaps", str(place / "labelmaps")]
            started = time.perf_counter()
            python("-m", "jobs.segment", "--model", str(place / "fast.safetensors"), *where)
            took[cases] = time.perf_counter() - started
            markers = [json.loads(f.read_text())["seconds"] for f in (place / "labelmaps/_done").iterdir()]
            seconds = {stage: sum(m[stage] for m in markers) / len(markers) for stage in markers[0]}
            stages = ", ".join(f"{stage} {s:.2f} s" for stage, s in seconds.items())
            print(f"{cases} cases: {took[cases]:.1f} s; a case, within its stages: {stages}", flush=True)
    slope = (took[LARGE] - took[SMALL]) / (LARGE - SMALL)
    start = took[SMALL] - SMALL * slope
    print(f"start {start:.1f} s, then {slope:.2f} s a case on {os.cpu_count()} cores")


class Nothing:
    """A stage that does nothing with a row."""

    def __call__(self, row: dict) -> dict:
        return row


def hand_out() -> None:
    """A row a block through a task, an actor and a task, as jobs.segment sends its cases."""
    common.start_ray()
    for count in (200, DRIVEN):
        rows = [{"case": "x" * 2000, "n": n} for n in range(count)]
        data = ray.data.from_items(rows, override_num_blocks=count).map(Nothing().__call__, num_cpus=0.25)
        data = data.map(Nothing, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=0.5)
        started = time.perf_counter()
        done = sum(1 for _ in data.map(Nothing().__call__, num_cpus=0.25).iter_rows())
        took = time.perf_counter() - started
    print(f"{done} cases that cost nothing: {took:.1f} s, {done / took:.0f} a second")


def main() -> None:
    figures = tyro.cli(Figures, prog=f"{Path(sys.executable).name} -m benchmarks.scale", description=__doc__)
    if figures.check:
        check()
    elif figures.driver:
        hand_out()
    else:
        table(figures)


if __name__ == "__main__":
    main()
