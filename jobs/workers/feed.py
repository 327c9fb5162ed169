"""What one rank of a training learns from: its slices, epoch after epoch, whoever reads them."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from bts.shards.catalogue import Shard
from bts.training import draw, prefetch
from bts.training.batches import Sample, make_batches, samples_of
from bts.training.rows import by_case, read_rows
from jobs.workers.rank import Job

KEEP = 2 << 30  # bytes: training cases that fit are read once and kept, uncompressed, in each worker
PIECE = 16  # shards read at a time, a rank: about 250 MB of drawn slices, and as much again ahead

Reader = Callable[[Job, list[Shard], int, bool], list[pa.Table]]
"""(job, shards, epoch, whether whole) → of each shard the slices that the epoch needs, or all if whole."""


def read_here(job: Job, shards: list[Shard], epoch: int, whole: bool) -> list[pa.Table]:
    """A `Reader` without Ray."""
    items = pa.Table.from_pylist(items_of(shards, epoch))
    return by_case(read_rows(items, job.shards, job.plan.preset, job.plan.turns(), whole))


def items_of(shards: list[Shard], epoch: int) -> list[dict]:
    """The rows that `read_rows` takes."""
    return [{"epoch": epoch, "key": shard.key} for shard in shards]


class Feed:
    """This rank's slices, epoch after epoch, read a piece ahead of the one in use.

    Not by `streaming_split` of Ray Data: with equal=True it drops rows, with equal=False it gave one of two
    workers all of a small set.
    """

    def __init__(self, job: Job, rank: int, world: int, read: Reader):
        self.job, self.rank, self.world, self.read = job, rank, world, read
        self.pieces: Iterator[tuple[bool, list[pa.Table]]] = iter(())
        self.next_epoch: int | None = None
        self.turns = job.plan.turns()
        self.keeps = sum(shard.bytes for shard in job.plan.training) <= KEEP
        self.kept: dict[str, pa.Table] = {}

    def batches(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of an epoch, the same in every run with as many workers."""
        preset = self.job.plan.preset
        rng = np.random.default_rng([preset.seed, epoch, self.rank])
        return make_batches(self.samples(epoch, rng), preset, rng)

    def samples(self, epoch: int, rng: np.random.Generator) -> Iterator[Sample]:
        """The samples of an epoch, a shard after the other."""
        for table in self.tables(epoch):
            yield from samples_of(table, self.job.plan.preset, rng)

    def tables(self, epoch: int) -> Iterator[pa.Table]:
        """The drawn slices of an epoch, a table a shard, in the order in which `draw.deal` gives them."""
        if self.next_epoch != epoch:  # the first epoch of this run, or the one after a broken-off epoch
            self.pieces = prefetch.ahead(self._pieces(epoch), 1)
        self.next_epoch = None
        last = False
        while not last:
            last, tables = next(self.pieces)
            yield from tables
        self.next_epoch = epoch + 1

    def _pieces(self, start: int) -> Iterator[tuple[bool, list[pa.Table]]]:
        """(whether it is the epoch's last, its tables) of every piece, without end."""
        plan, shares = self.job.plan, draw.batches_a_step(self.job.parts, self.world)
        for epoch in itertools.count(start):
            mine = draw.deal(plan.training, shares, seed=plan.preset.seed, epoch=epoch)[self.rank]
            for first in range(0, len(mine), PIECE):
                yield first + PIECE >= len(mine), self._tables(mine[first : first + PIECE], epoch)

    def _tables(self, shards: list[Shard], epoch: int) -> list[pa.Table]:
        """What the epoch needs of these shards."""
        if not self.keeps:
            return self.read(self.job, shards, epoch, False)
        missing = [shard for shard in shards if shard.key not in self.kept]
        tables = self.read(self.job, missing, epoch, True) if missing else []
        self.kept |= {shard.key: table for shard, table in zip(missing, tables, strict=True)}
        preset, keys = self.job.plan.preset, [shard.key for shard in shards]
        return [draw.needed(self.kept[key], preset, epoch, self.turns.get(key)) for key in keys]
