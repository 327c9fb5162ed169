"""bts.training.prefetch: nothing lost, nothing twice, in order, and no thread left over."""

import numpy as np
import pytest

from bts.training import prefetch


@pytest.mark.parametrize("pool", [1, 7, 1000])
def test_shuffling_loses_and_repeats_nothing_and_fills_every_batch_but_the_last(pool):
    batches = list(prefetch.shuffled(range(45), 4, pool, np.random.default_rng(0)))
    seen = [sample for batch in batches for sample in batch]
    assert sorted(seen) == list(range(45)) and seen != sorted(seen)
    assert [len(b) for b in batches] == [4] * 11 + [1]
    assert list(prefetch.shuffled(range(45), 4, pool, np.random.default_rng(0))) == batches


def test_ahead_keeps_the_order_and_passes_on_errors():
    assert list(prefetch.ahead(range(1, 20), 3)) == list(range(1, 20))
    assert list(prefetch.ahead([], 3)) == []

    def broken():
        yield 1
        raise OSError("gone")

    items = prefetch.ahead(broken(), 3)
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_ahead_stops_making_items_once_it_is_closed():
    made = []
    items = prefetch.ahead((made.append(i) or i + 1 for i in range(1000)), 2)
    next(items)
    items.close()
    assert len(made) <= 4
