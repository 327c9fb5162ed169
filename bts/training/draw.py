"""Which slices an epoch draws, and who gets them.

Each choice is a pure function of (seed, epoch, case), so a resumed training sees what an uninterrupted one
would have seen.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from bts.settings import Preset
from bts.shards.catalogue import Shard
from bts.training.splits import leaked


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


def draw_slices(rows: pa.Table, empty_slices: float, seed: int, epoch: int) -> np.ndarray:
    """Which slices (bool) of a case an epoch draws: all with tumour, this share of others that show brain."""
    tumour = rows["tumour_px"].to_numpy() > 0
    brain = rows["brain_px"].to_numpy() > 0
    z, case = rows["z"].to_numpy(), rows["case_id"][0].as_py()
    # By z: a slice's draw is the same whatever block it comes in.
    draws = np.random.default_rng([seed, epoch, zlib.crc32(case.encode())]).random(z.max() + 1)
    return tumour | (brain & (draws[z] < empty_slices))


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
