"""The network of the bundled model beside the machine's bfloat16 matrix product, in operations a second.

`python -m benchmarks.network CASES` measures both, on all cores. Where the machine has no bfloat16, both are
float32, as jobs.segment computes there.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.material import make_cases
from benchmarks.table import Row, python
from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.inference.segmenter import Segmenter
from bts.model.device import autocast
from bts.model.file import BUNDLED, load_model, read_models
from bts.storage import Store

SIDE = 2048  # of the square matrices
RUNS = 3


def rows(place: Path) -> Iterator[Row]:
    found = python("-m", "benchmarks.network", str(make_cases(place, 1)))
    yield Row(
        what="network of the bundled model", unit="TFLOP/s", ours=found["network"],
        against=f"matrix product, {found['dtype']}", theirs=found["product"], target=0.6,
        binds="convolutions: benchmarks.network under torch.profiler (docs/results/performance.md)",
    )  # fmt: skip


def measure(cases: Path) -> dict:
    """Both in turn, RUNS times, in 10¹² operations a second; the forward pass of the network alone counts."""
    torch.set_num_threads(os.cpu_count() or 1)
    store = Store(str(cases))
    volume = load_case(find_cases(store.list()).cases[0], store, truth=False)
    (data,) = read_models(BUNDLED)[:1]
    segmenter, spans = Segmenter([load_model(data, BUNDLED)], "cpu"), []
    network = segmenter.models[0].network
    network.register_forward_pre_hook(lambda *_: spans.append(-time.perf_counter()))
    network.register_forward_hook(lambda *_: spans.append(time.perf_counter()))
    with FlopCounterMode(display=False) as counter:  # also warms up
        segmenter.probabilities(volume)
    with autocast(torch.device("cpu")):
        dtype = (torch.ones(8, 8) @ torch.ones(8, 8)).dtype
    ours, theirs = [], []
    for _ in range(RUNS):
        spans.clear()
        segmenter.probabilities(volume)
        ours.append(counter.get_total_flops() / sum(spans) / 1e12)
        theirs.append(product(dtype))
    return {"network": ours, "product": theirs, "dtype": str(dtype).removeprefix("torch.")}


def product(dtype: torch.dtype) -> float:
    """10¹² operations a second of square matrices, the best of several."""
    a, b = (torch.rand(SIDE, SIDE).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * SIDE**3 / (time.perf_counter() - started) / 1e12)
    return best


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
