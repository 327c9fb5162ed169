"""The model in the box: trained on the cases that may be passed on, scored on patients that it has not seen.

    python -m benchmarks.accuracy.box --place DIR [--minutes 25] [--install]

Trains `fast` on the real cases of ../shared/data whose source has a licence, halves the weights' precision,
segments every other case and those held out, and prints the scores for the model card. `--install` puts the
model into bts/weights/. Run again with the same DIR it goes on where it was cut off.
"""

import argparse
import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.table import ROOT, python
from bts.cases.layouts import find_cases
from bts.labels import REGIONS
from bts.model.file import BOX, halved, read_header
from bts.storage import Store

# So few patients `fast` learns by heart in this time; and some scans lack a modality.
STRONGER = ("--augmentation.drop", "0.1", "--augmentation.rotate", "30", "--augmentation.zoom", "0.25")
DATA = ROOT.parent / "shared" / "data"


def licensed() -> set[str]:
    """The cases whose source's repository shows a licence."""
    with open(DATA / "MANIFEST.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "brats"]
    return {row["case"] for row in rows} - {row["case"] for row in rows if row["license"] == "none seen"}


def copy(cases: set[str], place: Path) -> Path:
    """A folder of these cases alone."""
    for case in cases:
        if not (place / case).exists():
            shutil.copytree(DATA / "brats" / case, place / case)
    return place


def train(place: Path, minutes: float) -> Path:
    """The halved model file."""
    shards, models = place / "shards", place / "models"
    python(
        "-m", "jobs.preprocess", "--cases", str(copy(licensed(), place / "cases")), "--shards", str(shards)
    )
    flags = ["--shards", str(shards), "--models", str(models), "--budget.minutes", str(minutes), *STRONGER]
    made = python("-m", "jobs.train", "fast", *flags, MLFLOW_TRACKING_URI=f"sqlite:///{place}/mlflow.db")
    box = place / "box.safetensors"
    box.write_bytes(halved(Path(made["model"]).read_bytes()))
    return box


def score(place: Path, model: Path) -> list[dict]:
    """Dice rows of every case whose patient the model was not trained on."""
    trained = set(read_header(model.read_bytes(), model.name)["provenance"]["training_patients"])
    unseen = {c.id for c in find_cases(Store(str(DATA / "brats")).list()).cases if c.patient not in trained}
    cases, labelmaps, report = copy(unseen, place / "unseen"), place / "labelmaps", place / "report"
    place_of = ["--cases", str(cases), "--labelmaps", str(labelmaps)]
    python("-m", "jobs.segment", *place_of, "--model", str(model))
    python("-m", "jobs.evaluate", *place_of, "--report", str(report))
    return [row for row in pq.read_table(report / "scores.parquet").to_pylist() if row["metric"] == "dice"]


def print_expected(place: Path, rows: list[dict]) -> None:
    """How far the Dice that the labelmaps' markers expect lies from what they got."""
    got = {(row["case_id"], row["region"]): row["value"] for row in rows}
    markers = [json.loads(file.read_bytes()) for file in (place / "labelmaps" / "_done").iterdir()]
    print("\n| expected Dice | cases | mean error | too high by, mean | at worst |\n|---|---|---|---|---|")
    for region in REGIONS:
        expected = [(m["case_id"], m["expected_dice"].get(region)) for m in markers]
        over = np.array([of - got[case, region] for case, of in expected if of is not None])
        print(f"| {region} | {len(over)} | {abs(over).mean():.2f} | {over.mean():.2f} | {over.max():.2f} |")


def print_card(model: Path, rows: list[dict]) -> None:
    """What the model card says."""
    provenance = read_header(model.read_bytes(), model.name)["provenance"]
    print(f"trained on {len(provenance['training_patients'])}: {' '.join(provenance['training_patients'])}")
    print(f"held out {' '.join(provenance['held_out_patients'])}; {provenance['epochs']} epochs")
    print(f"\n| case | {' | '.join(REGIONS)} |\n|---|---|---|---|")
    cases = sorted({row["case_id"] for row in rows})
    dice = {(row["case_id"], row["region"]): row["value"] for row in rows}
    for case in cases:
        print(f"| {case} | " + " | ".join(f"{dice[case, region]:.3f}" for region in REGIONS) + " |")
    means = (sum(dice[case, region] for case in cases) / len(cases) for region in REGIONS)
    print(f"| mean of {len(cases)} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--install", action="store_true")
    given = parser.parse_args()
    place = given.place.resolve()
    model = train(place, given.minutes)
    rows = score(place, model)
    print_card(model, rows)
    print_expected(place, rows)
    if given.install:
        shutil.copy(model, BOX)


if __name__ == "__main__":
    main()
