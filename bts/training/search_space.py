"""What a sweep tries: the values that each flag may take, and the trials drawn from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bts.errors import UsageError

TRIES = 100  # draws a trial, most of them repeated where few values are to be tried


@dataclass(frozen=True, slots=True)
class Axis:
    """One flag and what it may be: one of `values`, or anything from `low` to `high`."""

    flag: str
    """A preset's field, as the command line names it: "optimiser.lr"."""
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False

    def draw(self, rng: np.random.Generator) -> str:
        """A value, as the command line takes it."""
        if self.values:
            return self.values[rng.integers(len(self.values))]
        if self.low > 0 and self.high >= 10 * self.low:  # over decades: each decade as likely
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        return str(round(value)) if self.whole else f"{value:.3g}"


def parse_axis(given: str) -> Axis:
    """`FIELD=LOW..HIGH` or `FIELD=A,B,C`. Raises UsageError for anything else."""
    flag, equals, text = given.partition("=")
    low, dots, high = text.partition("..")
    if not (flag and equals and text):
        raise UsageError(f"--over {given}: give FIELD=LOW..HIGH or FIELD=A,B,C; optimiser.lr=1e-4..1e-2")
    if not dots:
        return Axis(flag, values=tuple(value.strip() for value in text.split(",")))
    try:
        ends = float(low), float(high)
    except ValueError:
        raise UsageError(f"--over {given}: {low} and {high} must be numbers") from None
    if not (math.isfinite(ends[0]) and math.isfinite(ends[1]) and ends[0] < ends[1]):
        raise UsageError(f"--over {given}: the first number must be below the second")
    return Axis(flag, low=ends[0], high=ends[1], whole=low.lstrip("-").isdigit() and high.isdigit())


def draw_trials(axes: Sequence[Axis], count: int, seed: int) -> list[dict[str, str]]:
    """{flag: value} of each trial, the same for the same seed. The first has none: the preset as it is.

    All differ; there are fewer than `count` where the axes give no more. Raises UsageError where none, or
    one flag twice, is to vary.
    """
    flags = [axis.flag for axis in axes]
    if not flags or len({*flags}) < len(flags):
        raise UsageError(f"--over {' '.join(flags)}: name what to vary, each field once")
    rng = np.random.default_rng(seed)
    drawn: list[dict[str, str]] = [{}]
    for _ in range(TRIES * count):
        trial = {axis.flag: axis.draw(rng) for axis in axes}
        if len(drawn) < count and trial not in drawn:
            drawn.append(trial)
    return drawn


def to_flags(trial: dict[str, str]) -> list[str]:
    """A trial as the command line of jobs.train takes it."""
    return [word for flag, value in trial.items() for word in (f"--{flag}", *value.split())]
