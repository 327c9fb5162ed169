"""A few cases without Ray: the same stages, one case after another in this process."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from jobs.driver.progress import counted

UseRay = Literal["auto", "yes", "no"]
Stage = Callable[[dict], dict]
FEW = 8  # cases; Ray is up in some ten seconds, in which one process does about as many


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fits_here(ray: UseRay, cases: int) -> bool:
    """Whether this process does so many cases itself. auto: where no cluster is named, and they are few."""
    few = cases <= min(2 * cores(), FEW)
    return ray == "no" or (ray == "auto" and few and not os.environ.get("RAY_ADDRESS"))


def run_here(name: str, rows: Sequence[dict], *stages: Stage) -> Iterator[dict]:
    """The rows of the last stage, with progress lines, as jobs.driver.progress.stream yields them.

    Where there are several stages, the first (reading) is one case ahead of the others.
    """
    first, *others = stages
    results = ahead(first, rows) if others else map(first, rows)
    for stage in others:
        results = map(stage, results)
    return counted(name, len(rows), results)


def ahead(task: Stage, rows: Iterable[dict]) -> Iterator[dict]:
    """`map` in a thread that works on the next row while the caller uses the last."""
    with ThreadPoolExecutor(1) as thread:
        coming = None
        for row in rows:
            last, coming = coming, thread.submit(task, row)
            if last:
                yield last.result()
        if coming:
            yield coming.result()
