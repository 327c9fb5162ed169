"""Which slices an epoch draws, who gets them, in which order, and batches made ahead of the network.

Each choice is a pure function of (seed, epoch, case), so a resumed training sees what an uninterrupted one
would have seen.
"""

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bts.catalogue import Shard, open_shard
from bts.presets import Preset
from bts.shards import STATISTICS
from bts.storage import Store

T = TypeVar("T")
COLUMNS = ("case_id", "z", "height", "width", "mask", "dtype", "brain_px", "tumour_px")
MOST_SLICES = 2048  # z of a row is below this; one draw a slice, by z


def deal(shards: Sequence[Shard], ranks: int, *, seed: int, epoch: int) -> list[list[Shard]]:
    """Shards in this epoch's random order, each to one rank: the one with the fewest slices so far."""
    hands: list[list[Shard]] = [[] for _ in range(ranks)]
    slices = [0] * ranks
    for index in np.random.default_rng([seed, epoch]).permutation(len(shards)):
        rank = slices.index(min(slices))
        hands[rank].append(shards[index])
        slices[rank] += shards[index].slices
    return hands


def read_item(items: pa.Table, store: Store, preset: Preset) -> pa.Table:
    """One row (epoch, key) → the slices that this epoch draws from this shard, with the column `epoch`."""
    ((epoch, key),) = ((row["epoch"], row["key"]) for row in items.to_pylist())
    with open_shard(store, key) as file:
        rows = pq.read_table(file, columns=[*COLUMNS, *preset.modalities, *STATISTICS])
    drawn = draw_slices(rows, preset.sampling.empty_slices, preset.seed, epoch)
    return drawn.append_column("epoch", pa.array([epoch] * drawn.num_rows, pa.int32()))


def draw_slices(rows: pa.Table, empty_slices: float, seed: int, epoch: int) -> pa.Table:
    """Every slice with tumour, and this share of the others that show brain, anew each epoch."""
    tumour = rows["tumour_px"].to_numpy() > 0
    brain = rows["brain_px"].to_numpy() > 0
    lucky = np.zeros(len(rows), bool)
    cases = rows["case_id"].to_numpy(zero_copy_only=False)
    for case in np.unique(cases):
        draws = np.random.default_rng([seed, epoch, zlib.crc32(case.encode())]).random(MOST_SLICES)
        mine = cases == case
        lucky[mine] = draws[rows["z"].to_numpy()[mine]] < empty_slices
    return rows.filter(pa.array(tumour | (brain & lucky)))


def shuffled(
    tables: Iterable[pa.Table], batch: int, pool: int, rng: np.random.Generator
) -> Iterator[pa.Table]:
    """Tables of slices → tables of `batch` rows drawn at random from the `pool` rows that came last."""
    waiting: list[tuple[pa.Table, int]] = []  # rows stay where they are until drawn: no copy of the pixels
    for table in tables:
        waiting += [(table, row) for row in range(table.num_rows)]
        while len(waiting) >= pool + batch:
            yield _draw(waiting, batch, rng)
    while waiting:
        yield _draw(waiting, batch, rng)


def _draw(waiting: list[tuple[pa.Table, int]], batch: int, rng: np.random.Generator) -> pa.Table:
    rows = []
    for _ in range(min(batch, len(waiting))):
        index = int(rng.integers(len(waiting)))
        waiting[index], waiting[-1] = waiting[-1], waiting[index]
        table, row = waiting.pop()
        rows.append(table.slice(row, 1))
    return pa.concat_tables(rows)


def ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items, up to `depth` of them made beforehand in a thread of their own."""
    items = iter(items)
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, items, None) for _ in range(depth))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item
