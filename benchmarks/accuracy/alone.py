"""A preset trained without Ray, on a machine that has a GPU and little else; it goes on where it was cut off.

    python -m benchmarks.accuracy.alone PRESET --shards DIR --place DIR [--fold 0 | --everyone] [--minutes 30]
                                        [--keep NAME] [--begin-with FILE] [flags of the preset]

--shards: made by jobs.preprocess. --everyone: trained on all patients, with none held out. A checkpoint a
minute in DIR/NAME-fold-FOLD, and at the end there: NAME.safetensors for jobs.segment, in half precision;
outcome.json, what the training said and what each held-out case got; labels.npz, their labelmaps before
postprocessing; curves and pictures. Cut it off and run it again as often as it takes. Its clock counts
training and validation, not the reading of the shards. --begin-with: a model of the same networks, whose
weights are where it begins.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import tyro

from bts.cases.case import CaseVolume
from bts.inference.segmenter import Segmenter
from bts.model.device import pick_device
from bts.model.file import halved, load_model
from bts.model.header import digest
from bts.presets import PRESETS
from bts.report.curves import draw_curves
from bts.settings import Preset
from bts.settings_json import from_dict, to_dict
from bts.shards.catalogue import read_catalogue
from bts.storage import Store
from bts.training import batches, loop, validation
from bts.training.draw import needed
from bts.training.plan import Plan, make_plan
from bts.training.rows import by_case, read_rows
from bts.training.state import Progress, outcome, start
from jobs.workers import rank

EVERY_S = 60  # between checkpoints: an epoch may take a second


def batches_of(plan: Plan, store: Store) -> Callable[[int], Iterator[dict]]:
    """Epoch → its batches, of shards that are read once and stay in memory: the plainest way, with which
    benchmarks.training compares."""
    preset, turns = plan.preset, plan.turns()
    keys = [shard.key for shard in plan.training]
    items = pa.Table.from_pylist([{"epoch": 0, "key": key} for key in keys])
    tables = by_case(read_rows(items, store, preset, turns, whole=True))

    def of(epoch: int) -> Iterator[dict]:
        rng = np.random.default_rng([preset.seed, epoch, 0])
        order = rng.permutation(len(tables))
        drawn = (needed(tables[n], preset, epoch, turns.get(keys[n])) for n in order)
        samples = (sample for table in drawn for sample in batches.samples_of(table, preset, rng))
        return batches.make_batches(samples, preset, rng)

    return of


def beginning(preset: Preset, model: Path) -> bytes:
    """The checkpoint of a training that has not begun, with the model's weights."""
    progress = start(preset, pick_device("cpu"))
    weights = load_model(model.read_bytes(), model.name).network.state_dict()
    for network in (progress.network, progress.average):
        network.load_state_dict(weights)
    return progress.state()


def train(
    plan: Plan, store: Store, place: Path, held_out: list[CaseVolume], model: Path | None = None
) -> Progress:
    """From the last checkpoint of the place, if it has one, or from the model's weights, to the end of the
    budget."""
    state = place / "state.pt"
    if model and not state.exists():
        state.write_bytes(beginning(plan.preset, model))

    def validate(segmenter: Segmenter) -> dict[str, float]:
        return validation.mean_figures([validation.score_case(segmenter, volume) for volume in held_out])

    kept = [0.0]

    def keep(progress: Progress) -> None:
        if progress.done or progress.seconds - kept[0] > EVERY_S:
            kept[0] = progress.seconds
            (place / "state.new").write_bytes(progress.state())
            (place / "state.new").replace(state)
        figures = ", ".join(f"{name} {value:.3f}" for name, value in sorted(progress.metrics.items()))
        print(f"epoch {progress.epoch}, {progress.seconds / 60:.1f} min: {figures}", flush=True)

    return loop.train(
        plan.preset,
        batches=batches_of(plan, store),
        validate=validate if held_out else None,
        on_epoch=keep,
        checkpoint=state.read_bytes() if state.exists() else None,
    )


def score(progress: Progress, held_out: list[CaseVolume], place: Path) -> None:
    """outcome.json and labels.npz: what the training said, and each held-out case by the last weights."""
    segmenter = progress.segmenter()
    cases = {volume.case_id: validation.score_case(segmenter, volume) for volume in held_out}
    kept = ("epoch", "step", "seconds", "losses", "rates", "validations")
    said = {name: getattr(progress, name) for name in kept}
    means = validation.mean_figures(list(cases.values()))
    (place / "outcome.json").write_text(json.dumps({**said, "mean": means, "cases": cases}, indent=1))
    found = {v.case_id: segmenter.decoded(segmenter.probabilities(v)) for v in held_out}
    np.savez_compressed(place / "labels.npz", **found)


def draw(progress: Progress, held_out: list[CaseVolume], place: Path) -> None:
    """Curves, and the preset's own pictures of a few held-out cases."""
    (place / "curves.png").write_bytes(draw_curves(progress.losses, progress.validations, progress.rates))
    for name, data in rank.draw(progress.segmenter(), held_out, progress.preset).items():
        (place / name).write_bytes(data)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, Preset]:
    """The command line, and the preset that it asks for; --minutes stand instead of the preset's epochs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--shards", required=True)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--keep", help="name of the folder and the model; the preset's by default")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--everyone", action="store_true")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--begin-with", type=Path)
    given, flags = parser.parse_known_args(arguments)
    preset = tyro.cli(Preset, default=PRESETS[given.preset], args=flags, prog=given.preset)
    if given.minutes:
        preset = replace(preset, budget=replace(preset.budget, minutes=given.minutes, epochs=None))
    return given, from_dict(to_dict(preset))  # lists of the command line become tuples


def plan_of(store: Store, preset: Preset, fold: int, everyone: bool) -> Plan:
    """The split of the fold, or all patients in training."""
    plan = make_plan(read_catalogue(store), preset, fold)
    if everyone:
        shards = sorted((*plan.training, *plan.held_out), key=lambda shard: shard.key)
        plan = replace(plan, training=shards, held_out=[])
    return plan


def main() -> None:
    given, preset = parse(sys.argv[1:])
    name = given.keep or given.preset
    place = given.place / f"{name}-{'everyone' if given.everyone else f'fold-{given.fold}'}"
    place.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(min(4, os.cpu_count()))
    torch.backends.cudnn.benchmark = True
    store = Store(given.shards)
    plan = plan_of(store, preset, given.fold, given.everyone)
    held_out = list(rank.held_out(rank.Job(plan=plan, provenance={}, shards=store, parts=1)))
    progress = train(plan, store, place, held_out, given.begin_with)
    said = outcome(progress) if progress.validations else {"epochs": progress.epoch}
    if given.begin_with:
        said["begun_with"] = digest(given.begin_with.read_bytes())
    (place / f"{name}.safetensors").write_bytes(halved(progress.model_file({**plan.provenance(), **said})))
    print(f"{progress.epoch} epochs, {progress.step} steps, {progress.seconds:.0f} s", flush=True)
    if held_out:
        score(progress, held_out, place)
        draw(progress, held_out, place)


if __name__ == "__main__":
    main()
