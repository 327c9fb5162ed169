"""Is the expected Dice worth anything? `python -m benchmarks.accuracy.expected --shards DIR MODEL [MODEL …]`

Each model segments the patients that its training held out. What a fold's cases are expected to get is scaled
by what the other folds' cases got, and set beside their Dice: rank correlation, mean error, flagged cases.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from bts.cases.case import CaseVolume
from bts.inference import confidence
from bts.inference.segmenter import Segmenter
from bts.labels import REGIONS
from bts.model.file import Model, load_model
from bts.scoring import metrics
from bts.shards.catalogue import read_catalogue
from bts.shards.format import read_volume
from bts.storage import Store


def volumes_held_out(model: Model, shards: Store) -> Iterator[CaseVolume]:
    """The cases of the patients that the model's training held out."""
    for shard in read_catalogue(shards):
        if shard.patient in model.meta["held_out_patients"]:
            yield read_volume(shards.read(shard.key), model.preset.modalities)


def held_out(file: Path, shards: Store) -> list[tuple[str, dict[str, float], dict[str, float]]]:
    """(case, agreement, Dice), both by region, of each patient that the model's training held out."""
    model, found = load_model(file.read_bytes(), str(file)), []
    segmenter = Segmenter([model])
    for volume in volumes_held_out(model, shards):
        probable = segmenter.probabilities(volume)
        labels = segmenter.labels(volume, probable)
        scores = metrics.score(volume.mask, labels)
        dice = {region: of["dice"] for region, of in scores.items()}
        found.append((volume.case_id, segmenter.agreement(volume, probable, labels), dice))
    return found


def means(cases: list[tuple[str, dict[str, float], dict[str, float]]]) -> dict[str, float]:
    """Figures as a training keeps them of its held-out cases."""
    figures = {}
    for region in REGIONS:
        figures[f"dice/{region}"] = np.mean([dice[region] for _, _, dice in cases])
        figures[f"agreement/{region}"] = np.mean([a[region] for _, a, _ in cases if region in a])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--shards", required=True)
    given = parser.parse_args()
    folds = [held_out(file, Store(given.shards)) for file in given.models]
    pairs: dict[str, list[tuple[float, float]]] = {region: [] for region in REGIONS}
    for n, fold in enumerate(folds):
        others = means([case for m, other in enumerate(folds) if m != n for case in other])
        for case, agreed, dice in fold:
            expected = confidence.expected_dice(agreed, others)
            shown = ", ".join(f"{r} {of:.2f} (got {dice[r]:.2f})" for r, of in expected.items())
            print(f"{case}: {shown}{'  unsure' if confidence.flag(expected) else ''}", flush=True)
            for region, of in expected.items():
                pairs[region].append((of, dice[region]))
    print("\n| region | cases | rank correlation | mean error | expected, mean | Dice, mean |")
    print("|---|---|---|---|---|---|")
    for region, of in pairs.items():
        expected, dice = np.array(of).T
        rank, error = spearmanr(expected, dice)[0], np.abs(expected - dice).mean()
        print(
            f"| {region} | {len(of)} | {rank:.2f} | {error:.2f} | {expected.mean():.3f} | {dice.mean():.3f} |"
        )


if __name__ == "__main__":
    main()
