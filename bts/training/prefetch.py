"""Samples in random order, and batches made ahead of the network."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def shuffled(samples: Iterable[T], batch: int, pool: int, rng: np.random.Generator) -> Iterator[list[T]]:
    """Samples → lists of `batch` of them, drawn at random from the `pool` that came last."""
    waiting: list[T] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) >= pool + batch:
            yield _take(waiting, batch, rng)
    while waiting:
        yield _take(waiting, batch, rng)


def _take(waiting: list[T], batch: int, rng: np.random.Generator) -> list[T]:
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
