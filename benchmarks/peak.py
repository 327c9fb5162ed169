"""Peak memory that one 240×240×155 case takes in each stage, beside the imports and the model.

`python -m benchmarks.peak preprocess|predict|write|evaluate CASES` measures one stage in its own process.
"""

import ctypes
import gc
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.material import make_cases
from benchmarks.table import Row, python
from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.inference.segmenter import Segmenter
from bts.labels import CAVITY, REGIONS
from bts.model.file import Model
from bts.model.nets import build
from bts.presets import FAST
from bts.results.files import encode
from bts.scoring import metrics
from bts.shards.format import write_shard
from bts.storage import Store

STAGES = ("preprocess", "predict", "write", "evaluate")
CASES = 17


def rows(place: Path) -> Iterator[Row]:
    cases = make_cases(place, CASES)
    for stage in STAGES:
        peak = python("-m", "benchmarks.peak", stage, str(cases))["GiB"]
        yield Row(
            what=f"memory a case, {stage}",
            unit="GiB",
            ours=[peak],
            against="the bound",
            theirs=[1.0],
            target=1,
        )


def prepare(stage: str, folder: Path) -> Callable[[], object]:
    """What a worker of the stage does with one case, its inputs made beforehand."""
    store = Store(str(folder))
    case = find_cases(store.list(), "auto").cases[-1]
    if stage == "preprocess":
        return lambda: write_shard(load_case(case, store), {})
    volume = load_case(case, store)
    labels = volume.whole(volume.mask)
    if stage == "predict":
        torch.manual_seed(0)
        segmenter = Segmenter([Model(build(FAST), FAST, {}, "")])
        return lambda: segmenter(replace(volume, mask=None))
    if stage == "write":
        return lambda: encode(case, labels, volume.grid, case.labels, "bts")
    moved = np.roll(labels, 2, axis=1)
    return lambda: metrics.measure(labels, moved, REGIONS, CAVITY, spacing=(1.0, 1.0, 1.0))


def peak(work: Callable[[], object]) -> float:
    """GiB that the process grows by, at most, while it works."""
    process, over, highest = psutil.Process(), threading.Event(), 0

    def watch() -> None:
        nonlocal highest
        while not over.is_set():
            highest = max(highest, process.memory_info().rss)
            time.sleep(0.002)

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free must be taken anew, and so be seen
    before = process.memory_info().rss
    threading.Thread(target=watch, daemon=True).start()
    work()
    over.set()
    return (highest - before) / 2**30


if __name__ == "__main__":
    print(json.dumps({"GiB": peak(prepare(sys.argv[1], Path(sys.argv[2])))}))
