"""bts.training.draw: which rank gets which shards in an epoch, and which slices are drawn."""

import numpy as np
import pyarrow as pa
import pytest

from bts.shards.catalogue import Shard
from bts.training import draw


def shard(index: int, slices: int = 10) -> Shard:
    named = {"key": f"c{index}.parquet", "case": f"c{index}", "patient": f"p{index}", "group": "g"}
    kind = {"labelled": True, "modalities": ("t1",), "labels": "brats2021", "mean": (1.0,)}
    kind |= {"zooms": (1.0, 1.0, 1.0), "std": (1.0,), "p01": (0.0,), "p99": (2.0,)}
    return Shard(**named, **kind, slices=slices, voxels=99, brain=50, tumour=9, bytes=99)


def rows(case: str, tumour: list[int], brain: list[int]) -> pa.Table:
    z = pa.array(range(len(tumour)), pa.int16())
    pixels = {"tumour_px": pa.array(tumour, pa.int32()), "brain_px": pa.array(brain, pa.int32())}
    return pa.table({"case_id": [case] * len(tumour), "z": z, **pixels})


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_shard_goes_to_exactly_one_rank_in_an_order_of_the_epochs_own(ranks):
    shards = [shard(i, slices=10 + i) for i in range(7)]
    hands = draw.deal(shards, [1] * ranks, seed=0, epoch=0)
    assert sorted(s.key for hand in hands for s in hand) == [s.key for s in shards]
    totals = [sum(s.slices for s in hand) for hand in hands]
    assert max(totals) - min(totals) <= max(s.slices for s in shards)
    assert draw.deal(shards, [1] * ranks, seed=0, epoch=0) == hands
    assert draw.deal(shards, [1] * ranks, seed=0, epoch=1) != hands


@pytest.mark.parametrize(("parts", "world"), [(4, 3), (8, 5), (8, 8), (5, 2)])
def test_ranks_of_unequal_shares_come_to_their_end_together(parts, world):
    """As many steps as ranks of equal shares would take, but for the last few."""
    shares = draw.batches_a_step(parts, world)
    assert sum(shares) == parts
    for epoch in range(5):
        hands = draw.deal([shard(i) for i in range(48)], shares, seed=0, epoch=epoch)
        steps = [sum(s.slices for s in hand) / share for hand, share in zip(hands, shares, strict=True)]
        assert max(steps) - min(steps) <= 10 and max(steps) <= 480 / parts + 10


def drawn(table: pa.Table, share: float, epoch: int) -> set[int]:
    return set(np.flatnonzero(draw.draw_slices(table, share, seed=1, epoch=epoch)).tolist())


def test_all_tumour_slices_and_a_share_of_the_brain_are_drawn_and_no_blank_ones():
    tumour = [0] * 100 + [1] * 20 + [0] * 100
    table = rows("a", tumour, [0] * 50 + [1] * 170)
    z = drawn(table, 0.3, 0)
    assert set(range(100, 120)) <= z and not z & set(range(50))
    assert 20 < len(z) - 20 < 75  # 30 % of 150, give or take
    assert drawn(table, 0.3, 1) != z
    assert drawn(table, 0.0, 1) == set(range(100, 120))
    assert len(drawn(table, 1.0, 1)) == 170


def test_the_draw_does_not_depend_on_how_a_shard_is_cut_into_blocks():
    table = rows("a", [0] * 60, [9] * 60)
    whole = draw.draw_slices(table, 0.5, seed=1, epoch=3)
    parts = [draw.draw_slices(table.slice(start, 20), 0.5, seed=1, epoch=3) for start in (0, 20, 40)]
    assert np.array_equal(np.concatenate(parts), whole)
