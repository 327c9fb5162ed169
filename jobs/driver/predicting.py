"""Where the networks of jobs.segment run: in this process, or in actors of Ray, with reading and writing
beside them. Not a command."""

import os
from collections.abc import Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from bts.errors import UsageError
from bts.inference.options import Engine, check_engine
from bts.storage import Store
from jobs.driver import machine
from jobs.driver.cluster import node_cpus, start_ray
from jobs.driver.here import UseRay, fits_here
from jobs.driver.models import Models
from jobs.driver.pipeline import Stage, stream
from jobs.driver.progress import say
from jobs.driver.sizes import by_size
from jobs.workers.read import Read
from jobs.workers.write import Write

if TYPE_CHECKING:
    from bts.inference.predictor import Around  # with torch
    from bts.model.load import Loaded

ACTOR_THREADS = 4  # of one CPU actor: convolutions on a slice batch gain little from more
MEMORY_A_CASE = 8 << 30  # an adopted network takes up to four gibibytes for one, and is not alone
GPU_CASES = 2  # at a time in a GPU's actor: one comes and goes while the network is at the other
IO_CPUS = 0.25  # of a read or write task, which mostly waits for the store
IO_TASKS = 16  # that read, and as many that write, for a predicting actor that is still to come


class Asked(Protocol):
    """Of jobs.segment's settings, those that say where."""

    @property
    def ray(self) -> UseRay: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def gpu(self) -> Literal["auto", "yes", "no"]: ...
    @property
    def gpu_share(self) -> float: ...
    @property
    def predictors(self) -> int | None: ...


def run(rows: list[dict], source: Store, write: Write, models: Models, settings: Asked) -> Iterator[dict]:
    """Stream the cases through the three stages."""
    if not rows:
        say("nothing to do: no case is left to segment")
        return
    read = Read(source, (*write.options.allow_missing, *models.unused))
    ray: UseRay = "yes" if settings.ray == "auto" and settings.predictors else settings.ray
    if fits_here(ray, len(rows), write.output):
        yield from predict_here(rows, read, write, models, settings)
    else:
        yield from predict_by_actors(rows, read, write, models, settings)


def predict_here(
    rows: list[dict], read: Read, write: Write, models: Models, settings: Asked
) -> Iterator[dict]:
    """In this process, with the threads that an actor would have."""
    from bts.model.device import pick_device
    from jobs.workers.predict import Predict

    gpus = wanted_gpus(may_use(settings), int(pick_device(None).type == "cuda"), alone=True)
    cores = machine.cores()
    _, threads, _ = pool([cores], gpus)
    room = 1 if settings.engine == "openvino" else cores // threads  # its network is at one case at a time
    together = GPU_CASES if gpus else side_by_side(room, machine.memory())
    how = (lambda: models.loaded, None if gpus else "cpu", threads, write.options)
    for some, memory in by_size(rows):
        predict = Stage("predict", Predict, how, at_once=1 if memory else together)
        stages = [Stage("read", read), predict, Stage("write", write)]
        yield from stream("segment", some, stages, "no", write.output)


def side_by_side(room: int, memory: int) -> int:
    """Cases that this process predicts at a time: two at least, for one leaves even two cores idle now and
    then, unless memory is short.

    room: for how many there are threads; a case alone has no more of them, for on their number depends the
    last digit of some sums. memory: bytes that there are.
    """
    return max(1, min(max(2, room), memory // MEMORY_A_CASE))


def predict_by_actors(
    rows: list[dict], read: Read, write: Write, models: Models, settings: Asked
) -> Iterator[dict]:
    """By Ray: predicting actors, tasks that read before them and tasks that write after."""
    import ray

    from jobs.workers.around import After, Before
    from jobs.workers.predict import Predict, load_all

    start_ray()
    alone = not os.environ.get("RAY_ADDRESS")
    cpus = node_cpus()
    gpus = wanted_gpus(may_use(settings), int(ray.cluster_resources().get("GPU", 0)), alone)
    asked = settings.predictors or 0
    tasks = min(max(2, sum(cpus) // 2, IO_TASKS * asked), len(rows))
    io = {"num_cpus": IO_CPUS}
    fitting, threads, resources = pool(cpus, gpus, settings.gpu_share)
    actors = min(asked or fitting, len(rows))
    # Told, for an actor that asked for no GPU sees those of its machine all the same.
    device = None if gpus else "cpu"
    how = (partial(load_all, partial(ray.get, ray.put(models.files))), device, threads, write.options)
    around = around_of(models.loaded, write.options.allow_missing) if gpus else None
    for some, memory in by_size(rows):  # actors that asked for it would leave none for reading
        at_once = GPU_CASES if gpus and not memory else 1
        stages = [
            Stage("read", read, size=tasks, resources={**io, **memory}),
            Stage("predict", Predict, how, actors, resources, at_once),
            Stage("write", write, size=tasks, resources=io),
        ]
        if around:  # a core each, which bounds their memory too
            one = {"num_cpus": 1, **memory}
            after = After(around, write.finish, write.options.probabilities)
            stages.insert(1, Stage("before", Before(around), resources=one))
            stages.insert(3, Stage("after", after, resources=one))
        yield from stream("segment", some, stages, "yes")


def around_of(models: list["Loaded"], allow_missing: Collection[str]) -> "Around | None":
    """What of predicting is done beside the GPU; None where nothing is, as with every ensemble."""
    from bts.inference.segmenter import Segmenter

    return Segmenter(models, "cpu", allow_missing=allow_missing).around


def may_use(settings: Asked) -> Literal["auto", "yes", "no"]:
    """Which GPUs: none for OpenVINO. Raises UsageError where both are asked for."""
    check_engine(settings.engine, settings.gpu == "yes")
    return settings.gpu if settings.engine == "torch" else "no"


def share(settings: Asked, drivers: int) -> int:
    """Predicting actors for each of so many drivers of one cluster, which would each take all of them."""
    import ray

    start_ray()
    gpus = wanted_gpus(may_use(settings), int(ray.cluster_resources().get("GPU", 0)), alone=False)
    return max(1, (settings.predictors or pool(node_cpus(), gpus, settings.gpu_share)[0]) // drivers)


def wanted_gpus(gpu: str, there: int, alone: bool) -> int:
    """GPUs to predict with. Raises UsageError for those that this machine does not have."""
    if gpu == "yes" and not there:
        if alone:
            raise UsageError("--gpu yes: this machine has no GPU that can be used")
        say("--gpu yes: the cluster has no GPU yet; predicting waits for one")
    return {"auto": there, "yes": max(1, there), "no": 0}[gpu]


def pool(cpus: list[int], gpus: int, share: float = 1.0) -> tuple[int, int, dict[str, float]]:
    """(actors that fit, threads of each, resources of each) of the predicting stage; cpus: of each node.

    An actor runs within one node: one that asks for more than any node has would be waited for without end.
    """
    if gpus:
        return gpus * int(1 / share), 1, {"num_gpus": share}
    threads = max(1, min(ACTOR_THREADS, max(cpus, default=1)))
    # One CPU less than threads is reserved, so that reading and writing always find a place.
    return max(1, sum(c // threads for c in cpus)), threads, {"num_cpus": max(threads - 1, 0.5)}
