"""`make bench-quick`: has something become slow? Ratios to plain ways of doing the same, in two minutes.

Every pair is measured in turn in one process; the least ratios lie well below what was measured, so that a
noisy machine passes. Exit 1 where one is missed.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow as pa
import torch
from isal import igzip
from scipy.ndimage import distance_transform_edt

from benchmarks.material import make_cases
from benchmarks.table import HEADER, Row, in_turn, timed
from bts.cases.case import Case, CaseVolume
from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.inference.segmenter import Segmenter
from bts.labels import CAVITY, REGIONS
from bts.model.file import Model
from bts.model.nets import build
from bts.presets import FAST
from bts.scoring import metrics
from bts.settings import Sampling
from bts.shards.format import pq, table_of, write_shard
from bts.storage import Store
from bts.training.batches import collate, samples_of
from bts.training.draw import draw_slices, needed
from bts.training.rows import with_grid
from bts.training.state import start
from bts.training.step import train_step

RUNS = 3
FLAT = replace(FAST, sampling=Sampling())  # single slices


def row(what: str, ours: Callable, against: str, theirs: Callable, least: float) -> Row:
    ours(), theirs()
    mine, other = in_turn(RUNS, lambda: timed(ours), lambda: timed(theirs))
    made = Row(what=what, unit="s", ours=mine, against=against, theirs=other, target=least)
    print(made.line(), flush=True)
    return made


def shard_of_case(case: Case, store: Store, volume: CaseVolume, files: list[bytes]) -> Row:
    pixels, zstd = volume.images.tobytes(), pa.Codec("zstd", 1)

    def limit() -> None:
        for data in files:
            igzip.decompress(data)
        zstd.compress(pixels)

    return row(
        "case to shard, one core",
        lambda: write_shard(load_case(case, store), {}),
        "gunzip + zstd",
        limit,
        0.4,
    )


def batches_of_shard(volume: CaseVolume, paths: list[Path]) -> Row:
    data, rng = write_shard(volume, {}), np.random.default_rng(0)

    def ours() -> None:
        table = pq.read_table(pa.BufferReader(data))
        samples = samples_of(needed(with_grid(table, volume.grid), FLAT, 0), FLAT, rng)
        for first in range(0, len(samples), FLAT.batch):
            collate(samples[first : first + FLAT.batch], FLAT, rng)

    return row(
        "shard to batches", ours, "nibabel's get_fdata", lambda: [nib.load(p).get_fdata() for p in paths], 5
    )


def labels_of_case(volume: CaseVolume) -> Row:
    torch.manual_seed(0)
    plain = build(FLAT).eval()
    segmenter = Segmenter([Model(build(FLAT), FLAT, {}, "")])
    whole = torch.from_numpy(volume.whole(volume.images).astype(np.float32)).transpose(0, 1)

    @torch.inference_mode()
    def theirs() -> None:
        for slices in whole.split(16):
            plain(slices).sigmoid()

    return row("case to labels", lambda: segmenter(volume), "whole slices in float32", theirs, 1.5)


def step(volume: CaseVolume) -> Row:
    table = with_grid(table_of(volume), volume.grid)
    drawn = np.flatnonzero(draw_slices(table, 0.33, 0, 0))[: FLAT.batch]
    table = table.append_column("drawn", pa.array(np.isin(np.arange(len(table)), drawn)))
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    batch = collate(samples_of(table, FLAT, rng), FLAT, rng)
    batch = {name: torch.as_tensor(value) for name, value in batch.items()}
    progress, plain = start(FLAT, torch.device("cpu"), None, None), build(FLAT)
    optimiser = torch.optim.AdamW(plain.parameters(), fused=False)
    images, truth = batch["images"].float(), (batch["mask"][:, None] > 0).float().expand(-1, 3, -1, -1)

    def theirs() -> None:
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(plain(images), truth).backward()
        optimiser.step()

    return row(
        "training step, augmented", lambda: train_step(progress, progress.network, [batch], 0.0, generator),
        "float32, not augmented", theirs, 0.5,
    )  # fmt: skip


def scores(volume: CaseVolume) -> Row:
    truth = volume.whole(volume.mask)
    found = np.roll(truth, 2, axis=1)

    def theirs() -> None:
        for labels in (truth, found):
            for region in REGIONS.values():
                distance_transform_edt(~np.isin(labels, region))

    return row(
        "all scores of a case",
        lambda: metrics.measure(truth, found, REGIONS, CAVITY, spacing=(1.0, 1.0, 1.0)),
        "six plain distance maps", theirs, 3,
    )  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = make_cases(Path(place), 1)
        store = Store(str(folder))
        (case,) = find_cases(store.list(), "auto").cases
        volume = load_case(case, store)
        files = [store.read(entry.key) for entry in case.files.values()]
        images = [folder / entry.key for role, entry in case.files.items() if role != "seg"]
        print(HEADER)
        rows = [shard_of_case(case, store, volume, files), batches_of_shard(volume, images)]
    rows += [labels_of_case(replace(volume, mask=None)), step(volume), scores(volume)]
    slow = [row.what for row in rows if row.ratio < row.target]
    print(f"slower than before: {', '.join(slow)}" if slow else "nothing has become slow")
    sys.exit(bool(slow))


if __name__ == "__main__":
    main()
