"""What each step of inference brings. `python -m benchmarks.accuracy.ablation --shards DIR MODEL [MODEL …]`

Each model segments the patients that its training held out, as today's preset of its name has it and with one
step more or less; a row is the mean over all of them of Dice, and of lesion-wise Dice as BraTS has counted it
since 2023.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.accuracy.expected import volumes_held_out
from bts.cases.case import CaseVolume
from bts.inference.segmenter import Segmenter
from bts.labels import CAVITY, REGIONS
from bts.model.file import load_model
from bts.presets import PRESETS
from bts.scoring import metrics
from bts.storage import Store

VARIANTS = {  # name → (flips, settings of Inference)
    "as it is": (False, {}),
    "with --flips": (True, {}),
    "pieces of tumour of any size": (False, {"min_tumour_ml": 0.0}),
    "pieces of core of any size": (False, {"min_core_ml": 0.0}),
    "pieces of ET of any size": (False, {"min_et_piece_ml": 0.0}),
    "ET of any size in all": (False, {"min_et_ml": 0.0, "min_et_share": 0.0}),
    "holes in cores stay": (False, {"fill_core": False}),
    "threshold 0.4": (False, {"threshold": 0.4}),
    "threshold 0.3": (False, {"threshold": 0.3}),
}
SCORES = [(region, metric) for metric in ("dice", "lesion_dice") for region in REGIONS]


def scores_of(segmenters: Mapping[bool, Segmenter], volume: CaseVolume) -> dict[str, list[float]]:
    """SCORES of a case by variant. segmenters: without flips and with them."""
    found = {}
    probable = {flips: segmenter.probabilities(volume) for flips, segmenter in segmenters.items()}
    for name, (flips, settings) in VARIANTS.items():
        segmenter = segmenters[flips]
        segmenter.settings = replace(PRESETS[segmenter.preset.name].inference, **settings)
        labels = segmenter.tidied(volume, segmenter.decoded(probable[flips]))
        scores = metrics.measure(volume.mask, labels, REGIONS, CAVITY, spacing=volume.grid.zooms)
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
        segmenters = {flips: Segmenter([model], flips=flips) for flips in (False, True)}
        cases += [scores_of(segmenters, volume) for volume in volumes_held_out(model, shards)]
    columns = " | ".join(f"{region}{' lesions' * (metric != 'dice')}" for region, metric in SCORES)
    print(f"| {len(cases)} held-out cases | {columns} |\n|{'---|' * (len(SCORES) + 1)}")
    for name in VARIANTS:
        means = np.mean([case[name] for case in cases], axis=0)
        print(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |")


if __name__ == "__main__":
    main()
