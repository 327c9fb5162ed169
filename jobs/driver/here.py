"""A few cases without Ray: the same stages, in this process."""

import contextlib
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, Protocol

from bts.errors import RunError
from bts.storage import Store
from jobs.driver.cluster import start_ray
from jobs.driver.progress import say
from jobs.workers.tries import tried, worker_deaths

UseRay = Literal["auto", "yes", "no"]
FEW = 8  # cases; Ray is up in some ten seconds, in which one process does about as many
BEGUN = "_runs/here"  # in the output while a process does cases itself; what killed the process left it there


class Task(Protocol):
    """A function of a row, or an object that is called with one."""

    def __call__(self, row: dict, /) -> dict: ...


def fits_here(ray: UseRay, cases: int, output: Store | None = None) -> bool:
    """Whether this process does so many cases itself. auto: where no cluster is named, they are few, and no
    process died of that in this output; what has been said of one is taken away."""
    if ray != "auto" or cases > FEW or os.environ.get("RAY_ADDRESS"):
        return ray == "no"
    if output is None:
        return True
    try:
        output.read(BEGUN)
    except OSError:  # there is none, or the run will end of it soon
        return True
    say("a case may have killed the last run: Ray does them now, and keeps them apart")
    output.delete(BEGUN)
    return False


def in_tasks(rows: Sequence[dict], task: Task, ray: UseRay, what: str) -> Iterator[dict]:
    """The task's result of every row: by this process if they are few, else by a task of Ray's each.

    what: such as "drawing pictures", for the message where that kills its workers. Raises RunError.
    """
    if fits_here(ray, len(rows)):
        return map(task, rows)
    from ray.data import from_items

    start_ray()
    with worker_deaths(what):
        data = from_items(list(rows), override_num_blocks=len(rows))
        return iter(tried(data.map, task.__call__).take_all())


def noted(rows: Iterable[dict], output: Store) -> Generator[dict]:
    """The rows, with a note in the output as long as they are being made."""
    output.put(BEGUN, b"")
    try:
        yield from rows
    finally:
        with contextlib.suppress(RunError):  # what ended the rows counts more; the next run starts Ray
            output.delete(BEGUN)


def run_here(rows: Iterable[dict], tasks: Sequence[Task], at_once: Sequence[int]) -> Iterator[dict]:
    """The rows of the last task. Each task does as many rows side by side, in threads, as `at_once` says of
    it; where others come after the first (reading), it is a row ahead of them even if it does one."""
    results = iter(rows)
    for place, (task, threads) in enumerate(zip(tasks, at_once, strict=True)):
        reads_ahead = place == 0 and len(tasks) > 1
        results = ahead(task, results, threads) if reads_ahead or threads > 1 else map(task, results)
    return results


def ahead(task: Task, rows: Iterable[dict], threads: int = 1) -> Iterator[dict]:
    """`map` in threads that work on the next rows while the caller uses the last."""
    pool = ThreadPoolExecutor(threads)
    try:
        coming: deque[Future[dict]] = deque()
        for row in rows:
            coming.append(pool.submit(task, row))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # whoever stops a run waits for no network
