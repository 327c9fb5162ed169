"""Which slices an epoch draws, who gets them, and batches made ahead of the network.

Each choice is a pure function of (seed, epoch, case), so a resumed training sees what an uninterrupted one
would have seen, whatever the number of files read at once.
"""

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow as pa

from bts.catalogue import Shard
from bts.shards import STATISTICS

T = TypeVar("T")
MOST_SLICES = 2048  # z of a row is below this; one draw a slice, by z


def columns(modalities: Sequence[str]) -> list[str]:
    """The columns of a shard that training reads; the other modalities stay on the disk."""
    return ["case_id", "z", "height", "width", *modalities, "mask", "dtype", *STATISTICS, "brain_px", "tumour_px"]


def deal(shards: Sequence[Shard], ranks: int, *, seed: int, epoch: int) -> list[list[Shard]]:
    """Shards in this epoch's random order, each to exactly one rank: the one with the fewest slices so far."""
    hands: list[list[Shard]] = [[] for _ in range(ranks)]
    slices = [0] * ranks
    for index in np.random.default_rng([seed, epoch]).permutation(len(shards)):
        rank = slices.index(min(slices))
        hands[rank].append(shards[index])
        slices[rank] += shards[index].slices
    return hands


def draw_slices(rows: pa.Table, empty_slices: float, seed: int, epoch: int) -> pa.Table:
    """Every slice with tumour, and this share of the others that show brain, anew each epoch."""
    tumour = rows["tumour_px"].to_numpy() > 0
    brain = rows["brain_px"].to_numpy() > 0
    cases, which = np.unique(rows["case_id"].to_numpy(), return_inverse=True)
    draws = [np.random.default_rng([seed, epoch, zlib.crc32(c.encode())]).random(MOST_SLICES) for c in cases]
    # By z and not by position: how a reader cuts a shard into blocks must not matter.
    lucky = np.stack(draws)[which, rows["z"].to_numpy()] < empty_slices if len(cases) else tumour
    return rows.filter(pa.array(tumour | (brain & lucky)))


def ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items, up to `depth` of them made beforehand in a thread of their own."""
    items = iter(items)
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, items, None) for _ in range(depth))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item
