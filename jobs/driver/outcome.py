"""Around every command: its flags, its exit code, its run report and its last line."""

import atexit
import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

from bts.errors import Failure, RunError, UsageError
from bts.storage import Store
from jobs.driver import flags
from jobs.driver.progress import examples, say

ALIKE = 3  # failures of one cause that are named one by one
SHOWN = 20  # failed cases that are named where a run report has all of them
DONE, COULD_NOT_RUN, WRONG_USAGE, SOME_FAILED = 0, 1, 2, 3


@dataclass
class Outcome:
    """What a job did: the counts of its last line, and the failed cases of its run report."""

    output: Store | None
    """Where the run report goes; a job without a folder of its own (promote, view, export, …) has none."""
    counts: Mapping[str, Any]
    failed: list[Failure] = field(default_factory=list)
    details: Mapping[str, Any] = field(default_factory=dict)
    max_failed: str = "0"
    dry_run: bool = False
    """Nothing was done, nor shall be written: no run report."""
    worst: int = DONE
    """Exit code of what did not come to its end, where this is the outcome of several runs."""

    @property
    def exit_code(self) -> int:
        if self.worst:
            return self.worst
        return DONE if self.dry_run or len(self.failed) <= self.allowed_failures() else SOME_FAILED

    def allowed_failures(self) -> float:
        if self.max_failed.endswith("%"):
            return float(self.max_failed[:-1]) / 100 * float(self.counts.get("cases", 0))
        return float(self.max_failed)


def run_job(name: str, settings_class: type, main: Callable[..., Outcome]) -> NoReturn:
    """Parse the flags into `settings_class`, run `main(settings)`, and exit (docs/reference/commands.md)."""
    leave(guarded(name, lambda: main(parse(name, settings_class, main))))


def leave(code: int) -> NoReturn:
    """Exit at once: Python would wait for the networks of a run that was stopped, and take PyTorch apart for
    half a second. What asked to be called at the end is called."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def parse(name: str, settings_class: type, main: Callable) -> Any:
    """The command line as a value of `settings_class`; exits with 2 and the reason if it is none."""
    return flags.parse(settings_class, f"python -m jobs.{name}", sys.modules[main.__module__].__doc__ or "")


def guarded(name: str, work: Callable[[], Outcome]) -> int:
    """Run a job's work; its exit code. A user's mistake or a store's refusal is one line, no traceback."""
    started = time.monotonic()
    try:
        outcome = work()
    except BaseException as error:
        cause = _cause(error)
        if isinstance(cause, UsageError):
            return _complain(name, cause, WRONG_USAGE)
        if isinstance(cause, RunError):
            return _complain(name, cause, COULD_NOT_RUN)
        if isinstance(error, KeyboardInterrupt):
            return _complain(name, "stopped; the same command does the rest", COULD_NOT_RUN)
        if isinstance(error, BrokenPipeError):  # as in `… | head`
            return _complain(name, "stopped: nobody reads its output any more", COULD_NOT_RUN)
        raise
    try:
        _close(name, outcome, time.monotonic() - started)
    except RunError as error:
        return _complain(name, error, COULD_NOT_RUN)
    return outcome.exit_code


def check_max_failed(value: str) -> None:
    """Raise UsageError where `--max-failed` is neither a number nor a percentage."""
    try:
        if float(value.removesuffix("%")) < 0:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--max-failed {value}: give a number of cases (3) or a share of them (5%)"
        ) from None


def failures_by_cause(failed: Sequence[Failure]) -> list[str]:
    """A line a failed case; one for all of those that fail alike, where they are many."""
    alike: dict[tuple[str, str, str], list[Failure]] = {}
    for case in failed:
        alike.setdefault((case.stage, case.error, case.mend), []).append(case)
    lines = []
    for (stage, error, mend), cases in alike.items():
        if len(cases) <= ALIKE:
            lines += [f"failed at {stage}: {case.message}" for case in cases]
        else:
            named = examples([case.case_id for case in cases])
            lines.append(f"failed at {stage}: {len(cases)} cases ({named}): {error}; {mend}")
    return lines


def _close(name: str, outcome: Outcome, seconds: float) -> None:
    """Write the run report, name the failed cases, print the last line."""
    shown = outcome.failed[:SHOWN] if outcome.output else outcome.failed
    each = (f"failed at {case.stage}: {case.message}" for case in shown)
    for failure in failures_by_cause(shown) if outcome.output or outcome.dry_run else each:
        say(failure)
    if len(outcome.failed) > len(shown):
        say(f"… and {len(outcome.failed) - SHOWN} more, all in the run report")
    ending = {"failed": len(outcome.failed), "seconds": round(seconds, 2)}
    line: dict[str, Any] = {"job": name, **outcome.counts, **ending}
    if outcome.dry_run:
        line["dry_run"] = True
    elif outcome.output:
        line["report"] = f"_runs/{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}.json"
        failed = [case.to_dict() for case in outcome.failed]
        report = {**line, "exit_code": outcome.exit_code, "failed_cases": failed, **outcome.details}
        outcome.output.put(line["report"], json.dumps(report, indent=1).encode())
    with contextlib.suppress(BrokenPipeError):  # all is done, whoever reads of it
        print(json.dumps(line), flush=True)


def _cause(error: BaseException) -> BaseException:
    """The project's own error at the root of what Ray wrapped around it, or the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (UsageError, RunError)):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__ or seen.__context__
    return error


def _complain(name: str, error: object, code: int) -> int:
    say(f"jobs.{name}: {error}")
    return code
