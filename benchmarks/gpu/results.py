"""What benchmarks/gpu/run.sh brought back, as tables in Markdown and one picture.

    python -m benchmarks.gpu.results OUT [--shards DIR --grid FILE.png]

OUT: the folder that the steps left (speed.jsonl, a folder a training). --grid: the networks of unet3d side by
side on the held-out case that they found best.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from bts.report import gallery
from bts.shards.format import read_volume
from bts.training.log import mean_dice

NETWORKS = ("unet3d", "unet3d-attention", "unet3d-fcn", "unet3d-segnet", "unet3d-vnet")


def speeds(out: Path) -> list[str]:
    """A row a preset of the stage `speed`."""
    rows = [json.loads(line) for line in (out / "speed.jsonl").read_text().splitlines()]
    lines = ["| preset | batch | steps/s | megapixels/s | peak GiB | on |", "|---|---|---|---|---|---|"]
    names = ("preset", "batch", "steps_per_second", "megapixels_per_second", "peak_GiB", "on")
    return lines + ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]


def trainings(out: Path) -> list[str]:
    """A row a training: what its held-out patients got by the weights that were kept."""
    lines = ["| training | epochs | steps | seconds | Dice | IoU | accuracy |", f"|{'---|' * 7}"]
    for file in sorted(out.glob("*/outcome.json")):
        said = json.loads(file.read_bytes())
        figures = max(said["validations"].values(), key=mean_dice)
        columns = [file.parent.name, said["epoch"], said["step"], round(said["seconds"])]
        for kind in ("dice", "iou"):
            found = of_kind(figures, kind).items()
            columns.append(", ".join(f"{region} {value:.3f}" for region, value in found))
        lines.append("| " + " | ".join(map(str, columns)) + f" | {figures['accuracy']:.4f} |")
    return lines


def of_kind(figures: dict[str, float], kind: str) -> dict[str, float]:
    """Figures named kind/REGION, by region."""
    return {name.partition("/")[2]: of for name, of in figures.items() if name.startswith(f"{kind}/")}


def grid(out: Path, shards: Path) -> bytes:
    """PNG of the five networks' labelmaps of one held-out case."""
    folders = {name: out / f"{name}-fold-0" for name in NETWORKS}
    scores = [json.loads((of / "outcome.json").read_bytes())["cases"] for of in folders.values()]
    case = max(scores[0], key=lambda case: np.mean([of[case]["dice/WT"] for of in scores]))
    volume = read_volume(next(shards.glob(f"{case}.*.parquet")).read_bytes())
    return gallery.grid(volume, {name: np.load(of / "labels.npz")[case] for name, of in folders.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--grid", type=Path)
    given = parser.parse_args()
    print("\n".join([*speeds(given.out), "", *trainings(given.out)]))
    if given.grid:
        given.grid.write_bytes(grid(given.out, given.shards))


if __name__ == "__main__":
    main()
