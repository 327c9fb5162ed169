"""A preset trained without Ray, on a machine that has a GPU and little else; it goes on where it was cut off.

    python -m benchmarks.accuracy.alone PRESET --shards DIR --place DIR [--fold 0] [--minutes 30]
                                        [--batch N]

--shards: made by jobs.preprocess. A checkpoint an epoch in DIR/PRESET-fold-FOLD, and at the end
PRESET.safetensors there, for jobs.segment; cut it off and run it again as often as it takes. Its clock counts
training and validation, not the reading of the shards.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from bts.inference.segmenter import Segmenter
from bts.presets import PRESETS
from bts.settings import Preset
from bts.shards.catalogue import read_catalogue
from bts.shards.format import read_volume
from bts.storage import Store
from bts.training import batches, draw, loop, validation
from bts.training.plan import Plan, make_plan
from bts.training.rows import by_case, read_rows
from bts.training.state import Progress, outcome


def batches_of(plan: Plan, store: Store) -> Callable[[int], Iterator[dict]]:
    """Epoch → its batches, of shards that are read once and stay in memory."""
    preset = plan.preset
    items = pa.Table.from_pylist([{"epoch": 0, "key": shard.key} for shard in plan.training])
    tables = by_case(read_rows(items, store, preset, {}, whole=True))

    def of(epoch: int) -> Iterator[dict]:
        rng = np.random.default_rng([preset.seed, epoch, 0])
        needed = (draw.needed(table, preset, epoch) for table in tables)
        samples = (sample for table in needed for sample in batches.samples_of(table, preset, rng))
        return batches.make_batches(samples, preset, rng)

    return of


def train(plan: Plan, store: Store, place: Path) -> Progress:
    """From the last checkpoint of the place, if it has one, to the end of the budget."""
    state = place / "state.pt"
    held_out = [read_volume(store.read(s.key), plan.preset.modalities) for s in plan.held_out]

    def validate(segmenter: Segmenter) -> dict[str, float]:
        return validation.mean_figures([validation.score_case(segmenter, volume) for volume in held_out])

    def keep(progress: Progress) -> None:
        (place / "state.new").write_bytes(progress.state())
        (place / "state.new").replace(state)
        figures = ", ".join(f"{name} {value:.3f}" for name, value in sorted(progress.metrics.items()))
        print(f"epoch {progress.epoch}, {progress.seconds / 60:.1f} min: {figures}", flush=True)

    return loop.train(
        plan.preset,
        batches=batches_of(plan, store),
        validate=validate,
        on_epoch=keep,
        checkpoint=state.read_bytes() if state.exists() else None,
    )


def with_flags(preset: Preset, minutes: float, batch: int | None) -> Preset:
    """The preset for this machine."""
    budget = replace(preset.budget, minutes=minutes, epochs=None)
    return replace(preset, budget=budget, batch=batch or preset.batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--shards", required=True)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--batch", type=int)
    given = parser.parse_args()
    place = given.place / f"{given.preset}-fold-{given.fold}"
    place.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(os.cpu_count())
    store = Store(given.shards)
    preset = with_flags(PRESETS[given.preset], given.minutes, given.batch)
    plan = make_plan(read_catalogue(store), preset, given.fold)
    progress = train(plan, store, place)
    found = outcome(progress)
    model = progress.model_file({**plan.provenance(), **found})
    (place / f"{given.preset}.safetensors").write_bytes(model)
    print(f"kept epoch {found['best_epoch']}: {found['validation']}")


if __name__ == "__main__":
    main()
