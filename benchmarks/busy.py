"""How much of its time is a GPU at work? `python -m benchmarks.busy`: jobs.segment's stages, the GPU a fake.

Its network sleeps, one case at a time. Reading and writing are stubs; what travels has the size of
a real case: four modalities of a brain to the GPU, from it what is said of a tumour.
"""

import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.material import make_cases
from benchmarks.table import Row, python
from bts.cases.layouts import find_cases
from bts.cases.worklist import Todo
from bts.inference.options import SegmentOptions
from bts.inference.prediction import CERTAIN, Prediction
from bts.model.file import BUNDLED, read_models
from bts.model.load import load
from bts.storage import Store
from jobs.driver.cluster import start_ray
from jobs.driver.pipeline import Stage, stream
from jobs.driver.predicting import GPU_CASES, IO_CPUS, IO_TASKS
from jobs.workers.predict import Predict
from jobs.workers.read import Read
from jobs.workers.write import Write

BRAIN, TUMOUR = (146, 171, 136), (80, 90, 80)  # voxels of a crop, and of the box of what is predicted
TARGETS = 3
WARM = 30  # cases while workers start
MANY = 2100  # cases of `make bench`: two share a task
REAL = 4  # cases through the real stages


@dataclass
class Settings:
    """How long, and with how much beside it."""

    cases: int = 200
    """Cases that are counted, after WARM that are not."""
    seconds: float = 0.05
    """Of the network, a case."""
    at_once: int = GPU_CASES
    """Cases at a time in the actor."""
    tasks: int = IO_TASKS
    """Tasks that read, and as many that write."""
    beside: bool = False
    """Measure instead what the real stages compute beside the network, on one core: there the predicting one
    does what a GPU would do, too."""


def read(row: dict) -> dict:
    """A case out of nowhere."""
    images, outline = np.zeros((4, *BRAIN), np.int16), np.zeros(math.prod(BRAIN) // 8, np.uint8)
    return {**row, "images": images, "outline": outline, "volume": "x" * 1500, "noise": []}


class FakePredict:
    """A GPU: copies come and go while the network is at another case."""

    def __init__(self, seconds: float):
        self.seconds, self.device = seconds, threading.Lock()
        labels = np.ones(TUMOUR, np.uint8)
        self.said = Prediction(
            box=tuple(slice(0, side) for side in TUMOUR),
            labels=labels,
            members=(),
            probabilities=np.full((TARGETS, *TUMOUR), CERTAIN, np.uint16),
            totals=(0.0,) * TARGETS,
        )

    def __call__(self, row: dict) -> dict:
        row.pop("images").copy()  # into pinned memory
        with self.device:
            started = time.time()
            time.sleep(self.seconds)
            ended = time.time()
        times = {"started": started, "ended": ended, "computed": time.process_time()}
        return {**row, "said": self.said, **times}


def write(row: dict) -> dict:
    """Nothing of it."""
    return {name: row[name] for name in ("started", "ended", "computed")}


def fake(asked: Settings) -> None:
    """The share of its time that the GPU is at work, and the CPU seconds of what may keep it waiting."""
    io = {"size": asked.tasks, "resources": {"num_cpus": IO_CPUS}}
    stages = [
        Stage("read", read, **io),
        Stage("predict", FakePredict, (asked.seconds,), 1, {"num_cpus": IO_CPUS}, asked.at_once),
        Stage("write", write, **io),
    ]
    rows = [{"case_id": f"{n:05d}", "case": "x" * 2000} for n in range(WARM + asked.cases)]
    start_ray()
    driver = time.process_time()
    done = sorted(stream("busy", rows, stages), key=lambda row: row["started"])[WARM:]
    driver = time.process_time() - driver
    at_work, took = sum(row["ended"] - row["started"] for row in done), done[-1]["ended"] - done[0]["started"]
    actor = done[-1]["computed"] - done[0]["computed"]
    each, actor, driver = 1000 * took / len(done), 1000 * actor / len(done), 1000 * driver / len(rows)
    print(f"{len(done)} cases, {each:.0f} ms each: the GPU is at work {at_work / took:.0%} of the time")
    print(f"CPU a case: {actor:.1f} ms of its actor, {driver:.1f} ms of the driver")
    print(json.dumps({"at_work": at_work / took}))


def rows(place: Path) -> Iterator[Row]:
    shares = [python("-m", "benchmarks.busy", "--cases", str(MANY))["at_work"]]
    yield Row(
        what="a GPU of 0.05 s a case, at work", unit="of time", ours=shares, against="all", theirs=[1.0],
        target=0.9, binds="the tasks of Ray beside it: python -m benchmarks.busy says whose CPU",
    )  # fmt: skip


def beside() -> None:
    """CPU milliseconds a case of each stage, and of its network: the 2D one of the bundled model."""
    network = []
    with tempfile.TemporaryDirectory() as folder:
        cases, labelmaps = Store(str(make_cases(Path(folder), REAL))), Store(f"{folder}/labelmaps")
        options, models = SegmentOptions(), [load(read_models(BUNDLED)[0], BUNDLED)]
        predicts = Predict(lambda: models, "cpu", 1, options)
        for one in predicts.segmenter.models:
            one.network.register_forward_pre_hook(lambda *_: network.append(-time.process_time()))
            one.network.register_forward_hook(lambda *_: network.append(time.process_time()))
        stages = [Read(cases), predicts, Write(cases, labelmaps, [], predicts.segmenter.finish, options)]
        took = dict.fromkeys(("read", "predict", "write"), 0.0)
        for case in find_cases(cases.list()).cases:
            row = {**Todo(case, "0" * 12).to_row(), "present": []}
            for name, stage in zip(took, stages, strict=True):
                started = time.process_time()
                row = {**row, **stage(row)}
                took[name] += time.process_time() - started
    took["network"] = sum(network)
    took["predict"] -= took["network"]
    print(f"{REAL} cases:", ", ".join(f"{name} {1000 * s / REAL:.0f} ms" for name, s in took.items()))


def main() -> None:
    asked = tyro.cli(Settings, prog=f"{Path(sys.executable).name} -m benchmarks.busy", description=__doc__)
    if asked.beside:
        beside()
    else:
        fake(asked)


if __name__ == "__main__":
    main()
