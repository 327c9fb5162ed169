"""This project's presets beside nnU-Net: the same folds, minutes and machine, one scoring code for all.

    python -m benchmarks.accuracy.arena [SYSTEM …] --place DIR [--minutes 10] [--peer-times 1]
                                        [--peer-batch N] [--folds 0 1 2 3 4] [--flips]

Trains each system (fast, best, nnunet-2d, nnunet-3d) on each fold of the labelled cases of ../shared/data,
segments the patients held out, and prints a table of Dice, HD95 and lesion-wise Dice with 95 % intervals, and
the first system's differences from the others, case by case. nnU-Net's clock leaves out its preprocessing,
its loaders' start and its validation, ours the reading of the shards; --peer-times gives nnU-Net so many
times the minutes, --peer-batch so many patches a step instead of its plan's, which is made for a GPU. Run
again with the same DIR and flags it goes on where it was cut off.
"""

import argparse
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq

from benchmarks.table import ROOT, peer, python
from bts.cases.case import Case
from bts.cases.layouts import find_cases
from bts.labels import REGIONS, from_internal
from bts.presets import FAST, PRESETS
from bts.scoring import statistics
from bts.scoring.comparison import compare_metric
from bts.shards.catalogue import read_catalogue
from bts.storage import Store
from bts.training.plan import make_plan

DATA = ROOT.parent / "shared" / "data"
PEERS = {"nnunet-2d": "2d", "nnunet-3d": "3d_fullres"}
METRICS = {"dice": "Dice", "hd95": "HD95", "lesion_dice": "Dice of lesions"}
Scores = dict[tuple[str, str], dict[str, float]]
"""(region, metric) → value by case."""


def copy(cases: set[str], place: Path) -> Path:
    """A folder of these cases alone."""
    for case in cases:
        if not (place / case).exists():
            shutil.copytree(DATA / "brats" / case, place / case)
    return place


def ours(preset: str, fold: int, cases: Path, place: Path, minutes: float, flips: bool) -> None:
    """Labelmaps of the cases by a preset trained on the other folds."""
    flags = ["--shards", str(place / "shards"), "--models", str(place / "models" / f"fold-{fold}")]
    flags += ["--fold", str(fold), "--budget.minutes", str(minutes)]
    made = python("-m", "jobs.train", preset, *flags, MLFLOW_TRACKING_URI=f"sqlite:///{place}/mlflow.db")
    flags = ["--cases", str(cases), "--labelmaps", str(place / "labelmaps" / preset)]
    python("-m", "jobs.segment", "--model", made["model"], *flags, *["--flips"] * flips)


def theirs(name: str, fold: int, held_out: list[Case], place: Path, flags: list[str]) -> None:
    """The same by nnU-Net; its labels are the project's, and are written in each case's convention."""
    found, output = place / "nnunet" / f"{name}-{fold}", place / "labelmaps" / name
    flags = ["--configuration", PEERS[name], "--fold", str(fold), *flags]
    flags += ["--held-out", *(case.id for case in held_out)]
    steps = peer("nnunet_train.py", str(place / "cases"), str(place / "nnunet"), str(found), *flags)["steps"]
    print(f"{name}, fold {fold}: {steps} steps", flush=True)
    output.mkdir(parents=True, exist_ok=True)
    for case in held_out:
        image = nib.load(found / f"{case.id}.nii.gz")
        values = from_internal(np.asarray(image.dataobj).astype(np.uint8), case.labels)
        nib.save(nib.Nifti1Image(values, image.affine), output / f"{case.id}.nii.gz")


def score(name: str, place: Path) -> Scores:
    """Of every case that a system has segmented."""
    report = place / "reports" / name
    flags = ["--labelmaps", str(place / "labelmaps" / name), "--cases", str(place / "cases")]
    python("-m", "jobs.evaluate", *flags, "--report", str(report))
    found: Scores = {}
    for row in pq.read_table(report / "scores.parquet").to_pylist():
        found.setdefault((row["region"], row["metric"]), {})[row["case_id"]] = row["value"]
    return found


def print_table(scores: dict[str, Scores]) -> None:
    """Means with their intervals, and the first system's difference from each other."""
    first = next(iter(scores))
    columns = ("system", "region", "cases", *METRICS.values(), f"Dice of {first} − its")
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, of in scores.items():
        for region in REGIONS:
            dice = of[region, "dice"]
            shown = [mean(of[region, metric]) for metric in METRICS]
            shown.append("" if name == first else difference(scores[first][region, "dice"], dice))
            print(f"| {name} | {region} | {len(dice)} | {' | '.join(shown)} |")


def mean(values: dict[str, float]) -> str:
    """With its 95 % interval, which fewer than six cases do not have."""
    found = np.array(list(values.values()))
    low, high = statistics.mean_interval(found)
    return f"{found.mean():.3f}" + ("" if np.isnan(low) else f" ({low:.3f}–{high:.3f})")


def difference(mine: dict[str, float], others: dict[str, float]) -> str:
    """Over the cases that both have."""
    both = sorted(mine.keys() & others)
    paired = compare_metric("dice", [mine[case] for case in both], [others[case] for case in both])
    if np.isnan(paired.low):
        return f"{paired.difference:+.3f}"
    return f"{paired.difference:+.3f} ({paired.low:+.3f} to {paired.high:+.3f}), p {paired.test}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "systems", nargs="*", default=["fast", "nnunet-2d"], help=", ".join([*PRESETS, *PEERS])
    )
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--peer-times", type=float, default=1)
    parser.add_argument("--peer-batch", type=int)
    parser.add_argument("--folds", type=int, nargs="+", default=range(5))
    parser.add_argument("--flips", action="store_true")
    given = parser.parse_args()
    place = given.place.resolve()
    peers = ["--minutes", str(given.minutes * given.peer_times), *["--flips"] * given.flips]
    peers += ["--batch", str(given.peer_batch)] if given.peer_batch else []
    shards = str(place / "shards")
    found = find_cases(Store(str(DATA / "brats")).list()).cases
    labelled = {case.id: case for case in found if "seg" in case.files}
    python("-m", "jobs.preprocess", "--cases", str(copy(set(labelled), place / "cases")), "--shards", shards)
    for fold in given.folds:
        plan = make_plan(read_catalogue(Store(shards)), FAST, fold)
        held_out = [labelled[shard.case] for shard in plan.held_out]
        cases = copy({case.id for case in held_out}, place / f"held-out-{fold}")
        for name in given.systems:
            if name in PEERS:
                theirs(name, fold, held_out, place, peers)
            else:
                ours(name, fold, cases, place, given.minutes, given.flips)
    print_table({name: score(name, place) for name in given.systems})


if __name__ == "__main__":
    main()
