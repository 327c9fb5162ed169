"""What every job does around its pipeline: flags, Ray, progress, run report, exit code, last line."""

import json
import logging
import os
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
import ray.data
import tyro
from ray.util.metrics import Gauge
from tqdm import tqdm

from bts.cases.layouts import Listing
from bts.cases.said import list_folder
from bts.errors import CaseError, RunError, UsageError
from bts.storage import Store

ALIKE = 3  # failures of one cause that are named one by one
DONE, COULD_NOT_RUN, WRONG_USAGE, SOME_FAILED = 0, 1, 2, 3
EVERY_S = 5  # between two lines of progress in a log


@dataclass
class Outcome:
    """What a job did: the counts of its last line, and the failed cases of its run report."""

    output: Store | None
    """Where the run report goes; a job without a folder of its own (promote, view, export, …) has none."""
    counts: dict[str, object]
    failed: list[dict[str, str]] = field(default_factory=list)
    details: dict[str, object] = field(default_factory=dict)
    max_failed: str = "0"
    dry_run: bool = False
    """Nothing was done, nor shall be written: no run report."""

    @property
    def exit_code(self) -> int:
        return DONE if self.dry_run or len(self.failed) <= self.allowed_failures() else SOME_FAILED

    def allowed_failures(self) -> float:
        if self.max_failed.endswith("%"):
            return float(self.max_failed[:-1]) / 100 * float(self.counts.get("cases", 0))
        return float(self.max_failed)


def run_job(name: str, settings_class: type, main: Callable[..., Outcome]) -> None:
    """Parse the flags into `settings_class`, run `main(settings)`, and exit as DESIGN.md's Commands say."""
    settings = parse(name, settings_class, main)
    sys.exit(guarded(name, lambda: main(settings)))


def parse(name: str, settings_class: type, main: Callable) -> Any:
    """The command line as a value of `settings_class`; exits with 2 and the reason if it is none."""
    about = sys.modules[main.__module__].__doc__.split("\n\n")[0]
    return tyro.cli(settings_class, prog=f"python -m jobs.{name}", description=about)


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


def start_ray() -> None:
    """Join the cluster of `ray job submit` (RAY_ADDRESS), or start Ray on this machine alone."""
    ray.data.DataContext.get_current().enable_progress_bars = False  # each job prints its own progress
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Workers' own prints stay in Ray's logs: failed cases come as rows, errors as exceptions.
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    if cluster := os.environ.get("RAY_ADDRESS"):
        ray.init(address=cluster, **quiet)
        return
    # Ray ends workers beyond one a CPU after a second without work, and would start others for the next case.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    # Workers import this checkout wherever the command was started; a submitted job carries its own.
    here = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    python = shlex.quote(sys.executable)
    if python != sys.executable:  # Ray hands the path to a shell as it is; a folder's name may have spaces
        quiet["runtime_env"] = {"py_executable": python}
    ray.init(address="local", include_dashboard=False, **quiet)


def stream(
    name: str, total: int, rows: ray.data.Dataset, last: Callable[[dict], dict], **how
) -> Iterator[dict]:
    """Run the last stage of a pipeline, one row a case, and yield its rows with progress lines.

    Ray loses the class of what a task raises, so a RunError (a full disk, a bucket that refuses) travels here
    as a row; a row with a `failure` counts as a failed case. Raises RunError.
    """
    progress = Meter(name, total)
    for row in rows.map(_or_stop(last), **how).iter_rows():
        if row["stop"]:
            raise RunError(row["stop"])
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
        # What Prometheus reads off the cluster's nodes as ray_bts_cases{job, state}.
        self.gauge = Gauge("bts_cases", "Cases.", ("job", "state")) if ray.is_initialized() else None
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


def taken() -> str:
    """How many of the cluster's CPUs and GPUs are held by tasks and actors, its nodes of now together."""
    if not ray.is_initialized():
        return ""
    there, free = ray.cluster_resources(), ray.available_resources()
    kinds = [kind for kind in ("CPU", "GPU") if there.get(kind)]
    return "".join(f", {there[k] - free.get(k, 0):g} of {there[k]:g} {k}s taken" for k in kinds)


def say(line: str) -> None:
    """One line for the person who watches; standard output is kept for results."""
    # A file name may hold bytes that are no text.
    print(line.encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)


def examples(names: Sequence[str]) -> str:
    """The first three of many names, as a terminal may show them."""
    shown = [name if name.isprintable() else ascii(name) for name in names[:3]]
    return ", ".join(shown) + (", …" if len(names) > 3 else "")


def failure(case: str, error: CaseError, stage: str = "") -> dict[str, str]:
    """A failed case as the run report lists it."""
    return {
        "case_id": case or error.case,
        "stage": stage or error.stage,
        "file": error.file,
        "error": error.problem,
        "mend": error.mend,
        "message": str(error),
    }


def list_cases(source: Store, labels: str, roles: Sequence[str] = (), patients: str = "") -> Listing:
    """The cases below a prefix, said in numbers; what is not a case is said too, not ignored.

    labels, roles, patients: the flags of that name.

    Raises UsageError if there is none, RunError if the store cannot be listed.
    """
    listing = list_folder(source, labels, roles, patients)
    found = len(listing.cases) + len(listing.problems)
    slices = f", {len(listing.slices)} figshare slices" if listing.slices else ""
    say(f"{source.uri}: {found} cases{slices}")
    if listing.strays:
        say(f"{source.uri}: {len(listing.strays)} files belong to no case: {examples(listing.strays)}")
    for case_id, key in list(listing.truth_like.items())[:3]:
        say(f"case {case_id} has no truth; looks like one: {key} (if so, say --roles seg=PATTERN)")
    if len(listing.truth_like) > 3:
        say(f"… and {len(listing.truth_like) - 3} more cases like it")
    if not found and not listing.slices:
        example = "BraTS2021_00000/BraTS2021_00000_flair.nii.gz, or figshare's 1.mat"
        raise UsageError(f"{source.uri}: no case found; expected files such as {example}")
    return listing


def failures_by_cause(failed: Sequence[dict]) -> list[str]:
    """A line a failed case; one for all of those that fail alike, where they are many."""
    alike: dict[tuple[str, str, str], list[dict]] = {}
    for case in failed:
        alike.setdefault((case["stage"], case["error"], case["mend"]), []).append(case)
    lines = []
    for (stage, error, mend), cases in alike.items():
        if len(cases) <= ALIKE:
            lines += [f"failed at {stage}: {case['message']}" for case in cases]
        else:
            named = examples([case["case_id"] for case in cases])
            lines.append(f"failed at {stage}: {len(cases)} cases ({named}): {error}; {mend}")
    return lines


def _close(name: str, outcome: Outcome, seconds: float) -> None:
    """Write the run report, name the failed cases, print the last line."""
    shown = outcome.failed[:20] if outcome.output else outcome.failed  # without a run report, all of them
    for line in failures_by_cause(shown):
        say(line)
    if len(outcome.failed) > len(shown):
        say(f"… and {len(outcome.failed) - 20} more, all in the run report")
    line = {"job": name, **outcome.counts, "failed": len(outcome.failed), "seconds": round(seconds, 2)}
    if outcome.dry_run:
        line["dry_run"] = True
    elif outcome.output:
        line["report"] = f"_runs/{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}.json"
        report = {**line, "exit_code": outcome.exit_code, "failed_cases": outcome.failed, **outcome.details}
        outcome.output.put(line["report"], json.dumps(report, indent=1).encode())
    print(json.dumps(line), flush=True)


def _cause(error: BaseException) -> BaseException:
    """The project's own error at the root of what Ray wrapped around it, or the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (UsageError, RunError)):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__ or seen.__context__
    return error


def _complain(name: str, error: BaseException, code: int) -> int:
    print(f"jobs.{name}: {error}", file=sys.stderr, flush=True)
    return code
