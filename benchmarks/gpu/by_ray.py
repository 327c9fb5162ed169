"""The jobs by Ray beside a GPU, and tests: `python -m benchmarks.gpu.by_ray [STEP …] --place DIR --out DIR`.

Each step is a command with a time limit of its own, and none stops the next. OUT/ray.jsonl gets a line a step
as it ends: exit code, seconds, what it said last, its figures. --quick: few small cases, a step at a time and
four times as long, to rehearse it on two cores.

    phantoms  drawn at whole size, and shards of them
    bundled   jobs.segment by Ray over many copies of them, with nothing beside it: cases an hour, how busy
              the GPU was
    adopted   each model of DIR/models by Ray, with `before` and `after` beside the GPU, and without Ray: the
              voxels that differ
    train     two DDP workers on the GPU, killed after their first epoch and begun again; then one worker
    tests     those of training, inference and models; OUT/tests.log
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

SAID = 3000  # characters of a command's end that are kept
EVERY_S = 0.1  # between two looks at the GPU
COPIES = 10  # of each phantom, which takes longer to draw than to segment
TESTS = ("tests/unit/training", "tests/unit/inference", "tests/unit/model")
SHORT = ("--budget.minutes", "0.3", "--budget.validate-every", "1000")


class Busy(threading.Thread):
    """Looks at the GPU all the while."""

    def __init__(self):
        super().__init__(daemon=True)
        self.looks: list[tuple[float, int]] = []
        """(time, percent of it in which the GPU was at work)"""

    def run(self) -> None:
        while torch.cuda.is_available():
            self.looks.append((time.time(), torch.cuda.utilization()))
            time.sleep(EVERY_S)

    def between(self, first: float, last: float) -> float | None:
        """Mean percent of that time."""
        found = [percent for when, percent in self.looks if first <= when <= last]
        return round(statistics.fmean(found), 1) if found else None


class Steps:
    """Commands in DIR, and what became of each in OUT/ray.jsonl."""

    def __init__(self, place: Path, out: Path, patience: int):
        """patience: how many times as long as its limit a command may take."""
        self.place, self.out, self.patience = place, out, patience
        self.lock, self.busy = threading.Lock(), Busy()
        self.busy.start()

    def tell(self, name: str, **figures: object) -> None:
        with self.lock, open(self.out / "ray.jsonl", "a") as file:
            print(json.dumps({"step": name, **figures}), file=file)
        print(name, figures.get("rc", ""), figures.get("seconds", ""), flush=True)

    def run(self, name: str, limit: float, *command: object, until: str = "", log: Path | None = None) -> int:
        """The command's exit code; until: killed as soon as a line of it begins so."""
        log, began = log or self.place / "logs" / f"{name}.log", time.monotonic()
        limit *= self.patience
        with open(log, "w") as file:
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while process.poll() is None and time.monotonic() - began < limit:
            if until and any(line.startswith(until) for line in log.read_text().splitlines()):
                break
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):  # its Ray, too
            os.killpg(process.pid, signal.SIGKILL)
        code, seconds = process.wait(), round(time.monotonic() - began, 1)
        said = log.read_text(errors="replace")[-SAID:]
        self.tell(name, rc=code, seconds=seconds, limit=limit, until=until, said=said)
        return code

    def segment(self, name: str, limit: float, *flags: object) -> None:
        """jobs.segment, and the figures of its markers."""
        labelmaps = self.place / name
        self.run(name, limit, "-m", "jobs.segment", *flags, "--labelmaps", labelmaps)
        markers = sorted(labelmaps.glob("_done/*.json"), key=lambda path: path.stat().st_mtime)
        if len(markers) < 2:
            return
        first, last = (path.stat().st_mtime for path in (markers[0], markers[-1]))
        seconds = [json.loads(path.read_text())["seconds"] for path in markers]
        self.tell(
            f"{name} figures",
            cases=len(markers),
            first_to_last_s=round(last - first, 2),
            cases_an_hour=round(3600 * (len(markers) - 1) / max(last - first, 0.01)),
            stage_s={stage: statistics.median(one[stage] for one in seconds) for stage in seconds[0]},
            gpu_busy_percent=self.busy.between(first, last),
        )

    def compare(self, name: str, ours: str, theirs: str) -> None:
        """Labelmaps of two runs, where both have one."""
        differ, same, voxels = {}, 0, 0
        for path in sorted((self.place / ours).glob("*.nii.gz")):
            if (other := self.place / theirs / path.name).exists():
                one, two = (np.asanyarray(nib.load(file).dataobj) for file in (path, other))
                same += path.read_bytes() == other.read_bytes()
                voxels += one.size
                differ[path.name] = int((one != two).sum())
        self.tell(name, cases=len(differ), same_bytes=same, voxels=voxels, differ=differ)


def phantoms(steps: Steps, quick: bool) -> None:
    size = ("--size", 80, 96, 72) if quick else ()
    cases, count = steps.place / "cases", 4 if quick else 24
    steps.run("phantoms", 45, "-m", "jobs.phantom", "--cases", cases, "--count", count, *size)
    shards = ("--shards", steps.place / "shards", "--limit", count // 2 + 2)
    steps.run(
        "shards", 40, "-m", "jobs.preprocess", "--cases", cases, *shards, "--ray", "no" if quick else "yes"
    )


def copied(cases: Path, many: Path, times: int) -> None:
    """Every case so many times, each under a name of its own: a few are over before a GPU has begun."""
    for path in cases.glob("*/*.nii.gz"):
        for n in range(times):
            case = path.parent.name.replace("PHANTOM-", f"PHANTOM-{n:02}")
            target = many / case / path.name.replace(path.parent.name, case)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                os.link(path, target)


def bundled(steps: Steps, gpu: str, quick: bool) -> None:
    many = steps.place / "many"
    copied(steps.place / "cases", many, 2 if quick else COPIES)
    steps.segment("bundled", 60, "--cases", many, "--ray", "yes", "--gpu", gpu)


def adopted(steps: Steps, gpu: str, quick: bool) -> None:
    for model in sorted((steps.place / "models").glob("*.safetensors")):
        flags = ("--cases", steps.place / "cases", "--model", model, "--gpu", gpu)
        flags += ("--limit", 2 if quick else 3)  # nnU-Net needs ten seconds a case
        for ray in ("yes", "no"):
            steps.segment(f"{model.stem}-ray-{ray}", 50, *flags, "--ray", ray)
        steps.compare(f"{model.stem} compared", f"{model.stem}-ray-yes", f"{model.stem}-ray-no")


def train(steps: Steps, gpu: str, quick: bool) -> None:
    tiny = ("--size", 32, 32, "--batch", 8, "--layers.widths", 8, 16) if quick else ()
    flags = ("fast", "--shards", steps.place / "shards", *SHORT, *tiny, "--gpu", gpu)
    two = ("-m", "benchmarks.gpu.two_ranks", *flags, "--models", steps.place / "models-two")
    steps.run("two-ranks-killed", 45, *two, until="epoch 1,")
    steps.run("two-ranks-resumed", 45, *two)
    one = ("-m", "jobs.train", *flags, "--models", steps.place / "models-one")
    steps.run("one-rank", 40, *one)


def tests(steps: Steps, gpu: str, quick: bool) -> None:
    workers, what = (2, TESTS[2:]) if quick else (8, TESTS)
    flags = ("-v", "--tb=short", "--noconftest", "-p", "no:cacheprovider", "-n", workers)
    steps.run("tests", 60, "-m", "pytest", *flags, *what, log=steps.out / "tests.log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("steps", nargs="*", default=["bundled", "adopted", "train", "tests"])
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    gpu = "yes" if torch.cuda.is_available() else "no"
    for folder in (given.place / "logs", given.out):
        folder.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_TRACKING_URI"] = f"file:{given.place / 'mlruns'}"
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # its database wants packages that no training needs
    steps = Steps(given.place, given.out, 4 if given.quick else 1)
    phantoms(steps, given.quick)
    if "bundled" in given.steps:
        bundled(steps, gpu, given.quick)
    with ThreadPoolExecutor(1 if given.quick else 2) as threads:  # which share the GPU
        for step in (adopted, train, tests):
            if step.__name__ in given.steps:
                threads.submit(step, steps, gpu, given.quick)


if __name__ == "__main__":
    main()
