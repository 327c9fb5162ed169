"""The stream of a command's cases through its stages: on Ray, or a few in this process.

Of many cases several share a task, for each task costs the driver milliseconds. A task whose worker dies is
tried twice more, then Ray Data drops its cases without a word. Those that no row came back for get a task
each; those that are lost again are done one at a time, each stage a task of its own: a case that dies there
as well has failed at that stage; one that only shared a worker with it is done. In this process a case that
kills it kills the command; what was done before stays done.
"""

import contextlib
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bts.errors import LOST, STORE, UNREADABLE, CaseError, Failure, RunError, first_line
from bts.storage import Store
from jobs.driver.cluster import cores, start_ray
from jobs.driver.here import UseRay, fits_here, noted, run_here
from jobs.driver.progress import Meter, counted, say
from jobs.driver.sizes import within_a_node
from jobs.workers.carry import Carry, pack, unpack
from jobs.workers.guard import Guard, call
from jobs.workers.tries import tried

if TYPE_CHECKING:
    import ray.data

LEAST_LOST, SHARE_LOST = 20, 0.05  # cases that may be lost with their workers, before the run ends
MOST_A_BLOCK = 16  # cases that share a task
BLOCKS_A_CORE = 16  # at least, so that no core waits long for the last
CORES = 64  # at least: what an autoscaler may bring
LACKING = re.compile("No module named '[^']*'")
ALIKE = 3  # failures of one kind in a row that no data explain: the run ends
ALIKE_READING = 5  # the same, of what the store does not give


@dataclass(frozen=True)
class Stage:
    """A step of every case, and what Ray is asked for it."""

    name: str
    task: Callable[[dict], dict] | type
    """A function of a row; or a class that makes one, in actors, of `args`."""
    args: tuple = ()
    size: int | None = None
    """Tasks or actors at a time; None: tasks, as many as there is room for."""
    resources: dict[str, float] = field(default_factory=dict)
    at_once: int = 1
    """Rows that each actor, or this process without Ray, does at the same time, in threads."""

    @property
    def guard(self) -> Guard:
        return Guard(self.name, self.task, self.args)

    def over(self, blocks: "ray.data.Dataset") -> "ray.data.Dataset":
        """All rows through this stage."""
        from ray.data import ActorPoolStrategy, TaskPoolStrategy

        # Under the task's own name, by which Ray's dashboard and metrics tell the stages apart.
        kind = type(getattr(self.task, "__name__", type(self.task).__name__), (Carry,), {})
        made_of = (self.name, self.task, self.args)
        size = 1 if self.resources.get("num_gpus") else None  # Ray wants to be told beside a GPU
        how = {"batch_size": size, "batch_format": "pyarrow", **self.resources}
        if isinstance(self.task, type):
            actors = ActorPoolStrategy(
                size=self.size,
                max_concurrent_calls_per_actor=self.at_once,
                enable_true_multi_threading=self.at_once > 1,
            )
            return tried(blocks.map_batches, kind, fn_constructor_args=made_of, compute=actors, **how)
        pool = {"compute": TaskPoolStrategy(size=self.size)} if self.size else {}
        return tried(blocks.map_batches, kind(*made_of).__call__, **pool, **how)


def stream(
    name: str, rows: list[dict], stages: list[Stage], ray: UseRay = "yes", output: Store | None = None
) -> Iterator[dict]:
    """Each row (`case_id`, and what the first stage takes) through all stages, with progress lines; a row of
    the last stage each, in the order in which they are done. Those with a `failure` are failed cases.
    output: where a case that kills this process leaves a word of it; needed unless `ray` is yes.

    Raises RunError, for instance where cases fail one after another of what is no fault of theirs.
    """
    here = fits_here(ray, len(rows), output)
    if not here:
        start_ray()
        if not cores():
            say(f"{name}: the cluster has no node with CPUs yet; waiting for one")
        stages = [replace(stage, resources=within_a_node(stage.resources)) for stage in stages]
    progress, alike = Meter(name, len(rows)), Alike()
    left = {row["case_id"]: row for row in rows}
    bound = max(LEAST_LOST, int(SHARE_LOST * len(rows)))
    for size in (1,) if here else sorted({cases_a_block(len(rows), cores()), 1}, reverse=True):
        if not left:
            break
        todo = list(left.values())
        if here:
            assert output is not None, "needed unless `ray` is yes"
            tasks, at_once = [stage.guard for stage in stages], [stage.at_once for stage in stages]
            together = noted(run_here(todo, tasks, at_once), output)
        else:
            together = _together(todo, stages, size, bound)
        with contextlib.closing(together):
            for row in together:
                yield _counted(row, progress)
                left.pop(row["case_id"])
                alike.add(row["failure"])
    if left:
        say(f"{name}: {counted(len(left), 'case')} lost with their workers, done one at a time now")
    for row in left.values():
        yield _counted(alone(row, stages), progress)


def cases_a_block(cases: int, cores: int) -> int:
    """How many cases share a task: one where they are few, so that all cores have work to the end."""
    return min(max(1, cases // (BLOCKS_A_CORE * max(CORES, cores))), MOST_A_BLOCK)


def _counted(row: dict, progress: Meter) -> dict:
    """Raises RunError where a stage said that the run must stop."""
    if row["stop"]:
        raise RunError(row["stop"])
    progress.step(failed=bool(row["failure"]))
    return row


def _together(rows: list[dict], stages: list[Stage], size: int, bound: int) -> Generator[dict]:
    """size: cases a task. bound: cases that may be lost with their workers."""
    import ray.data
    from ray.exceptions import RayError

    blocks = ray.data.from_blocks([pack(rows[start : start + size]) for start in range(0, len(rows), size)])
    blocks.context.max_errored_blocks = bound // size
    for stage in stages:
        blocks = stage.over(blocks)
    try:
        for block in blocks.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from unpack(block)
    except RayError as error:
        check_packages(error)
        problem = f"more than {bound} cases were lost with their workers"
        problem += f", the last one by: {first_line(error)}"
        raise RunError(f"{problem}; likely there is too little memory: use a larger machine") from error


def alone(row: dict, stages: list[Stage]) -> dict:
    """The row of the last stage, made while nothing else of this run is at work."""
    import ray
    from ray.exceptions import RayError

    case_id = row["case_id"]
    for stage in stages:
        task = ray.remote(call).options(max_retries=1, retry_exceptions=False, **stage.resources)
        try:
            row = ray.get(task.remote(stage.guard, row))
        except RayError as error:
            check_packages(error)
            return {"case_id": case_id, "failure": lost(case_id, stage.name).to_json(), "stop": ""}
    return row


def check_packages(error: Exception) -> None:
    """Raise RunError where a node lacks a package: no case is to blame for that, nor memory."""
    if found := LACKING.search(str(error)):
        mend = "every node needs the packages of requirements.txt"
        raise RunError(f"a node of the cluster lacks a package: {found[0]}; {mend}") from error


def lost(case_id: str, stage: str) -> Failure:
    """Of a case whose worker dies whenever it does it."""
    problem = f"its worker was killed or crashed each time at {stage}, likely for want of memory"
    mend = "give it a machine with more memory, or look at the size of its files; then run again"
    return Failure.of(CaseError(problem, mend=mend, case=case_id, stage=stage, kind=LOST))


class Alike:
    """Watches for failures of one kind in a row that no data explain: then nothing will go better."""

    def __init__(self):
        self.kind, self.count = "", 0

    def add(self, failure: str) -> None:
        """The next case's: JSON of a Failure, or empty. Raises RunError."""
        found = Failure.from_json(failure) if failure else None
        kind = found.kind if found else ""
        self.count = self.count + 1 if kind == self.kind else 1
        self.kind = kind
        if found and kind and self.count >= (ALIKE_READING if kind in (STORE, UNREADABLE) else ALIKE):
            raise RunError(f"{self.count} cases in a row failed alike, the last one: {found.message}")
