"""Training by Ray Train, and without Ray, beside the same steps in a bare loop: what Ray costs, and the wait
for data.

`python -m benchmarks.training bare SHARDS` measures the bare loop alone.
"""

import dataclasses
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from mlflow import MlflowClient

from benchmarks.accuracy.alone import batches_of
from benchmarks.feeding import plan_of
from benchmarks.material import make_shards
from benchmarks.table import Row, in_turn, python
from bts.settings import Budget
from bts.storage import Store
from bts.training import loop

SHARDS = 4  # an epoch is a quarter to half a minute on two cores
EPOCHS = 2
RUNS = 2


def rows(place: Path) -> Iterator[Row]:
    shards, waits = make_shards(place, SHARDS), []

    def ours() -> float:
        rate, wait = trained(shards)
        waits.append(wait)
        return rate

    mine, alone, theirs = in_turn(
        RUNS,
        ours,
        lambda: trained(shards, ray="no")[0],
        lambda: python("-m", "benchmarks.training", "bare", str(shards))["samples_per_second"],
    )
    yield Row(
        what="training by Ray Train", unit="slices/s", ours=mine, against="a bare loop", theirs=theirs,
        target=0.97, binds="Ray's processes beside the training: docs/results/performance.md",
    )  # fmt: skip
    yield Row(
        what="training without Ray", unit="slices/s", ours=alone, against="a bare loop", theirs=theirs,
        target=0.97,
    )  # fmt: skip
    yield Row(
        what="share of steps without a wait", unit="of time", ours=[1 - wait for wait in waits],
        against="all", theirs=[1.0] * len(waits), target=0.95,
    )  # fmt: skip


def trained(shards: Path, workers: int = 1, cores: str = "", ray: str = "yes") -> tuple[float, float]:
    """(slices a second, share of waiting) of jobs.train, the median of the epochs after the first."""
    with tempfile.TemporaryDirectory() as place:
        store = f"sqlite:///{place}/mlflow.db"
        budget = ["--budget.minutes", "None", "--budget.epochs", str(EPOCHS), "--budget.validate-every", "9"]
        folders = ["--shards", str(shards), "--models", place]
        flags = [*folders, *budget, "--workers", str(workers), "--ray", ray]
        python("-m", "jobs.train", "fast", *flags, cores=cores, MLFLOW_TRACKING_URI=store)
        client = MlflowClient(store)
        (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
        names = ("samples_per_second", "wait_share")
        history = [[m.value for m in client.get_metric_history(run.info.run_id, n)][1:] for n in names]
    return statistics.median(history[0]), statistics.median(history[1])


def bare(shards: Path) -> float:
    """Slices a second of the same network, steps and batches in a plain loop, after the first epoch."""
    torch.set_num_threads(os.cpu_count())
    store, plan = Store(str(shards)), plan_of(shards)
    preset = dataclasses.replace(plan.preset, budget=Budget(epochs=EPOCHS))
    rates = []
    loop.train(
        preset,
        batches=batches_of(plan, store),
        on_epoch=lambda progress: rates.append(progress.metrics["samples_per_second"]),
    )
    return statistics.median(rates[1:])


if __name__ == "__main__":
    print(json.dumps({"samples_per_second": bare(Path(sys.argv[2]))}))
