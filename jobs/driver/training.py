"""A training by Ray Train: its workers, what they ask of the cluster and what they report. Not a command."""

import os
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from ray.train import LoggingConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bts.errors import RunError, UsageError
from bts.storage import Store
from jobs.driver import cluster
from jobs.driver.plans import Asked
from jobs.driver.progress import hand_over, say
from jobs.workers.rank import Job, OnReport
from jobs.workers.train import work

if TYPE_CHECKING:  # Ray annotates the names below with its first version's types; what runs is its second
    from ray.train.v2.api.config import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.torch.torch_trainer import TorchTrainer
else:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

MAX_FAILURES = 3  # restarts from the last epoch after a worker died; reclaimed nodes are not counted


def open_queue() -> Queue:
    """From workers to the driver, on the driver's node: it outlives all others."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def start_ray() -> None:
    """Ray, set up for short epochs and slow nodes."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # an epoch lasts at least that long
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1800")  # nodes take minutes to start
    if not os.environ.get("RAY_ADDRESS"):
        # Ray's workers give way to all else (15); a training beside anything would hardly move.
        os.environ.setdefault("RAY_worker_niceness", "0")
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody reclaims this machine
    cluster.start_ray()


class Trainer(TorchTrainer):
    """Without Ray's cleaner of placement groups where Ray is this job's own, and ends with it: the cleaner
    asks a dashboard that is not there, and a training would wait 12 s for it at its end (Ray 2.60)."""

    def _create_default_callbacks(self) -> list:
        callbacks = super()._create_default_callbacks()
        if os.environ.get("RAY_ADDRESS"):
            return callbacks
        return [one for one in callbacks if type(one).__name__ != "PlacementGroupCleanerCallback"]


def fit(job: Job, settings: Asked, checkpoints: Store, on_report: OnReport) -> dict:
    """Train with Ray → what rank 0 returns. Raises RunError when the last restart failed too."""
    folder, _, name = checkpoints.path("").rstrip("/").rpartition("/")
    reports = open_queue()
    trainer = Trainer(
        work,
        train_loop_config={"job": job, "reports": reports, "checkpoints": checkpoints},
        scaling_config=scaling(settings),
        run_config=RunConfig(
            name=name,
            storage_path=folder,
            storage_filesystem=checkpoints.arrow_fs(),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        with Listener(reports, on_report):
            result: Any = trainer.fit()
            return result.return_value
    except TrainingFailedError as error:
        raise _cause(error) from error
    except SystemExit:  # of Ray's own handlers, after Ctrl-C or `ray job stop`
        raise RunError("stopped; the same command goes on at the last epoch") from None


def scaling(settings: Asked) -> ScalingConfig:
    """What each worker asks of the cluster. Raises UsageError for GPUs that this machine does not have."""
    workers, alone = settings.most_workers, not os.environ.get("RAY_ADDRESS")
    gpu = wants_gpu(settings.gpu, settings.least_workers)
    kind, least = "GPU" if gpu else "CPU", settings.least_workers
    if (have := int(ray.cluster_resources().get(kind, 0))) < least and not alone:
        say(f"the cluster has {have} {kind}s for {least} workers yet; the training waits for more")
    small = alone and ray.cluster_resources()["CPU"] < workers  # then they share the CPUs
    return ScalingConfig(
        num_workers=settings.workers,
        use_gpu=gpu,
        resources_per_worker={"CPU": 0.01 if small else 1, **({"GPU": 1} if gpu else {})},
        placement_strategy="PACK" if gpu else "SPREAD",
    )


def wants_gpu(gpu: str, workers: int) -> bool:
    """Whether so many workers get a GPU each. Raises UsageError for GPUs that this machine does not have."""
    have = int(ray.cluster_resources().get("GPU", 0))
    if gpu == "yes" and have < workers and not os.environ.get("RAY_ADDRESS"):
        raise UsageError(f"--gpu yes: this machine has {have} GPUs for {workers} workers")
    if gpu == "auto" and 0 < have < workers:
        instead = f"--workers {have} takes them, --gpu yes waits for more"
        say(f"--gpu auto: {have} GPUs are fewer than {workers} workers, so all train on the CPU; {instead}")
    return gpu == "yes" or (gpu == "auto" and have >= workers)


class Listener(threading.Thread):
    """Hands what workers report to `on_report`, in the driver: one process alone talks to MLflow."""

    def __init__(self, reports: Queue, on_report: Callable[..., None]):
        super().__init__(daemon=True)
        self.reports, self.on_report, self.over = reports, on_report, threading.Event()

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        while True:
            try:
                report = self.reports.get(timeout=1)
            except queue.Empty:
                if self.over.is_set():
                    return
                continue
            hand_over(self.on_report, *report)


def _cause(error: TrainingFailedError) -> Exception:
    """The project's own error that a worker died of, or the failure in one line and where to read on."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    causes = [getattr(failure, "_base_exc", failure) for failure in failures]
    for cause in causes:
        if isinstance(cause, (UsageError, RunError)):
            return cause
    return RunError(f"training failed {MAX_FAILURES + 1} times, the last time with:\n{error}")
