"""What does a bucket cost? `python -m benchmarks.scale`: hours, machines and money from figures of one case.

`--check` runs jobs.segment at two sizes on this machine, and sets the second beside what the first foretells;
`--driver` measures the most that one job can hand out, `--listing` what it must remember.
"""

import json
import math
import os
import resource
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.material import make_cases
from benchmarks.table import Row, python
from bts.cases.layouts import find_cases
from bts.model.file import save_model
from bts.model.nets import build
from bts.presets import FAST
from bts.storage import Entry
from jobs.driver.pipeline import Stage, stream

SIZES = (1_000, 100_000, 10_000_000)
SMALL, LARGE = 17, 68  # cases of the check
DRIVER_MS = 2.0  # of the driver's CPU a case, at most
WARMING = 200  # cases that start the workers, before
DRIVEN = 1000, 16_000  # those of the driver's measurement: few have a task each, of many several share one
LISTED = 1000  # keys that one request lists
READS, WRITES, KEYS = 4, 2, 7  # of segment, a case; keys are those of its files and of its results
LISTING = 20_000  # cases of the listing whose memory is measured


@dataclass
class Figures:
    """Of one case (240×240×155, four modalities), and of the machines and the bucket."""

    preprocess_s: float = 0.21
    """CPU seconds from files to shard."""
    read_s: float = 0.19
    """CPU seconds of segment's first stage."""
    write_s: float = 0.14
    """CPU seconds of segment's last stage."""
    predict_cpu_s: float = 4.3
    """CPU seconds of the predicting stage where there is no GPU: the bundled model."""
    predict_gpu_s: float = 0.18
    """GPU seconds of the predicting stage: the bundled model on one H200, docs/results/gpu.md."""
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
    hand_out_rate: float = 300.0
    """Cases a second that one job's driver hands out: what `--driver` measures."""
    prefix_gets: float = 5500.0
    """Reads a second that the store grants one prefix (S3's documented figure)."""
    prefix_puts: float = 3500.0
    """Writes a second, likewise."""
    list_s: float = 0.1
    """Seconds of a request that lists 1,000 keys, one after the other."""
    driver_gb: float = 16.0
    """Memory of the node that runs the job, GB."""
    case_kb: float = 2.7
    """Memory of the driver a listed case, KB: what `--listing` measures."""
    check: bool = False
    """Run jobs.segment at two sizes here instead."""
    driver: bool = False
    """Measure instead how many cases a second one job hands out, through three stages that do nothing."""
    driven: bool = False
    """Measure instead the driver's CPU a case of segment alone, of many cases: a row of `make bench`."""
    listing: bool = False
    """Measure instead the driver's memory a listed case."""


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


def bounds(figures: Figures) -> dict[str, float]:
    """The most cases a second of `segment` that each part grants, by part."""
    on_cores = figures.read_s + figures.write_s + (0 if figures.gpus else figures.predict_cpu_s)
    found = {
        "CPU cores": figures.cores / on_cores,
        "GPUs": figures.gpus / figures.predict_gpu_s,
        "the driver of one job": figures.hand_out_rate,
        "reads from one prefix": figures.prefix_gets / READS,
        "writes to one prefix": figures.prefix_puts / WRITES,
        "listing": LISTED / figures.list_s / KEYS,
    }
    return {part: rate for part, rate in found.items() if rate}


def print_bounds(figures: Figures) -> None:
    """What binds first, and the most cases that a driver's memory holds."""
    print("most cases a second of segment, the lowest first:")
    for part, rate in sorted(bounds(figures).items(), key=lambda item: item[1]):
        print(f"  {part:24}{rate:10,.0f}")
    held = figures.driver_gb * 1e6 / figures.case_kb
    print(f"a driver of {figures.driver_gb:g} GB holds the listing of {held:,.0f} cases")


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
    print_bounds(figures)


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


def hand_out(jobs: Sequence[str] = ("preprocess", "segment"), counts: Sequence[int] = DRIVEN) -> None:
    """What the driver computes and holds a case, of the pipelines of preprocess and segment with nothing in
    them; its last line is the last of them as JSON."""
    read, write = (Stage(name, Nothing(), resources={"num_cpus": 0.25}) for name in ("read", "write"))
    predict = Stage("predict", Nothing, size=1, resources={"num_cpus": 0.5})
    for name, stages in (("preprocess", [read]), ("segment", [read, predict, write])):
        if name not in jobs:
            continue
        for count in (WARMING, *counts):
            rows = [{"case_id": f"case-{n:06d}", "case": f"{n:2000}"} for n in range(count)]
            started, computed, held = time.perf_counter(), time.process_time(), most_held()
            done = sum(1 for _ in stream(name, rows, stages))
            took, computed = time.perf_counter() - started, time.process_time() - computed
            if count in counts:
                own, memory = 1e3 * computed / done, (most_held() - held) / done
                print(
                    f"{name}: {done} cases that cost nothing: {own:.2f} ms of the driver's CPU a case, "
                    f"{1e3 * took / done:.2f} ms in all; {memory:.1f} KB a case; {1e3 / own:.0f} a second",
                    flush=True,
                )
    print(json.dumps({"CPU": own, "in all": 1e3 * took / done}), flush=True)


def rows(place: Path) -> Iterator[Row]:
    """The driver's cost a case."""
    found = python("-m", "benchmarks.scale", "--driven")
    for of in ("CPU", "in all"):
        yield Row(
            what=f"the driver's cost a case, {of}", unit="ms", ours=[found[of]], against="the bound",
            theirs=[DRIVER_MS], target=1 if of == "CPU" else None,
            binds="Ray's own work, some 6 ms a task: docs/explanation/scale.md",
        )  # fmt: skip


def most_held() -> int:
    """The most memory that this process had at once, in KB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def weigh_listing() -> None:
    """Memory that planning takes: keys, cases and what is left to do."""
    names = [f"BraTS-GLI-{n:05d}-000" for n in range(LISTING)]
    kinds = [f"{kind}.nii.gz" for kind in ("t1n", "t1c", "t2w", "t2f", "seg")]
    tracemalloc.start()
    entries = [
        Entry(f"{name}/{name}-{kind}", 9_000_000, f"{name}{kind}", 0.0) for name in names for kind in kinds
    ]
    cases = find_cases(entries).cases
    held = tracemalloc.get_traced_memory()[1]
    print(f"{len(cases)} cases: {held / len(cases) / 1e3:.1f} KB a case at most")


def main() -> None:
    figures = tyro.cli(Figures, prog=f"{Path(sys.executable).name} -m benchmarks.scale", description=__doc__)
    if figures.check:
        check()
    elif figures.driver:
        hand_out()
    elif figures.driven:
        hand_out(["segment"], DRIVEN[1:])
    elif figures.listing:
        weigh_listing()
    else:
        table(figures)


if __name__ == "__main__":
    main()
