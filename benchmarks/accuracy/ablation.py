"""What each step of inference brings. `python -m benchmarks.accuracy.ablation --shards DIR MODEL [MODEL …]`

Each model segments the patients that its training held out, as today's preset of its name has it and with one
step more or less; a row is the mean over all of them of Dice, and of the scores by lesion of BraTS 2023. The
postprocessing was tuned for these: `--rules 2023 2024 2026` prints a table for each year's.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.accuracy.expected import volumes_held_out
from bts.cases.case import CaseVolume
from bts.inference.segmenter import Segmenter
from bts.labels import REGIONS
from bts.model.file import load_model
from bts.presets import PRESETS
from bts.scoring import metrics
from bts.scoring.rules import YEARS, rules_of
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
METRICS = {"dice": "", "lesion_dice": " lesions", "lesion_f1": " F1 of lesions"}
SCORES = [(region, metric) for metric in METRICS for region in REGIONS]


def scores_of(
    segmenters: Mapping[bool, Segmenter], volume: CaseVolume, years: Sequence[str]
) -> dict[tuple[str, str], list[float]]:
    """SCORES of a case by year and variant, NaN where there is none. segmenters: without flips, with them."""
    found = {}
    probable = {flips: segmenter.probabilities(volume) for flips, segmenter in segmenters.items()}
    for name, (flips, settings) in VARIANTS.items():
        segmenter = segmenters[flips]
        segmenter.settings = replace(PRESETS[segmenter.models[0].card.name].inference, **settings)
        labels = segmenter.labels(volume, probable[flips])
        for year in years:
            rules = rules_of(volume.dataset, year)
            scores = metrics.measure(volume.mask, labels, REGIONS, {}, spacing=volume.grid.zooms, rules=rules)
            found[year, name] = [scores[region].get(metric, np.nan) for region, metric in SCORES]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--shards", required=True)
    parser.add_argument("--rules", nargs="+", choices=YEARS, default=["2023"])
    given = parser.parse_args()
    shards, cases = Store(given.shards), []
    for file in given.models:
        model = load_model(file.read_bytes(), str(file))
        segmenters = {flips: Segmenter([model], flips=flips) for flips in (False, True)}
        cases += [scores_of(segmenters, volume, given.rules) for volume in volumes_held_out(model, shards)]
    for year in given.rules:
        print_table(year, {name: [case[year, name] for case in cases] for name in VARIANTS})


def print_table(year: str, cases: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """A row a variant, its means over the cases that have the score; a column a score that any has."""
    means = {name: np.nanmean(np.array(of), axis=0) for name, of in cases.items()}
    known = ~np.isnan(means["as it is"])
    names = [f"{region}{METRICS[metric]}" for region, metric in SCORES]
    columns = [name for name, there in zip(names, known, strict=True) if there]
    head = f"{len(cases['as it is'])} held-out cases, BraTS {year}"
    print(f"\n| {head} | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, of in means.items():
        print(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in of[known])} |")


if __name__ == "__main__":
    main()
