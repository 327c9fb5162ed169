"""A few cases without Ray: the same stages, one case after another in this process."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

UseRay = Literal["auto", "yes", "no"]
Task = Callable[[dict], dict]
FEW = 8  # cases; Ray is up in some ten seconds, in which one process does about as many


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fits_here(ray: UseRay, cases: int) -> bool:
    """Whether this process does so many cases itself. auto: where no cluster is named, and they are few."""
    few = cases <= min(2 * cores(), FEW)
    return ray == "no" or (ray == "auto" and few and not os.environ.get("RAY_ADDRESS"))


def run_here(rows: Sequence[dict], tasks: Sequence[Task]) -> Iterator[dict]:
    """The rows of the last task. Where there are several, the first (reading) is a case ahead of the
    others."""
    first, *others = tasks
    results = ahead(first, rows) if others else map(first, rows)
    for task in others:
        results = map(task, results)
    return iter(results)


def ahead(task: Task, rows: Iterable[dict]) -> Iterator[dict]:
    """`map` in a thread that works on the next row while the caller uses the last."""
    with ThreadPoolExecutor(1) as thread:
        coming = None
        for row in rows:
            last, coming = coming, thread.submit(task, row)
            if last:
                yield last.result()
        if coming:
            yield coming.result()
