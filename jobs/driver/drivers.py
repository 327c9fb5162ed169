"""`--drivers N`: the same command submitted N times, each with --part I/N, and one report of them all.

Not a command. The submissions know nothing of one another; each leaves a run report of its own.
"""

import contextlib
import dataclasses
import json
import os
import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bts.errors import Failure, RunError, UsageError
from bts.plain_json import parse
from bts.storage import Store
from jobs.driver.cluster import start_ray
from jobs.driver.outcome import COULD_NOT_RUN, DONE, SOME_FAILED, WRONG_USAGE, Outcome
from jobs.driver.progress import say

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

POLL_S = 2.0
SILENT_S = 120  # without an answer of the cluster, until its submissions are given up
SAME = ("unfit",)  # counts of the whole listing, which every driver gives


@dataclass
class Driver:
    """One of N submissions."""

    part: str
    """I/N."""
    submission: str
    ended: bool = False
    exit_code: int | None = None
    line: dict[str, Any] = field(default_factory=dict)
    """Its last line, empty where it came to none."""
    words: str = ""
    """The last that it said."""

    @property
    def name(self) -> str:
        return f"driver {self.part} ({self.submission})"

    @property
    def code(self) -> int:
        """Its exit code, as this project's commands have them."""
        if self.line and self.exit_code in (DONE, SOME_FAILED):
            return self.exit_code
        return WRONG_USAGE if self.exit_code == WRONG_USAGE else COULD_NOT_RUN


def connect(count: int) -> "JobSubmissionClient":
    """Join the cluster, as one that submits to it.

    Raises UsageError where there is none, RunError where it takes no submissions.
    """
    if not os.environ.get("RAY_ADDRESS"):
        raise UsageError(
            f"--drivers {count}: there is no cluster to submit to; start this command by `ray job submit`, "
            "or set RAY_ADDRESS; on one machine leave --drivers out, for one driver is enough there"
        )
    from ray.job_submission import JobSubmissionClient

    start_ray()  # with it, `ray job stop` of this command is an exception here
    try:
        return JobSubmissionClient()
    except Exception as error:  # of many classes: no dashboard, no answer, another version
        mend = "its head node needs Ray's dashboard (ray start --head --include-dashboard true)"
        raise RunError(f"--drivers: the cluster takes no submissions: {error}; {mend}") from error


def run(
    client: "JobSubmissionClient", job: str, each: Any, count: int, output: Store, max_failed: str
) -> Outcome:
    """Submit `count` commands, with the settings `each` and a part of the cases; wait for all, join what they
    report.

    Raises RunError where the cluster does not answer, or after Ctrl-C, which stops them.
    """
    drivers: list[Driver] = []
    try:
        for n in range(1, count + 1):
            command = shlex.join(["python", "-m", f"jobs.{job}", *flags_of(each), "--part", f"{n}/{count}"])
            submission = client.submit_job(entrypoint=command, runtime_env=environment())
            drivers.append(Driver(f"{n}/{count}", submission))
            say(f"{drivers[-1].name}: ray job logs -f {submission} shows what it does")
        follow(client, drivers, job)
    except (KeyboardInterrupt, SystemExit):
        raise RunError("stopped, and so are its drivers; the same command goes on") from None
    except (RuntimeError, OSError) as error:
        raise RunError(f"--drivers: the cluster takes no submission: {error}") from error
    finally:
        stop(client, drivers)
    return join(drivers, [report_of(driver, output) for driver in drivers], output, max_failed)


def flags_of(settings: Any) -> list[str]:
    """Settings as words of a command line: the fields that are not as by default."""
    words = []
    for one in dataclasses.fields(settings):
        value = getattr(settings, one.name)
        if value == one.default or value is None:
            continue
        flag = one.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            words += [f"--{flag}", *map(str, value)]
        else:
            words.append(f"--{flag}={value}")
    return words


def environment() -> dict[str, Any]:
    """The runtime environment of this command: that of its own submission, or its code."""
    import ray

    return dict(ray.get_runtime_context().runtime_env)


def by_full_path(names: Iterable[str]) -> tuple[str, ...]:
    """The same names, files of this folder so that they are found from another."""
    return tuple(os.path.abspath(name) if os.path.isfile(name) else name for name in names)


def follow(client: "JobSubmissionClient", drivers: Sequence[Driver], job: str) -> None:
    """Wait until all have ended; each is told when it does. Raises RunError where the cluster is silent."""
    heard = time.monotonic()
    while left := [driver for driver in drivers if not driver.ended]:
        try:
            for driver in left:
                info = client.get_job_info(driver.submission)
                if info.status.is_terminal():
                    settle(driver, info, client.get_job_logs(driver.submission), job)
            heard = time.monotonic()
        except (RuntimeError, OSError) as error:  # a head that is busy, for a while
            if time.monotonic() - heard > SILENT_S:
                raise RunError(f"--drivers: the cluster does not answer: {error}") from error
        time.sleep(POLL_S)


def settle(driver: Driver, info: "JobDetails", logs: str, job: str) -> None:
    """What a submission that has ended came to."""
    lines = [line for line in logs.splitlines() if line.strip()]
    last = [line for line in lines if line.startswith(f'{{"job": "{job}"')]
    with contextlib.suppress(ValueError):
        driver.line = json.loads(last[-1]) if last else {}
    driver.exit_code = info.driver_exit_code
    if driver.exit_code is None and info.status == "SUCCEEDED":
        driver.exit_code = DONE
    driver.words = "" if driver.line else lines[-1] if lines else info.message or "no word"
    driver.ended = True
    done = f"{driver.line.get('written', 0)} written" if driver.code in (DONE, SOME_FAILED) else "ended early"
    say(f"{driver.name}: {done}, {driver.line.get('failed', 0)} failed")


def stop(client: "JobSubmissionClient", drivers: Iterable[Driver]) -> None:
    """Those that have not ended; nothing where all have."""
    for driver in drivers:
        if not driver.ended:
            with contextlib.suppress(RuntimeError, OSError):
                client.stop_job(driver.submission)


def report_of(driver: Driver, output: Store) -> dict[str, Any]:
    """The run report of a driver, empty where it came to none."""
    try:
        return parse(output.read(driver.line["report"])) if driver.line else {}
    except (KeyError, OSError, ValueError) as error:
        say(f"{driver.name}: its run report cannot be read ({error})")
        return {}


def join(drivers: Sequence[Driver], reports: Sequence[dict], output: Store, max_failed: str) -> Outcome:
    """One outcome of all: counts added up, each failed case once, and by name the drivers that died."""
    lines = [driver.line for driver in drivers if driver.line]
    told = [json.dumps(one) for report in reports for one in report.get("failed_cases", ())]
    failed = [Failure.from_json(one) for one in dict.fromkeys(told)]  # one that all drivers find is one
    first = lines[0] if lines else {}
    counted = [name for name in first if name not in ("failed", "seconds") and type(first[name]) is int]
    counts = {name: (max if name in SAME else sum)(line.get(name, 0) for line in lines) for name in counted}
    if "cases" in counts:
        counts["cases"] -= len(told) - len(failed)
    died = [driver for driver in drivers if driver.code not in (DONE, SOME_FAILED)]
    for driver in died:
        say(f"{driver.name} did not come to its end (exit code {driver.exit_code}): {driver.words}")
    if died:
        say(f"the other {len(drivers) - len(died)} did; the same command again does what is left")
    details = merged(reports)
    kept = ("part", "submission", "exit_code", "words")
    details["drivers"] = [
        {**{name: getattr(d, name) for name in kept}, "report": d.line.get("report", "")} for d in drivers
    ]
    codes = {driver.code for driver in died}
    worst = next((code for code in (COULD_NOT_RUN, WRONG_USAGE) if code in codes), DONE)
    counts |= {"drivers": len(drivers), "died": len(died)}
    return Outcome(output, counts, failed, details, max_failed, worst=worst)


def merged(reports: Iterable[dict]) -> dict[str, Any]:
    """What the reports hold beside counts: lists without what is there twice, mappings as one."""
    found: dict[str, Any] = {}
    for report in reports:
        for name, value in report.items():
            if name == "failed_cases":
                continue
            if isinstance(value, list):
                there = found.setdefault(name, [])
                there += [one for one in value if one not in there]
            elif isinstance(value, dict):
                found.setdefault(name, {}).update(value)
    return found
