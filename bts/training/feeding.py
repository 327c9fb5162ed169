"""Which slices an epoch draws, who gets them, in which order, and batches made ahead of the network.

Each choice is a pure function of (seed, epoch, case), so a resumed training sees what an uninterrupted one
would have seen.
"""

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bts.images.grid import Grid
from bts.settings import Preset
from bts.shards.catalogue import Shard, open_shard
from bts.shards.format import STATISTICS, read_grid
from bts.storage import Store
from bts.training.splits import leaked

T = TypeVar("T")
COLUMNS = ("case_id", "z", "height", "width", "y0", "x0", "mask", "dtype", "brain_px", "tumour_px")


def batches_a_step(parts: int, world: int) -> list[int]:
    """How many of a step's batches each rank takes."""
    return [parts // world + (rank < parts % world) for rank in range(world)]


def deal(shards: Sequence[Shard], shares: Sequence[int], *, seed: int, epoch: int) -> list[list[Shard]]:
    """Shards in this epoch's random order, each to one rank: the one with the fewest slices so far for its
    share, the batches that it takes a step, so that all come to their end together.
    """
    hands: list[list[Shard]] = [[] for _ in shares]
    slices = [0] * len(shares)
    for index in np.random.default_rng([seed, epoch]).permutation(len(shards)):
        rank = min(range(len(shares)), key=lambda rank: slices[rank] / shares[rank])
        hands[rank].append(shards[index])
        slices[rank] += shards[index].slices
    return hands


def read_items(
    items: pa.Table, store: Store, preset: Preset, turns: Mapping[str, int], whole: bool
) -> pa.Table:
    """Rows (epoch, key) → the slices of these shards that this epoch needs, or all if `whole`.

    turns: of each key, what the split `leaking_by_slice` holds out (bts.splits.turns); empty by patient.
    """
    return pa.concat_tables(
        _read(row, store, preset, turns.get(row["key"]), whole) for row in items.to_pylist()
    )


def by_case(rows: pa.Table) -> list[pa.Table]:
    """A table for each case that has slices among those of `read_items`, in their order."""
    cases = rows["case_id"].to_numpy(zero_copy_only=False)
    ends = [0, *(np.flatnonzero(cases[1:] != cases[:-1]) + 1), len(cases)]
    return [rows.slice(start, end - start) for start, end in pairwise(ends)]


def _read(item: dict, store: Store, preset: Preset, turn: int | None, whole: bool) -> pa.Table:
    with open_shard(store, item["key"]) as file:
        rows = pq.read_table(file, columns=[*COLUMNS, *preset.modalities, *STATISTICS])
    rows = with_grid(rows, read_grid(rows.schema)).replace_schema_metadata(None)
    return rows if whole else needed(rows, preset, item["epoch"], turn)


def needed(rows: pa.Table, preset: Preset, epoch: int, turn: int | None = None) -> pa.Table:
    """The rows of a case that an epoch needs, with a column `drawn` that marks those it makes samples of.

    Stacks need the neighbours of drawn slices too, volumes every slice. turn: of the slices that the split
    `leaking_by_slice` keeps from training.
    """
    drawn = draw_slices(rows, preset.sampling.empty_slices, preset.seed, epoch)
    if turn is not None:
        drawn &= ~leaked(rows["case_id"][0].as_py(), rows["z"].to_pylist(), seed=preset.seed, turn=turn)
    rows = rows.append_column("drawn", pa.array(drawn))
    if preset.volumetric:
        return rows
    near = preset.sampling.neighbours
    around = np.convolve(drawn, np.ones(2 * near + 1))[near : near + len(drawn)]
    return rows.filter(pa.array(around > 0))


def with_grid(rows: pa.Table, grid: Grid) -> pa.Table:
    """The rows with columns of the source's slices in canonical orientation: full_height and full_width in
    pixels, row_mm and column_mm of a pixel.
    """
    sides = dict(zip(("full_height", "full_width"), grid.shape[1:], strict=True))
    sides |= zip(("row_mm", "column_mm"), grid.zooms[1:], strict=True)
    for name, value in sides.items():
        rows = rows.append_column(name, pa.array([value] * len(rows)))
    return rows


def draw_slices(rows: pa.Table, empty_slices: float, seed: int, epoch: int) -> np.ndarray:
    """Which slices (bool) of a case an epoch draws: all with tumour, this share of others that show brain."""
    tumour = rows["tumour_px"].to_numpy() > 0
    brain = rows["brain_px"].to_numpy() > 0
    z, case = rows["z"].to_numpy(), rows["case_id"][0].as_py()
    # By z: a slice's draw is the same whatever block it comes in.
    draws = np.random.default_rng([seed, epoch, zlib.crc32(case.encode())]).random(z.max() + 1)
    return tumour | (brain & (draws[z] < empty_slices))


def shuffled(samples: Iterable[T], batch: int, pool: int, rng: np.random.Generator) -> Iterator[list[T]]:
    """Samples → lists of `batch` of them, drawn at random from the `pool` that came last."""
    waiting: list[T] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) >= pool + batch:
            yield _draw(waiting, batch, rng)
    while waiting:
        yield _draw(waiting, batch, rng)


def _draw(waiting: list[T], batch: int, rng: np.random.Generator) -> list[T]:
    drawn = []
    for _ in range(min(batch, len(waiting))):
        index = int(rng.integers(len(waiting)))
        waiting[index], waiting[-1] = waiting[-1], waiting[index]
        drawn.append(waiting.pop())
    return drawn


def ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items, up to `depth` of them made beforehand in a thread of their own."""
    items = iter(items)
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, items, None) for _ in range(depth))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item
