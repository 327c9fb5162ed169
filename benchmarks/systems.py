"""Each published system, trained by its preset for a few minutes on real cases: what held-out patients get.

`python -m benchmarks.systems --place DIR [--minutes 3] [--filters 0.25] [NAME …]` runs jobs.preprocess once
for each set and jobs.train for each system on ../shared/data, and prints a table in Markdown. The budgets are
a CPU's: the presets' own are made for a GPU; --filters is the share of each network's filters, to learn
something on a CPU. Everything is made in DIR, MLflow's store too.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from bts.model.header import read_header
from bts.presets import PRESETS

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
REPORTED = {
    "unet2d": "val BCE 0.0047",
    "figshare2d": "val IoU 0.652 to 0.67, split leaking",
    "figshare3d": "BraTS 2020: ET 0.654, WT 0.862, TC 0.758",
    "unet3d": "val accuracy 0.981, IoU 0.715 (of classes, background counted)",
    "resunet2d": "none in its repository",
}


def job(place: Path, name: str, *flags: object) -> dict:
    """The last line of a job run as a user runs it; its messages pass through."""
    command = [sys.executable, "-m", f"jobs.{name}", *map(str, flags)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{place.resolve()}/mlflow.db"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def run(name: str, place: Path, minutes: float, filters: float) -> str:
    """One row of the table."""
    kind = "figshare" if name.startswith("figshare") else "brats"
    shards = place / "shards" / kind
    job(place, "preprocess", "--cases", DATA / kind, "--shards", shards)
    flags = ["--shards", shards, "--models", place / "models", "--budget.minutes", minutes]
    if filters != 1:
        widths = (round(width * filters) for width in PRESETS[name].layers.widths)
        flags += ["--name", f"{name}-{filters:g}", "--layers.widths", *widths]
    trained = job(place, "train", name, *flags)
    meta = read_header(Path(trained["model"]).read_bytes(), name)["provenance"]
    figures = meta["validation"]
    dice, iou = (
        ", ".join(f"{k.partition('/')[2]} {v:.3f}" for k, v in figures.items() if k.startswith(f"{metric}/"))
        for metric in ("dice", "iou")
    )
    patients = f"{len(meta['training_patients'])} + {len(meta['held_out_patients'])}"
    accuracy, budget = f"{figures['accuracy']:.4f}", f"{minutes:g} min, {meta['epochs']} epochs"
    budget += f", {filters:g} of the filters" if filters != 1 else ""
    columns = (f"`{name}`", REPORTED[name], patients, budget, dice, iou, accuracy)
    return "| " + " | ".join(columns) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(REPORTED))
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--filters", type=float, default=1)
    arguments = parser.parse_args()
    print(
        "| preset | the original reports | patients, training + held out | budget | Dice | IoU | accuracy |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in arguments.names:
        print(run(name, arguments.place, arguments.minutes, arguments.filters), flush=True)


if __name__ == "__main__":
    main()
