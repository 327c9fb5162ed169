"""What the jobs that do only what is new share: flags that cut the work, notes of failures, the dry run.

Not a command. A case is done once; one that fails is noted in the output's `_failed/` and tried again in some
later runs, then left aside until its inputs or options change, and listed as failed all the while.
"""

import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated

import tyro

from bts.cases.case import Case
from bts.cases.layouts import Listing
from bts.cases.read import foreseen
from bts.cases.worklist import Todo, Work, changes, part_of
from bts.errors import STORE, UNREADABLE, Failure, UsageError
from bts.plain_json import parse
from bts.results.layout import marker_key
from bts.storage import Store
from jobs.driver.cluster import check_seen
from jobs.driver.here import UseRay
from jobs.driver.outcome import Outcome, check_max_failed
from jobs.driver.progress import plain, say

READERS = 16  # threads that read notes or older results
SHOWN = 20  # flagged cases that are named on the terminal


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Flags of a job that does what is new."""

    dry_run: bool = False
    """Say what would be done and why; write nothing."""
    retry_failed: int = 3
    """How many later runs try a failed case again. Then it is left aside until its files or the options
    change; it still counts as failed."""
    limit: int | None = None
    """Do at most this many cases; the next run goes on."""
    since: str | None = None
    """Do only cases with a file written since then, and those that failed before: 2026-11-20,
    2026-11-20T22:00 (this machine's time), or an age, 36h or 7d."""
    part: Annotated[str, tyro.conf.arg(aliases=("--shard",))] = "1/1"
    """I/N: do only the I-th of N equal parts of the cases, by name, for N runs side by side."""
    max_failed: str = "0"
    """Exit with 0 in spite of this many failed cases, or this share of all (5%)."""
    ray: UseRay = "auto"
    """auto: without a cluster and with few cases (eight; eighty to preprocess) this process does them itself,
    without Ray. no: never start Ray. yes: always. The results are the same."""

    def check(self) -> None:
        """Raise UsageError for values that make no sense."""
        check_max_failed(self.max_failed)
        if self.retry_failed < 0:
            raise UsageError(f"--retry-failed {self.retry_failed}: give 0 or more runs")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: give at least one case")
        self.which_part()
        self.earliest()

    def which_part(self) -> tuple[int, int]:
        """(I, N) of `part`."""
        numbers = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.part)
        part, parts = map(int, numbers.groups()) if numbers else (0, 0)
        if not 1 <= part <= parts:
            raise UsageError(f"--part {self.part}: give I/N with I from 1 to N, for example 2/8")
        return part, parts

    def earliest(self) -> float:
        """`since` in seconds since 1970, 0 where it is not given."""
        if self.since is None:
            return 0.0
        if ago := re.fullmatch(r"(\d{1,5})([hd])", self.since):
            return time.time() - int(ago[1]) * {"h": 3600, "d": 86400}[ago[2]]
        try:
            return datetime.fromisoformat(self.since).timestamp()
        except (ValueError, OverflowError):
            raise UsageError(f"--since {self.since}: give a date, 2026-11-20T22:00, or 36h, 7d") from None


def keep_part(listing: Listing, flags: Flags) -> None:
    """Take the cases of the other parts out of the listing."""
    part, parts = flags.which_part()
    if parts > 1:
        listing.cases = [case for case in listing.cases if part_of(case.id, parts) == part]
        listing.problems = [one for one in listing.problems if part_of(one.case, parts) == part]


def cut(work: Work, flags: Flags) -> dict[str, str]:
    """Leave to other runs what is beyond `limit`, and cases without a new file unless they failed before.

    Returns the last note of each case that failed before and is left: it is a failure of this run too.
    """
    found, earliest = len(work.todo), flags.earliest()
    if earliest:
        work.todo = [one for one in work.todo if one.tries or is_new(one.case, earliest)]
        say(f"--since {flags.since}: {len(work.todo)} of {found} cases to do have a new file")
    left = work.todo[flags.limit :] if flags.limit else []
    work.todo = work.todo[: flags.limit]
    return {one.case.id: one.last_note for one in left if one.tries}


def is_new(case: Case, earliest: float) -> bool:
    """Whether a file of the case was written then or later. Raises UsageError if the store does not tell."""
    written = [entry.modified for entry in case.files.values()]
    if not all(written):
        raise UsageError(f"--since: the store does not tell when the files of case {case.id} were written")
    return max(written) >= earliest


def failed_before(work: Work, flags: Flags, output: Store) -> list[Failure]:
    """Cut the work as `cut` does; the last failure of each case that is not tried, as the run report lists
    it."""
    notes = work.aside | cut(work, flags)

    def read(case_id: str, key: str) -> Failure:
        try:
            found = Failure.from_json(output.read(key))
        except (OSError, ValueError):
            problem = "its failure record cannot be read"
            message = f"case {case_id}: {problem}; delete {key} to try the case again"
            found = Failure(case_id=case_id, file=key, error=problem, message=message)
        if case_id in work.aside:
            again = f"; left aside (to try it again: --retry-failed {key.split('.')[-2]})"
            found = replace(found, mend=found.mend + again, message=found.message + again)
        return replace(found, case_id=case_id, left_aside=key)

    with ThreadPoolExecutor(READERS) as threads:
        return list(threads.map(read, notes.keys(), notes.values()))


@dataclass(slots=True)
class Settled:
    """What became of the cases that were to do."""

    written: int = 0
    failed: list[Failure] = field(default_factory=list)
    flagged: dict[str, list[str]] = field(default_factory=dict)
    """Case → flags, of those that have any."""


def settle(results: Iterable[dict], work: Work, output: Store) -> Settled:
    """Sort a stream of results (case_id, failure, flags: JSON or empty); note failures for the next runs.

    Failures of a kind in a row are held until they are known to be the cases' own: a run that they end adds
    no try to any of them. Raises RunError where results are not in the output.
    """
    todo = {one.case.id: one for one in work.todo}
    settled = Settled()
    held: list[tuple[Todo, Failure]] = []
    for result in results:
        one = todo[result["case_id"]]
        failure = Failure.from_json(result["failure"]) if result["failure"] else None
        if held and (failure is None or failure.kind != held[-1][1].kind):
            note(held, output)
            held = []
        if failure:
            settled.failed.append(failure)
            if failure.kind:
                held.append((one, failure))
            else:
                note([(one, failure)], output)
            continue
        shard = f"{one.case.id}.{one.fingerprint}.parquet"
        check_seen(output, one.case.id, marker_key(one.case.id, one.fingerprint), shard)
        settled.written += 1
        if flags := json.loads(result.get("flags") or "[]"):
            settled.flagged[one.case.id] = flags
        for key in one.notes:
            output.delete(key)
    if not 1 < len(held) == len(work.todo) or held[-1][1].kind != UNREADABLE:  # a store that refuses all
        note(held, output)
    return settled


def note(failures: Iterable[tuple[Todo, Failure]], output: Store) -> None:
    """One more try of each, for the next runs; none where the store did not give what it lists."""
    for one, failure in failures:
        if failure.kind == STORE:
            continue
        output.put(one.note, failure.to_json().encode(errors="backslashreplace"))
        for key in one.notes:
            output.delete(key)


def say_flagged(flagged: Mapping[str, list[str]]) -> None:
    """Name the first cases that a person should look at."""
    for case_id in list(flagged)[:SHOWN]:
        say(f"flagged: case {case_id}: {'; '.join(flagged[case_id])}")
    if len(flagged) > SHOWN:
        say(f"… and {len(flagged) - SHOWN} more, all in the run report")


def explain(
    work: Work, now: Callable[[Todo], Mapping], before: Callable[[str], Mapping]
) -> Iterator[tuple[str, str]]:
    """(case, why it would be done or is left aside). `now` and `before` tell what makes a result, the older
    one by its key: as bts.cases.worklist.changes takes them.
    """

    def why(one: Todo) -> str:
        if one.tries:
            return f"failed before (tries: {one.tries})"
        if not one.older:
            return "new"
        if f".{one.fingerprint}." in "".join(one.older):
            return "two runs overlapped"
        try:
            return changes(now(one), before(one.older[0]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"older result {one.older[0]} cannot be read"

    with ThreadPoolExecutor(READERS) as threads:
        for one, reason in zip(work.todo, threads.map(why, work.todo), strict=True):
            yield one.case.id, reason
    for case_id, key in work.aside.items():
        yield case_id, f"left aside: {key}"


def made_of_record(output: Store, key: str) -> dict:
    """What made an older result, for `explain`, by the JSON of its record. Raises OSError, ValueError or
    KeyError."""
    record = parse(output.read(key))
    return {"inputs": record["inputs"], **record["options"], "format": record["versions"]["format"]}


def foresee(work: Work, allow_missing: Collection[str], *, truth: bool) -> list[Failure]:
    """Failures of the cases to do that the listing foretells."""
    errors = (foreseen(one.case, allow_missing, truth=truth) for one in work.todo)
    return [Failure.of(error) for error in errors if error]


def rehearse(reasons: Iterable[tuple[str, str]], counts: dict, failed: list[Failure]) -> Outcome:
    """Print what would be done, a line a case: its name, a tab, why; or that it will fail."""
    foretold = {failure.case_id for failure in failed if not failure.left_aside}
    for case_id, reason in reasons:
        reason = f"{reason}, but will fail" if case_id in foretold else reason
        print(plain(f"{case_id}\t{reason}"))
    return Outcome(None, counts, failed, dry_run=True)
