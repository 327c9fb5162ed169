"""What a person sees of a command under way, and the stream of cases that it is told by."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from bts.errors import RunError
from jobs.driver.cluster import case_gauge, taken

if TYPE_CHECKING:
    import ray.data

EVERY_S = 5  # between two lines of progress in a log


def stream(
    name: str, total: int, rows: "ray.data.Dataset", last: Callable[[dict], dict], **how
) -> Iterator[dict]:
    """Run the last stage of a pipeline, one row a case, and yield its rows with progress lines.

    Ray loses the class of what a task raises, so a RunError (a full disk, a bucket that refuses) travels here
    as a row. Raises RunError.
    """

    def results() -> Iterator[dict]:
        for row in rows.map(_or_stop(last), **how).iter_rows():
            if row["stop"]:
                raise RunError(row["stop"])
            yield row

    return counted(name, total, results())


def counted(name: str, total: int, results: Iterable[dict]) -> Iterator[dict]:
    """The results, one a case, with progress lines; one with a `failure` counts as a failed case."""
    progress = Meter(name, total)
    for row in results:
        progress.step(failed=bool(row.get("failure")))
        yield row


def _or_stop(task: Callable[[dict], dict]) -> Callable[[dict], dict]:
    def run(row: dict) -> dict:
        try:
            return {**task(row), "stop": ""}
        except RunError as error:
            return {"stop": str(error)}

    return run


class Meter:
    """A bar on a terminal; otherwise plain lines for the log, one every few seconds and one at the end."""

    def __init__(self, name: str, total: int):
        self.name, self.total = name, total
        self.done = self.failed = 0
        self.started = self.last = time.monotonic()
        self.bar = tqdm(total=total, desc=name, unit="case", disable=not sys.stderr.isatty())
        self.gauge = case_gauge()
        self.export()

    def export(self) -> None:
        """Tell the nodes' metrics where the job is."""
        for state in ("total", "done", "failed") if self.gauge else ():
            self.gauge.set(getattr(self, state), {"job": self.name, "state": state})

    def step(self, *, failed: bool = False) -> None:
        self.done += 1
        self.failed += failed
        self.bar.update()
        now = time.monotonic()
        if now - self.last >= EVERY_S or self.done == self.total:
            self.last = now
            self.export()
            if self.bar.disable:
                self.say_where(now - self.started)
        if self.done == self.total:
            self.bar.close()

    def say_where(self, seconds: float) -> None:
        rate = self.done / max(seconds, 1e-9)
        left = (self.total - self.done) / rate
        trouble = f", {self.failed} failed" if self.failed else ""
        where = f"{self.done}/{self.total} cases{trouble}, {rate:.2f}/s, {left:.0f} s left"
        say(f"{self.name}: {where}{taken()}")


def say(line: str) -> None:
    """One line for the person who watches; standard output is kept for results."""
    # A file name may hold bytes that are no text.
    print(line.encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)


def examples(names: Sequence[str]) -> str:
    """The first three of many names, as a terminal may show them."""
    shown = [name if name.isprintable() else ascii(name) for name in names[:3]]
    return ", ".join(shown) + (", …" if len(names) > 3 else "")
