"""Can every preset's network, with its own loss, learn one real case by heart? A table of training Dice.

A network that cannot is broken. Cuts are small and filters fewer, so that each takes two minutes at most on
two CPU cores: `python -m benchmarks.overfit [--seconds 120] [NAME …]`, cases from ../shared/data.
"""

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bts.cases.case import CaseVolume
from bts.cases.figshare import cases_of, read_index_row
from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.labels import WRITTEN_AS
from bts.presets import PRESETS
from bts.settings import Augmentation, Budget, Normalisation, Optimiser, Preset
from bts.shards.format import table_of
from bts.storage import Store
from bts.training.batches import Sample, collate
from bts.training.log import mean_dice
from bts.training.loop import train
from bts.training.rows import with_grid
from bts.training.validation import score_case

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
FLAT, DEEP = (64, 64), (16, 48, 48)
BOX = (16, 64, 64)  # slices, rows and columns of the case that are kept
STEPS = 8  # of an epoch
NETWORKS = ("attention_unet", "fcn", "segnet", "vnet")  # beside unet3d's own
GRID = 32  # pixels, a multiple of every preset's pooling


@dataclass(frozen=True)
class Cut:
    """A case of which only a box around the tumour is left."""

    volume: CaseVolume

    def batches(self, preset: Preset) -> Iterator[dict[str, np.ndarray]]:
        """Batches of an epoch, the same for every preset of a kind."""
        rng, rows = np.random.default_rng(0), with_grid(table_of(self.volume), self.volume.grid)
        near = preset.sampling.neighbours
        if preset.volumetric:
            samples = [Sample(rows)]
        else:
            samples = [Sample(rows.slice(z - near, 2 * near + 1)) for z in range(near, len(rows) - near)]
        for _ in range(STEPS):
            chosen = rng.choice(len(samples), preset.batch)
            yield collate([samples[n] for n in chosen], preset, rng)


def cut(volume: CaseVolume, size: tuple[int, int, int]) -> Cut:
    """The box of that size around the middle of the tumour.

    Its rows and columns begin at multiples of GRID in the slice, where pooling falls when it is segmented: a
    training that sees one cut alone would not know another place.
    """
    middle = [int(np.median(axis)) for axis in np.nonzero(volume.mask)]
    starts = [min(max(m - n // 2, 0), max(have - n, 0)) for m, n, have in
              zip(middle, size, volume.mask.shape, strict=True)]  # fmt: skip
    for axis in (1, 2):
        starts[axis] -= (volume.origin[axis] + starts[axis]) % GRID
        starts[axis] += GRID if starts[axis] < 0 else 0
    box = tuple(slice(start, start + n) for start, n in zip(starts, size, strict=True))
    origin = tuple(o + s for o, s in zip(volume.origin, starts, strict=True))
    return Cut(replace(volume, images=volume.images[(..., *box)], mask=volume.mask[box], origin=origin))


def brats() -> CaseVolume:
    store = Store(str(DATA / "brats"))
    cases = {case.id: case for case in find_cases(store.list()).cases}
    return load_case(cases["BraTS2021_00000"], store)


def figshare() -> CaseVolume:
    """The patient with the largest tumour a slice."""
    store = Store(str(DATA / "figshare"))
    rows = [read_index_row(store.read(e.key), e) for e in find_cases(store.list()).slices]
    return max((load_case(case, store) for case in cases_of(rows)), key=lambda v: np.mean(v.mask > 0))


def variants() -> dict[str, Preset]:
    """Every preset with fewer filters and small cuts, and unet3d with each other network."""
    found = {}
    for name, preset in PRESETS.items():
        deep = preset.volumetric
        widths = tuple(max(8, width // (1 if deep else 4)) for width in preset.layers.widths)
        if preset.layers.stem > 1:
            widths = preset.layers.widths
        found[name] = replace(
            preset,
            layers=replace(preset.layers, widths=widths[:4] if deep else widths, dropout=()),
            size=DEEP if deep else FLAT,
            frame=preset.frame and FLAT,
            resize=None,
            batch=1 if deep else 8,
            augmentation=Augmentation(flip=0),
            optimiser=optimiser(preset),
            normalisation=with_constants(preset.normalisation, len(preset.modalities)),
        )  # fmt: skip
    for network in NETWORKS:
        found[f"unet3d --network {network}"] = replace(found["unet3d"], network=network)
    if importlib.util.find_spec("timm"):  # requirements-encoders.txt
        widths = (16, 16, 32, 64, 128, 256)
        layers = replace(found["fast"].layers, widths=widths, stem=1, down="pool", encoder="resnet18")
        found["fast --network encoder_unet"] = replace(found["fast"], network="encoder_unet", layers=layers)
    return found


def optimiser(preset: Preset) -> Optimiser:
    """The preset's own, at a rate that suits a few hundred steps and falls to zero over them."""
    lr = min(max(preset.optimiser.lr, 1e-3), 1e-2)
    return replace(preset.optimiser, lr=lr, schedule="poly", warmup=0, ema=0)


def with_constants(settings: Normalisation, channels: int) -> Normalisation:
    if settings.kind != "global_zscore":
        return settings
    return replace(settings, mean=(100.0,) * channels, std=(200.0,) * channels)


class Learnt(Exception):
    """The case is known by heart."""


def overfit(preset: Preset, case: Cut, seconds: float) -> tuple[float, int]:
    """(best training Dice, steps) within that time, or as soon as Dice is 0.97."""
    best, steps = 0.0, 0

    def validate(segmenter):
        figures = score_case(segmenter, case.volume)
        nonlocal best
        best = max(best, mean_dice(figures))
        return figures

    def on_epoch(progress):
        nonlocal steps
        steps = progress.step
        if best >= 0.97:
            raise Learnt

    preset = replace(preset, budget=Budget(minutes=seconds / 60, validate_every=4))
    with contextlib.suppress(Learnt):
        train(preset, batches=lambda _: case.batches(preset), validate=validate, on_epoch=on_epoch)
    return best, steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="presets, or networks of unet3d; all by default")
    parser.add_argument("--seconds", type=float, default=120)
    arguments = parser.parse_args()
    whole = {"brats": brats(), "figshare": figshare()}
    failed = 0
    print(f"{'preset':34}{'loss':34}{'training Dice':>14}{'steps':>7}")
    for name, preset in variants().items():
        if arguments.names and not set(name.split()) & set(arguments.names):
            continue
        case = cut(whole["figshare" if preset.targets in WRITTEN_AS else "brats"], BOX)
        dice, steps = overfit(preset, case, arguments.seconds)
        terms = [
            n for n in ("dice", "generalised_dice", "bce", "ce", "focal", "lovasz") if getattr(preset.loss, n)
        ]
        print(f"{name:34}{' + '.join(terms):34}{dice:14.4f}{steps:7}", flush=True)
        failed += dice < 0.95
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
