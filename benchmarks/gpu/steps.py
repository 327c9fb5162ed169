"""What fits into a quarter of an hour on a GPU: `python -m benchmarks.gpu.steps STAGE … --place DIR`.

A stage is a set of trainings that share the GPU, a process each, for --minutes. It goes on where
it was cut off, and what it made is left in DIR/out as soon as it is there.

    speed     steps a second, pixels a second and peak memory of every preset
    figshare  figshare2d, by patient and as its original split, and figshare3d
    folds     the bundled model's two presets on five folds, and on all patients
    more      the same, each from the weights of DIR/begin/PRESET-FOLD.safetensors, in larger batches
    fading    the same as more, with tumours that enhance less and are dimmer
    systems   unet2d, resunet2d, and unet3d with each of its networks
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

LAST = ["--budget.validate-every", "1000"]  # the last weights are taken: no held-out case chooses an epoch
WISHES = shlex.split(  # what figshare2d's authors would have liked to try, and time for it
    "--augmentation.zoom 0.2 --augmentation.rotate 15 --augmentation.flip-rows 0.5 "
    "--optimiser.schedule poly --budget.epochs 150 --budget.patience 150 --budget.validate-every 20"
)
LONGER = shlex.split(  # than the preset's ten minutes on a CPU; a GPU waits at its batches of 8
    "--augmentation.rotate 30 --augmentation.zoom 0.25 --augmentation.drop 0.1 --optimiser.lr 4e-3"
)
FADING = ["--augmentation.fade", "0.35", "--augmentation.dim", "0.4"]


def folds(*also: str, batch: int = 32) -> dict[str, list[str]]:
    """The bundled model's two presets, a training a fold and one of all patients; batch: of `fast`."""
    presets = {"fast3d": ["fast3d", *LAST], "fast": ["fast", *LAST, *LONGER, "--batch", str(batch)]}
    return {
        f"{preset}-{fold}": [*flags, *also, *(("--fold", str(fold)) if fold != "all" else ("--everyone",))]
        for preset, flags in presets.items()
        for fold in (0, 1, 2, 3, 4, "all")
    }


TRAININGS = {
    "figshare": {
        "figshare2d": ["figshare2d"],
        "figshare2d-leaking": ["figshare2d", "--split", "leaking_by_slice"],
        "figshare2d-wishes": ["figshare2d", *WISHES],
        "figshare3d": ["figshare3d", "--budget.validate-every", "10"],
    },
    "folds": folds(),
    "more": folds(batch=128),
    "fading": folds(*FADING, batch=128),
    "systems": {
        "unet2d": ["unet2d"],
        "resunet2d": ["resunet2d", *LAST],
        "unet3d": ["unet3d", *LAST],
        "unet3d-attention": ["unet3d", *LAST, "--network", "attention_unet"],
        "unet3d-fcn": ["unet3d", *LAST, "--network", "fcn"],
        "unet3d-segnet": ["unet3d", *LAST, "--network", "segnet"],
        "unet3d-vnet": ["unet3d", *LAST, "--network", "vnet"],
    },
}
KEEP = ("outcome.json", "labels.npz", "*.png", "*.gif", "*.safetensors")
LARGEST = 15 << 20  # bytes of a file that is worth bringing back


def begin(name: str, flags: list[str], place: Path, minutes: float) -> subprocess.Popen:
    """One training in the background, its output in DIR/out/NAME.log."""
    shards = place / ("figshare" if name.startswith("figshare") else "brats")
    command = [sys.executable, "-m", "benchmarks.accuracy.alone", *flags, "--shards", str(shards)]
    command += ["--place", str(place / "trainings"), "--keep", name, "--minutes", str(minutes)]
    if (model := place / "begin" / f"{name}.safetensors").exists():
        command += ["--begin-with", str(model)]
    with open(place / "out" / f"{name}.log", "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def collect(place: Path) -> None:
    """Whatever the trainings have left that is small enough, into DIR/out."""
    for folder in (place / "trainings").glob("*"):
        for file in (file for pattern in KEEP for file in folder.glob(pattern)):
            target = place / "out" / folder.name / file.name
            if file.stat().st_size <= LARGEST and not target.exists():
                target.parent.mkdir(exist_ok=True)
                shutil.copy(file, target)


def run(stage: str, place: Path, minutes: float) -> None:
    """A stage to its end; what takes over twice its minutes is ended."""
    if stage == "speed":
        with open(place / "out" / "speed.jsonl", "a") as file:
            command = [sys.executable, "-m", "benchmarks.gpu.speed", "--shards", str(place)]
            subprocess.run(command, stdout=file, timeout=60 * minutes, check=False)
        return
    running = [begin(name, flags, place, minutes) for name, flags in TRAININGS[stage].items()]
    end = time.monotonic() + 120 * minutes + 60
    while any(process.poll() is None for process in running) and time.monotonic() < end:
        time.sleep(0.5)
    for process in running:
        process.kill()
    collect(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=["speed", *TRAININGS])
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=2)
    given = parser.parse_args()
    (given.place / "out").mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "2"
    for stage in given.stages:
        began = time.monotonic()
        run(stage, given.place, given.minutes)
        print(f"{stage}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
