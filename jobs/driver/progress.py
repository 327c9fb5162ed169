"""What a person sees of a command under way."""

import sys
import time
from collections.abc import Callable, Sequence

from tqdm import tqdm

from jobs.driver.cluster import case_gauge, taken

EVERY_S = 5  # between two lines of progress in a log


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
        if self.gauge is None:
            return
        for state in ("total", "done", "failed"):
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


class TrainingMeter:
    """On a terminal a bar under the lines of a training: the share of its budget that is spent. Otherwise the
    lines alone."""

    def __init__(self):
        form = "{percentage:3.0f}%|{bar:24}| {desc}"
        self.bar = tqdm(total=1, bar_format=form, disable=not sys.stderr.isatty())

    def step(self, line: str, minutes: float, left: float | None) -> None:
        """Within an epoch; left: minutes, None where that cannot be told yet."""
        if self.bar.disable:
            say(line)
            return
        if left is not None:
            self.bar.n = minutes / max(minutes + left, 1e-9)
        self.bar.set_description_str(line)

    def epoch(self, line: str) -> None:
        """A line that stays."""
        self.bar.clear()
        say(line)
        self.bar.refresh()

    def close(self) -> None:
        self.bar.close()


def say(line: str) -> None:
    """One line for the person who watches; standard output is kept for results."""
    print(plain(line), file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """The text as a terminal may show it: names of others (files, cases, labels) may hold bytes that are no
    text, or what would colour, move or title the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def hand_over(on_report: Callable[..., None], *report: object) -> None:
    """Pass on a training's report. An error of MLflow or its database does not stop the training."""
    try:
        on_report(*report)
    except Exception as error:
        say(f"MLflow did not take these figures: {error}")


def counted(number: int, thing: str) -> str:
    """1 case, 2 cases, 2 studies."""
    many = f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"
    return f"{number} {thing if number == 1 else many}"


def examples(names: Sequence[str]) -> str:
    """The first three of many names, as a terminal may show them."""
    shown = [name if name.isprintable() else ascii(name) for name in names[:3]]
    return ", ".join(shown) + (", …" if len(names) > 3 else "")
