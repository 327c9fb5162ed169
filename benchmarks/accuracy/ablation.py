"""What each step of inference brings. `python -m benchmarks.accuracy.ablation --shards DIR MODEL [MODEL …]`

Each model segments the patients that its training held out, as today's preset of its name has it and with one
step more or less; a row is the mean over all of them of Dice, and of lesion-wise Dice as BraTS has counted it
since 2023.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from bts import metrics
from bts.catalogue import read_catalogue
from bts.inference import Segmenter
from bts.model import Model, load_model
from bts.preprocess import CaseVolume
from bts.presets import PRESETS
from bts.shards import read_volume
from bts.storage import Store

VARIANTS = {
    "as it is": {},
    "with --flips": {"flips": True},
    "pieces of tumour of any size": {"min_tumour_ml": 0.0},
    "pieces of core of any size": {"min_core_ml": 0.0},
    "pieces of ET of any size": {"min_et_piece_ml": 0.0},
    "ET of any size in all": {"min_et_ml": 0.0, "min_et_share": 0.0},
    "holes in cores stay": {"fill_core": False},
    "threshold 0.4": {"threshold": 0.4},
    "threshold 0.3": {"threshold": 0.3},
}
SCORES = [(region, metric) for metric in ("dice", "lesion_dice") for region in metrics.REGIONS]


def scores_of(model: Model, volume: CaseVolume) -> dict[str, list[float]]:
    """SCORES of a case by variant."""
    found, probable = {}, {}
    for name, changed in VARIANTS.items():
        flips, settings = changed.get("flips", False), {k: v for k, v in changed.items() if k != "flips"}
        segmenter = Segmenter([model], flips=flips)
        if flips not in probable:
            probable[flips] = segmenter.probabilities(volume)
        segmenter.settings = replace(PRESETS[model.preset.name].inference, **settings)
        labels = segmenter.tidied(volume, segmenter.decoded(probable[flips]))
        scores = metrics.measure(
            volume.mask, labels, metrics.REGIONS, metrics.CAVITY, spacing=volume.grid.zooms
        )
        found[name] = [scores[region][metric] for region, metric in SCORES]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--shards", required=True)
    given = parser.parse_args()
    shards, cases = Store(given.shards), []
    for file in given.models:
        model = load_model(file.read_bytes(), str(file))
        for shard in read_catalogue(shards):
            if shard.patient in model.meta["held_out_patients"]:
                volume = read_volume(shards.read(shard.key), model.preset.modalities)
                cases.append(scores_of(model, volume))
    columns = " | ".join(f"{region}{' lesions' * (metric != 'dice')}" for region, metric in SCORES)
    print(f"| {len(cases)} held-out cases | {columns} |\n|{'---|' * (len(SCORES) + 1)}")
    for name in VARIANTS:
        means = np.mean([case[name] for case in cases], axis=0)
        print(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |")


if __name__ == "__main__":
    main()
