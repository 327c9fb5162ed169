"""The bundled model's two networks, trained on all patients; and what five folds of the same training get.

    python -m benchmarks.gpu.bundle OUT … --shards DIR [--install]

OUT: what the stage `folds`, `more` or `fading` of benchmarks.gpu.steps left: of both presets a folder a fold,
and one of all patients. Of several the weights are averaged, fold by fold, which segments as fast as one
(Wortsman et al. 2022, "Model soups"): all but the first must have begun with the first's. Each fold's two
models predict its own held-out patients together (held-out….json in the last OUT keeps what is done), and
the tables of the model card are printed. --install puts the two models of all patients into bts/weights/:
the Dice that they expect of their labelmaps is scaled by what the folds got.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from bts.inference.confidence import expected_dice
from bts.inference.segmenter import Segmenter
from bts.labels import REGIONS
from bts.model.file import BOX, Model, halved, load_model, save_model
from bts.model.header import digest
from bts.presets import PRESETS
from bts.shards.format import read_volume
from bts.training.splits import FOLDS
from bts.training.validation import mean_figures, score_case


def read(outs: list[Path], preset: str, name: str) -> Model:
    """The models' mean, segmenting as its preset says today; else as the last. name: a fold, or "all"."""
    file = f"{preset}-{name}.safetensors"
    found = [next(out.glob(f"{preset}-{name}-*/{file}")).read_bytes() for out in outs]
    models = [load_model(data, file) for data in found]
    model = models[-1]
    states = [one.network.state_dict() for one in models]
    mean = {of: sum(state[of].float() for state in states) / len(states) for of in states[0]}
    model.network.load_state_dict(mean)
    meta = {**model.meta, "mean_of": [digest(data) for data in found]} if len(outs) > 1 else model.meta
    return replace(model, preset=replace(model.preset, inference=PRESETS[preset].inference), meta=meta)


def held_out(outs: list[Path], shards: Path) -> dict[str, dict]:
    """Case → its data set and figures, each case by the two models that have not seen its patient."""
    kept = outs[-1] / f"held-out{'-mean' if len(outs) > 1 else ''}.json"
    found = json.loads(kept.read_bytes()) if kept.exists() else {}
    for fold in range(FOLDS):
        cases = json.loads((outs[0] / f"fast3d-{fold}-fold-{fold}/outcome.json").read_bytes())["cases"]
        segmenter = Segmenter([read(outs, file.stem, str(fold)) for file in BOX])
        for case in (case for case in cases if case not in found):
            volume = read_volume(next(shards.glob(f"{case}.*.parquet")).read_bytes())
            found[case] = {"dataset": volume.dataset, **score_case(segmenter, volume)}
            kept.write_text(json.dumps(found, indent=1))
    return found


def print_card(found: dict[str, dict]) -> None:
    """Mean Dice by data set."""
    print(f"| data set | patients | {' | '.join(REGIONS)} |\n|---|---|---|---|---|")
    sets: dict[str, list[dict]] = defaultdict(list)
    for figures in found.values():
        sets[figures["dataset"]].append(figures)
        sets["all"].append(figures)
    for name, cases in sets.items():
        means = (np.mean([case[f"dice/{region}"] for case in cases]) for region in REGIONS)
        print(f"| {name} | {len(cases)} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")


def print_expected(found: dict[str, dict]) -> None:
    """How far the Dice that a labelmap's own probabilities expect lies from what the case got."""
    print("\n| expected Dice | cases | mean error | too high by, mean | at worst |\n|---|---|---|---|---|")
    scale = mean_figures([numbers(case) for case in found.values()])
    for region in REGIONS:
        pairs = [(expected_dice(agreements(case), scale).get(region), case) for case in found.values()]
        over = np.array([of - case[f"dice/{region}"] for of, case in pairs if of is not None])
        print(f"| {region} | {len(over)} | {abs(over).mean():.2f} | {over.mean():.2f} | {over.max():.2f} |")


def numbers(case: dict) -> dict[str, float]:
    return {name: of for name, of in case.items() if name != "dataset"}


def agreements(case: dict) -> dict[str, float]:
    """By region."""
    return {name.partition("/")[2]: of for name, of in case.items() if name.startswith("agreement/")}


def bundled(model: Model, found: dict[str, dict]) -> bytes:
    """The model file of all patients, with the held-out figures of the folds."""
    figures = mean_figures([numbers(case) for case in found.values()])
    meta = {**model.meta, "validation": figures, "validated_on": f"{FOLDS} folds of this training"}
    return halved(save_model(model.network, model.preset, meta))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("outs", metavar="OUT", type=Path, nargs="+")
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--install", action="store_true")
    given = parser.parse_args()
    found = held_out(given.outs, given.shards)
    print_card(found)
    print_expected(found)
    if given.install:
        for file in BOX:
            file.write_bytes(bundled(read(given.outs, file.stem, "all"), found))


if __name__ == "__main__":
    main()
