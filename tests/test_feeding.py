import numpy as np
import pyarrow as pa
import pytest

from bts import feeding
from bts.catalogue import Shard


def shard(index: int, slices: int = 10) -> Shard:
    return Shard(key=f"c{index}.parquet", case=f"c{index}", patient=f"p{index}", group="g", slices=slices,
                 labelled=True, modalities=("t1",))  # fmt: skip


def rows(case: str, tumour: list[int], brain: list[int]) -> pa.Table:
    z = pa.array(range(len(tumour)), pa.int16())
    pixels = {"tumour_px": pa.array(tumour, pa.int32()), "brain_px": pa.array(brain, pa.int32())}
    return pa.table({"case_id": [case] * len(tumour), "z": z, **pixels})


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_shard_goes_to_exactly_one_rank_in_an_order_of_the_epochs_own(ranks):
    shards = [shard(i, slices=10 + i) for i in range(7)]
    hands = feeding.deal(shards, ranks, seed=0, epoch=0)
    assert sorted(s.key for hand in hands for s in hand) == [s.key for s in shards]
    totals = [sum(s.slices for s in hand) for hand in hands]
    assert max(totals) - min(totals) <= max(s.slices for s in shards)
    assert feeding.deal(shards, ranks, seed=0, epoch=0) == hands
    assert feeding.deal(shards, ranks, seed=0, epoch=1) != hands


def test_all_tumour_slices_and_a_share_of_the_brain_are_drawn_and_no_blank_ones():
    tumour = [0] * 100 + [5] * 20 + [0] * 100
    table = rows("a", tumour, [0] * 50 + [9] * 170)
    z = set(feeding.draw_slices(table, 0.3, seed=1, epoch=0)["z"].to_pylist())
    assert set(range(100, 120)) <= z and not z & set(range(50))
    assert 20 < len(z) - 20 < 75  # 30 % of 150, give or take
    assert set(feeding.draw_slices(table, 0.3, seed=1, epoch=1)["z"].to_pylist()) != z
    assert set(feeding.draw_slices(table, 0.0, seed=1, epoch=1)["z"].to_pylist()) == set(range(100, 120))
    assert feeding.draw_slices(table, 1.0, seed=1, epoch=1).num_rows == 170


def test_the_draw_does_not_depend_on_how_a_shard_is_cut_into_blocks():
    table = rows("a", [0] * 60, [9] * 60)
    whole = feeding.draw_slices(table, 0.5, seed=1, epoch=3)
    parts = [feeding.draw_slices(table.slice(start, 20), 0.5, seed=1, epoch=3) for start in (0, 20, 40)]
    assert pa.concat_tables(parts).equals(whole)
    assert feeding.draw_slices(table.slice(0, 0), 0.5, seed=1, epoch=3).num_rows == 0


@pytest.mark.parametrize("pool", [1, 7, 1000])
def test_shuffling_loses_and_repeats_nothing_and_fills_every_batch_but_the_last(pool):
    tables = [rows(f"case{i}", [1] * 9, [1] * 9) for i in range(5)]
    batches = list(feeding.shuffled(tables, 4, pool, np.random.default_rng(0)))
    whole = pa.concat_tables(batches)
    seen = list(zip(whole["case_id"].to_pylist(), whole["z"].to_pylist(), strict=True))
    assert len(seen) == len(set(seen)) == 45
    assert [len(b) for b in batches] == [4] * 11 + [1]
    again = list(feeding.shuffled(tables, 4, pool, np.random.default_rng(0)))
    assert all(a.equals(b) for a, b in zip(batches, again, strict=True))
    assert seen != sorted(seen)


def test_ahead_keeps_the_order_and_passes_on_errors():
    assert list(feeding.ahead(range(1, 20), 3)) == list(range(1, 20))
    assert list(feeding.ahead([], 3)) == []

    def broken():
        yield 1
        raise OSError("gone")

    items = feeding.ahead(broken(), 3)
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_ahead_stops_making_items_once_it_is_closed():
    made = []
    items = feeding.ahead((made.append(i) or i + 1 for i in range(1000)), 2)
    next(items)
    items.close()
    assert len(made) <= 4
