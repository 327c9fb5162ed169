"""Adopted models beside their own tools' commands: `python -m benchmarks.adopted bundle|onnx|nnunet`.

The same model (random weights) and the same full-size cases, in turn: jobs.segment in one process, and
`monai.bundle run` or `nnUNetv2_predict_from_modelfolder` (in .venv-nnunet) on as many cores. Prints cases an
hour, CPU seconds a case, the peak memory of all processes, and how many voxels of the labelmaps differ.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import nibabel as nib
import numpy as np
import psutil
import torch
import tyro

from benchmarks.material import make_cases, make_phantoms
from benchmarks.table import ROOT
from bts.inference.options import Engine
from jobs.driver.here import UseRay
from tests import bundles, nnunet_folders

NETWORK = bundles.NETWORK | {"blocks_down": [1, 2, 2, 4], "blocks_up": [1, 1, 1], "init_filters": 16}
"""Of MONAI's brats_mri_segmentation."""
STEPS = '[[steps]]\nstep = "zscore"\nnonzero = true\nchannel_wise = true\n'
MODALITIES = {"T1": "t1n", "T1ce": "t1c", "T2": "t2w", "FLAIR": "t2f"}
NNUNET = ROOT / ".venv-nnunet" / "bin" / "nnUNetv2_predict_from_modelfolder"


@dataclass
class Settings:
    """What is run, and how often."""

    model: Annotated[Literal["bundle", "onnx", "nnunet"], tyro.conf.Positional]
    """onnx is run by ours as a graph, and by MONAI as the network that it was exported from."""
    cases: int = 4
    """In one run; their start counts."""
    runs: int = 2
    """Of each, in turn."""
    window: tuple[int, int, int] = (128, 128, 128)
    """Voxels of the network's window; MONAI's own bundle has 240 240 160."""
    engine: Engine = "torch"
    """As jobs.segment has it."""
    ray: UseRay = "no"
    """As jobs.segment has it. What Ray's processes take of the CPUs is not counted."""
    size: tuple[int, int, int] | None = None
    """x, y, z voxels of phantoms instead of the full-size cases, so that thousands fit into an hour."""


@dataclass(frozen=True, slots=True)
class Took:
    """One command: seconds on the wall, of all its processors, and GiB of all its processes together."""

    wall: float
    cpu: float
    memory: float


def watched(command: list[str], where: Path) -> Took:
    """Run a command to its end. Raises SystemExit where it fails."""
    started, before, most = time.perf_counter(), os.times(), 0.0
    with (where / "log.txt").open("w") as log:
        job = psutil.Popen(
            command, cwd=where, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        while job.poll() is None:
            most = max(most, sum(map(memory, (job, *job.children(recursive=True)))))
            time.sleep(0.2)
    if job.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with {job.returncode}\n{(where / 'log.txt').read_text()[-3000:]}"
        )
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(time.perf_counter() - started, cpu, most / 2**30)


def memory(process: psutil.Process) -> int:
    """Bytes, pages that several processes share counted once."""
    try:
        return process.memory_full_info().pss
    except psutil.Error:
        return 0


def bundle(place: Path, asked: Settings) -> tuple[Path, Path]:
    """(bundle as MONAI's model zoo has it, what is adopted)"""
    inferer = {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(asked.window),
        "sw_batch_size": 1,
        "overlap": 0.5,
    }
    folder = bundles.write_bundle(place / "bundle", network_def=NETWORK, inferer=inferer)
    if asked.model == "bundle":
        return folder, folder
    graph = place / "graph"
    graph.mkdir()
    (graph / "model.toml").write_text(
        'channels = ["t1ce", "t1", "t2", "flair"]\noutputs = ["TC", "WT", "ET"]\n'
        f"[window]\nroi_size = {list(asked.window)}\noverlap = 0.5\n{STEPS}"
    )
    program = torch.onnx.export(
        bundles.untrained(NETWORK), (torch.zeros(1, 4, *asked.window),), dynamo=True, verbose=False
    )
    program.save(graph / "model.onnx")
    return folder, graph


def nnunet(place: Path, asked: Settings) -> tuple[Path, Path]:
    """A trained folder, of regions and mirrored along every axis, twice."""
    plan = {"patch_size": list(asked.window)}
    folder = nnunet_folders.write(place / "nnunet", regions=True, mirror=(0, 1, 2), plan=plan)
    return folder, folder


def by_monai(folder: Path, cases: Path) -> Callable[[Path], list[str]]:
    """`monai.bundle run`, which writes to a folder."""
    images = [
        [f"{c.name}/{c.name}-{name}.nii.gz" for name in bundles.CHANNELS] for c in sorted(cases.iterdir())
    ]
    listed = {"testing": [{"image": one} for one in images]}
    (folder / "configs" / "datalist.json").write_text(json.dumps(listed))
    told = {
        "config_file": folder / "configs" / "inference.json",
        "meta_file": folder / "configs" / "metadata.json",
        "bundle_root": folder,
        "dataset_dir": cases,
        "evaluator::amp": False,
    }
    flags = [text for name, value in told.items() for text in (f"--{name}", str(value))]
    return lambda output: [
        *(sys.executable, "-m", "monai.bundle", "run"),
        *flags,
        *("--output_dir", str(output)),
    ]


def by_nnunet(folder: Path, cases: Path, place: Path) -> Callable[[Path], list[str]]:
    """`nnUNetv2_predict_from_modelfolder`, with one process that reads and one that writes."""
    inputs = place / "inputs"
    inputs.mkdir()
    for case in cases.iterdir():
        for channel, name in enumerate(MODALITIES.values()):
            os.link(case / f"{case.name}-{name}.nii.gz", inputs / f"{case.name}_{channel:04d}.nii.gz")
    given = ["-m", str(folder), "-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1"]
    return lambda output: [str(NNUNET), "-i", str(inputs), "-o", str(output), *given]


def differ(ours: Path, theirs: Path) -> float:
    """The share of voxels that have another label, over all cases."""
    shares = []
    for path in sorted(ours.glob("*.nii.gz")):
        case = path.name.removesuffix(".nii.gz")
        (other,) = theirs.rglob(f"{case}*.nii.gz")
        mine, peers = (np.asanyarray(nib.load(one).dataobj) for one in (path, other))
        shares.append((mine != peers).mean())
    return float(np.mean(shares))


def compare(asked: Settings, place: Path) -> None:
    cases = make_phantoms(place, asked.cases, asked.size) if asked.size else make_cases(place, asked.cases)
    theirs, adopted = (nnunet if asked.model == "nnunet" else bundle)(place, asked)
    peer = by_nnunet(theirs, cases, place) if asked.model == "nnunet" else by_monai(theirs, cases)
    python = [sys.executable, "-m"]
    watched([*python, "jobs.adopt", str(adopted), "--models", str(place / "models"), "--name", "one"], place)
    labels = "1=ED,2=NCR,3=ET" if asked.model == "nnunet" else "brats2021"
    where = ["--cases", str(cases), "--model", str(place / "models" / "one.safetensors"), "--ray", asked.ray]
    where += ["--engine", asked.engine]
    found: dict[str, list[Took]] = {"ours": [], "theirs": []}
    for _ in range(asked.runs):
        for who in found:
            output = place / who
            shutil.rmtree(output, ignore_errors=True)
            mine = [*python, "jobs.segment", *where, "--labels", labels, "--labelmaps", str(output)]
            found[who].append(watched(mine if who == "ours" else peer(output), place))
            took = found[who][-1]
            print(
                f"{asked.model:8}{who:8}{3600 * asked.cases / took.wall:8.1f} cases/h"
                f"{took.cpu / asked.cases:9.1f} CPU s a case{took.memory:7.2f} GiB",
                flush=True,
            )
    ratios = {
        what: statistics.median(
            getattr(t, what) / getattr(o, what) for o, t in zip(*found.values(), strict=True)
        )
        for what in ("wall", "cpu", "memory")
    }
    told = ", ".join(f"{what} {ratio:.2f}" for what, ratio in ratios.items())
    print(f"theirs over ours: {told}; {differ(place / 'ours', place / 'theirs'):.1e} of the voxels differ")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        compare(tyro.cli(Settings, prog="python -m benchmarks.adopted", description=__doc__), Path(folder))
