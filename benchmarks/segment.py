"""jobs.segment from bucket to bucket beside MONAI's SliceInferer with the same weights.

The network is a plain 2D U-Net of 7.8 million parameters, trained for two minutes. `python -m
benchmarks.segment alone CASES MODEL [ENGINE]` measures the predicting stage by itself.
"""

import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.material import make_cases, make_shards
from benchmarks.table import Row, in_turn, peer, python
from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.images.nifti import read_nifti
from bts.inference.options import Engine
from bts.inference.segmenter import Segmenter
from bts.labels import REGIONS, to_internal
from bts.model.file import load_model
from bts.scoring.metrics import mean_dice, score
from bts.storage import Store
from jobs import keep_freed_memory

CASES, PEER_CASES = 8, 1
RUNS = 2
BASIC = [
    "--layers.widths", "32", "64", "128", "256", "512", "--layers.stem", "1", "--budget.minutes", "2",
    "--sampling.kind", "slices", "--sampling.neighbours", "0", "--budget.validate-every", "99",
    # MONAI's chain has no such postprocessing.
    *("--inference.min-et-ml", "0", "--inference.min-et-share", "0", "--inference.min-tumour-ml", "0"),
    *("--inference.min-core-ml", "0", "--inference.min-et-piece-ml", "0", "--inference.fill-core", "False"),
]  # fmt: skip


def rows(place: Path) -> Iterator[Row]:
    cases, few, model = make_cases(place, CASES), make_cases(place, PEER_CASES), make_model(place)
    steady = []

    def ours() -> float:
        return run(cases, model, place / "labelmaps")[0]

    def by_ray() -> float:
        whole, going = run(cases, model, place / "by-ray", ray="yes")
        steady.append(going)
        return whole

    def monai() -> float:
        return peer("monai_segment.py", str(few), str(model), str(place / "monai-labelmaps"))["seconds"]

    mine, with_ray, theirs = in_turn(RUNS, ours, by_ray, monai)
    yield Row(
        what="segment, bucket to bucket", unit="s/case", ours=mine, against="MONAI SliceInferer",
        theirs=theirs, target=8, binds="convolutions: the row of the network",
    )  # fmt: skip
    yield Row(
        what="segment, by Ray", unit="s/case", ours=with_ray, against="MONAI SliceInferer", theirs=theirs,
    )  # fmt: skip
    yield Row(
        what="segment, once Ray is up", unit="s/case", ours=steady, against="MONAI SliceInferer",
        theirs=theirs, target=15, binds="convolutions: the row of the network",
    )  # fmt: skip
    dice = agreement(few, place / "labelmaps", place / "monai-labelmaps")
    yield Row(
        what="labelmaps of both, Dice in brain",
        unit="of 1",
        ours=[dice],
        against="equal",
        theirs=[1.0],
        target=0.99,
    )
    both = ["torch"] if importlib.util.find_spec("openvino") is None else ["torch", "openvino"]
    alone, *by_openvino = (
        python("-m", "benchmarks.segment", "alone", str(cases), str(model), engine)["seconds"]
        for engine in both
    )
    yield Row(
        what="segment, once Ray is up", unit="s/case", ours=steady, against="predicting alone",
        theirs=[alone] * RUNS, target=1 / 1.15, binds="reading and writing on the same cores",
    )  # fmt: skip
    for took in by_openvino:
        yield Row(
            what="predicting alone, by OpenVINO",
            unit="s/case",
            ours=[took],
            against="PyTorch",
            theirs=[alone],
        )


def make_model(place: Path) -> Path:
    """The model that both run."""
    if not (file := place / "basic.safetensors").exists():
        shards = make_shards(place, CASES)
        where = ["--shards", str(shards), "--models", str(place), "--name", "basic"]
        python("-m", "jobs.train", "fast", *where, *BASIC, MLFLOW_TRACKING_URI=f"sqlite:///{place}/mlflow.db")
    return file


def run(cases: Path, model: Path, labelmaps: Path, ray: str = "auto") -> tuple[float, float]:
    """(seconds a case of the whole job, between its first and its last marker)."""
    shutil.rmtree(labelmaps, ignore_errors=True)
    started = time.perf_counter()
    where = ["--cases", str(cases), "--model", str(model), "--labelmaps", str(labelmaps)]
    python("-m", "jobs.segment", *where, "--ray", ray)
    took = time.perf_counter() - started
    written = sorted(file.stat().st_mtime for file in (labelmaps / "_done").iterdir())
    return took / len(written), (written[-1] - written[0]) / (len(written) - 1)


def agreement(cases: Path, ours: Path, theirs: Path) -> float:
    """Mean Dice of whole tumour, core and enhancing tumour between labelmaps of these cases, in the brain.

    Outside it, where no image shows anything, this project looks for no tumour.
    """
    store, found = Store(str(cases)), []
    for case in find_cases(store.list(), "auto").cases:
        volume = load_case(case, store, truth=False)
        brain = volume.whole(volume.brain)
        (file,) = theirs.glob(f"{case.id}*.nii.gz")
        mine, other = (
            read_nifti(f.read_bytes(), f.name).voxels * brain for f in (ours / f"{case.id}.nii.gz", file)
        )
        # MONAI's script writes the project's own labels.
        mine, other = to_internal(mine, case.labels), other.astype(np.uint8)
        found.append(mean_dice(score(other, mine, REGIONS, {})))
    return float(np.mean(found))


def alone(folder: Path, model: Path, engine: Engine = "torch") -> float:
    """Seconds a case of the predicting stage, with every core and nothing beside it."""
    torch.set_num_threads(os.cpu_count())
    keep_freed_memory()  # as a job does
    segmenter, store, seconds = (
        Segmenter([load_model(model.read_bytes(), str(model))], engine=engine),
        Store(str(folder)),
        [],
    )
    for case in find_cases(store.list(), "auto").cases:
        volume = load_case(case, store, truth=False)
        started = time.perf_counter()
        segmenter(volume)
        seconds.append(time.perf_counter() - started)
    return sum(seconds[1:]) / len(seconds[1:])


if __name__ == "__main__":
    print(json.dumps({"seconds": alone(Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])}))
