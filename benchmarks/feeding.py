"""Shards to training batches beside MONAI's and TorchIO's loaders, and what Ray Data's path costs.

`python -m benchmarks.feeding one|bare|ray SHARDS` measures one way: on one core from shards to tensors, or
reading alone on all cores, without Ray and through it.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import torch

from benchmarks.material import make_cases, make_shards
from benchmarks.table import Row, in_turn, peer, python
from bts.presets import FAST
from bts.settings import Preset
from bts.shards.catalogue import read_catalogue
from bts.storage import Store
from bts.training.batches import collate, samples_of
from bts.training.plan import Plan, make_plan
from bts.training.rows import read_rows
from jobs.driver.cluster import start_ray
from jobs.workers.feed import Feed
from jobs.workers.rank import Job
from jobs.workers.train import through_ray as by_ray

CASES, SHARDS = 6, 102
RUNS = 2
GOAL = 1500.0  # slices a second of a core


def rows(place: Path) -> Iterator[Row]:
    cases, few, many = make_cases(place, CASES), make_shards(place, CASES), make_shards(place, SHARDS)

    def ours(way: str, shards: Path, cores: str = "") -> float:
        return python("-m", "benchmarks.feeding", way, str(shards), cores=cores)["slices_per_second"]

    def loader(script: str) -> float:
        return peer(script, str(cases), cores="0")["slices_per_second"]

    mine, monai, torchio = in_turn(
        RUNS,
        lambda: ours("one", few, "0"),
        lambda: loader("monai_loader.py"),
        lambda: loader("torchio_loader.py"),
    )
    for against, theirs, target in (
        ("MONAI loader", monai, 10),
        ("TorchIO queue", torchio, 10),
        ("the goal", [GOAL] * RUNS, 1),
    ):
        yield Row(
            what="feeding, one core",
            unit="slices/s",
            ours=mine,
            against=against,
            theirs=theirs,
            target=target,
        )
    through, bare = in_turn(RUNS, lambda: ours("ray", many), lambda: ours("bare", many))
    yield Row(
        what="reading through Ray Data", unit="slices/s", ours=through, against="the bare reader",
        theirs=bare, target=0.8, binds="pixels pass through the object store: docs/results/performance.md",
    )  # fmt: skip


def plan_of(shards: Path) -> Plan:
    """All of the shards' patients but those of the first fold."""
    return make_plan(read_catalogue(Store(str(shards))), FAST, fold=0)


def read(store: Store, preset: Preset, epoch: int, key: str) -> pa.Table:
    """A shard as a training worker's reader gives it."""
    return read_rows(pa.Table.from_pylist([{"epoch": epoch, "key": key}]), store, preset, {}, whole=False)


def one(shards: Path) -> float:
    """Slices a second from shards to tensors, by one thread."""
    torch.set_num_threads(1)
    store, rng, made = Store(str(shards)), np.random.default_rng(0), 0
    entries = [entry.key for entry in store.list() if entry.key.endswith(".parquet")]
    started = time.perf_counter()
    for epoch in range(2):
        for key in entries:
            samples = samples_of(read(store, FAST, epoch, key), FAST, rng)
            for first in range(0, len(samples), FAST.batch):
                batch = collate(samples[first : first + FAST.batch], FAST, rng)
                made += len(torch.from_numpy(batch["images"]))
    return made / (time.perf_counter() - started)


def bare(shards: Path) -> float:
    """Slices a second that threads, one a core, read."""
    store, plan = Store(str(shards)), plan_of(shards)
    pa.set_cpu_count(1)  # a thread a core is enough
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        started = time.perf_counter()
        tables = threads.map(lambda shard: read(store, plan.preset, 1, shard.key), plan.training)
        return sum(map(len, tables)) / (time.perf_counter() - started)


def through_ray(shards: Path) -> float:
    """Slices a second as a training worker gets them, once Ray's workers are up."""
    start_ray()
    plan = plan_of(shards)
    feed = Feed(Job(plan=plan, provenance={}, shards=Store(str(shards)), parts=1), 0, 1, by_ray)
    feed.keeps = False
    sum(map(len, feed.tables(0)))
    started = time.perf_counter()
    slices = sum(map(len, feed.tables(1)))
    took = time.perf_counter() - started
    feed.pieces.close()  # else a piece of the next epoch would be read while Ray ends
    ray.shutdown()
    return slices / took


if __name__ == "__main__":
    way = {"one": one, "bare": bare, "ray": through_ray}[sys.argv[1]]
    print(json.dumps({"slices_per_second": way(Path(sys.argv[2]))}), flush=True)
    os._exit(0)  # the piece that is read ahead is not waited for
