"""Shards → one model file: a preset trained by DDP workers that Ray feeds, checkpointed every epoch.

The same command again goes on at the last epoch after a kill, with the shards that it began with, and does
nothing once the model is there. The model is registered in MLflow too, its curves beside it.

    python -m jobs.train fast --shards data/shards --models data/models --budget.minutes 10
    ray job submit --working-dir . -- python -m jobs.train fast --workers 8 --gpu yes \\
        --shards s3://b/shards --models s3://b/models
"""

import contextlib
import os
import queue
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Literal

import ray
import tyro
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bts.errors import RunError, UsageError
from bts.mlflow_client import without_login
from bts.model.file import digest, read_header
from bts.model.nets import build
from bts.report.curves import draw_classes, draw_curves
from bts.settings import Preset, to_dict
from bts.shards import holds
from bts.shards.catalogue import read_catalogue
from bts.storage import Store
from bts.tracking import Tracker, flatten
from bts.training import pin
from bts.training.log import best_epoch, final_table, progress_line, step_line
from bts.training.plan import Plan, make_plan, unnamed
from jobs.driver import cluster, preset_flags
from jobs.driver.outcome import Outcome
from jobs.driver.progress import examples, say
from jobs.workers.train import Job, read_encoder, work

MAX_FAILURES = 3  # restarts from the last epoch after a worker died; reclaimed nodes are not counted


@dataclass(kw_only=True)
class Settings:
    """Train one preset. Its fields are flags; the defaults shown are this preset's own."""

    shards: str
    """Folder or s3://bucket/prefix with the shards of jobs.preprocess."""
    models: str
    """Folder or s3://bucket/prefix for the model, NAME.safetensors, and the run's checkpoints."""
    workers: int | tuple[int, int] = 1
    """DDP workers, each with one GPU or an equal part of its machine's CPU cores; two numbers: at least
    and at most, as many as there is room for, changing while it runs. A step has as many batches as
    there may be workers, however many there are."""
    gpu: Literal["auto", "yes", "no"] = "auto"
    """auto: GPUs if the cluster has them now; yes: ask for them, also of an autoscaler that has none yet."""
    fold: Literal[0, 1, 2, 3, 4] = 0
    """Which fifth of the patients is held out for validation."""
    fresh: bool = False
    """Start anew with the shards of now. Otherwise the same command goes on with a training that was cut off,
    with the shards that it began with."""
    preset: Annotated[Preset, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]

    @property
    def least_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]


def main(settings: Settings, system: str) -> Outcome:
    """`settings.preset.name` is the model's name by now, `system` the preset's own."""
    name, models = settings.preset.name, Store(settings.models)
    asked = pin.asked_for(replace(settings.preset, name=system), settings.fold, Store(settings.shards))
    plan = read_plan(settings, system, None if settings.fresh else pin.read(models, name, asked))
    if settings.fresh:
        forget(settings, asked, plan.run)
    elif (trained := read_trained(models, name, "run", plan.run)) is not None:
        let_go(settings, asked, plan.run)
        say(f"nothing to do: {name}.safetensors is the model of these shards and settings")
        return Outcome(models, summary(models, name, trained, epochs=0))
    tracker = Tracker()  # first: it fails early where it cannot be reached
    start_ray()
    params = {**flatten(to_dict(plan.preset)), "fold": plan.fold, "workers": settings.workers}
    provenance = plan.provenance()
    tags = {"data": plan.data, "commit": provenance["commit"], "shards": without_login(settings.shards)}
    run_id = tracker.start(name, plan.run, params, tags)
    status = "FAILED"
    try:
        job = Job(
            plan=plan,
            provenance=provenance,
            shards=Store(settings.shards),
            parts=settings.most_workers,
            news=open_queue(),
        )

        def told(epoch: int, minutes: float, figures: dict[str, float]) -> None:
            if "steps" in figures:
                say(step_line(epoch, minutes, figures))
                return
            say(progress_line(settings.preset.budget, epoch, minutes, figures))
            tracker.log(run_id, figures, epoch)

        keep_plan(settings, asked, plan)
        result = fit(name, job, settings, told)
        data = result["model"]
        for file, picture in pictures(plan, result).items():
            tracker.attach(run_id, file, picture)
            models.put(f"_pictures/{name}/{file}", picture)
        tracker.register(run_id, name, data, digest(data), tags, plan.preset.modalities)
        models.put(f"{name}.safetensors", data)  # last: cut off before this, the next run does the rest
        let_go(settings, asked, plan.run)
        status = "FINISHED"
    finally:
        tracker.finish(run_id, status)
    say(final_table(result["validations"]))
    details = {"losses": result["losses"], "validations": result["validations"]}
    return Outcome(models, summary(models, name, data, len(result["losses"])), details=details)


def open_queue() -> Queue:
    """From workers to the driver, on the driver's node: it outlives all others."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def keep_plan(settings: Settings, asked: str, plan: Plan) -> None:
    """Pin the plan beside its checkpoints, and hold its shards, until the model is there."""
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    began = pin.Pin(plan.run, plan.keys, now)
    models, shards = Store(settings.models), Store(settings.shards)
    if pin.read(models, settings.preset.name, asked) is None:
        pin.write(models, settings.preset.name, asked, began)
    try:
        holds.hold(shards, plan.run, plan.keys)
    except RunError as error:  # of shards that may only be read
        say(f"jobs.preprocess may delete shards of this training: {error}")


def let_go(settings: Settings, asked: str, run: str) -> None:
    """The training is over: its shards may go once they are superseded."""
    Store(settings.models).delete(pin.key(settings.preset.name, asked))
    with contextlib.suppress(RunError):  # of shards that may only be read
        holds.release(Store(settings.shards), run)


def forget(settings: Settings, asked: str, run: str) -> None:
    """Start anew: without the checkpoints and the pin of what the same command began before."""
    models, name, runs = Store(settings.models), settings.preset.name, {run}
    with contextlib.suppress(RunError):  # a pin that cannot be read
        if began := pin.read(models, name, asked):
            runs.add(began.run)
    for one in runs:
        for entry in models.list(f"_checkpoints/{name}-{one}"):
            models.delete(entry.key)
        let_go(settings, asked, one)


def read_plan(settings: Settings, system: str, pinned: pin.Pin | None = None) -> Plan:
    """What the shards hold, split; of a training that was cut off, those that it began with.

    Raises UsageError before anything starts.
    """
    name, shards = settings.preset.name, Store(settings.shards)
    check_name(name)
    read_encoder(settings.preset.layers.weights)  # fails early where it cannot be read
    catalogue = read_catalogue(shards, pinned.keys if pinned else ())
    plan = make_plan(catalogue, replace(settings.preset, name=system), settings.fold)
    if pinned:
        since = {e.key for e in shards.list() if e.key.endswith(".parquet")} - {*pinned.keys}
        say(
            f"going on with the training of {pinned.started}, with the {len(catalogue)} shards that it began "
            f"with; {len(since)} others are left out (--fresh starts anew with the shards of now)"
        )
    training, held_out = len(plan.training), len(plan.held_out)
    say(f"{shards.uri}: {len(catalogue)} shards, {training} for training, {held_out} held out")
    say_left_out(plan)
    say_unnamed(plan)
    build(plan.preset)  # fails early where the layers do not go together
    if not 1 <= settings.least_workers <= settings.most_workers <= training:
        raise UsageError(f"--workers {settings.workers}: give 1 to {training}, the number of training cases")
    return plan


def say_left_out(plan: Plan) -> None:
    """The shards that this training makes no use of, by number and example."""
    for why, keys in plan.left_out.items():
        say(f"{len(keys)} shards are left out, {why}: {examples(keys)}")


def say_unnamed(plan: Plan) -> None:
    """Cases that count as patients of their own because nothing told who was scanned."""
    if cases := unnamed([*plan.training, *plan.held_out]):
        say(
            f"nothing tells the patients of {len(cases)} cases ({examples(cases)}): each is taken for "
            "a patient of its own; if some are of one, run jobs.preprocess with --patients"
        )


def check_name(name: str) -> None:
    """Raise UsageError where it cannot name a model's file."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise UsageError(f"--name {name}: use letters, digits, '.', '-' and '_' only")


def pictures(plan: Plan, result: dict) -> dict[str, bytes]:
    """PNG and GIF by file name: the curves, what the data holds, and held-out cases."""
    curves = draw_curves(
        result["losses"], result["validations"], result["rates"], best_epoch(result["validations"])
    )
    return {"curves.png": curves, "classes.png": draw_classes(plan.classes()), **result["pictures"]}


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


def fit(name: str, job: Job, settings: Settings, told: Callable[[int, float, dict], None]) -> dict:
    """Train with Ray → what rank 0 returns. Raises RunError when the last restart failed too."""
    models = Store(settings.models)
    trainer = Trainer(
        work,
        train_loop_config={"job": job},
        scaling_config=scaling(settings),
        run_config=RunConfig(
            name=f"{name}-{job.plan.run}",  # the same command finds it again, other settings do not
            storage_path=models.path("_checkpoints"),
            storage_filesystem=models.arrow_fs(),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        with Listener(job.news, told):
            return trainer.fit().return_value
    except TrainingFailedError as error:
        raise _cause(error) from error
    except SystemExit:  # of Ray's own handlers, after Ctrl-C or `ray job stop`
        raise RunError("stopped; the same command goes on at the last epoch") from None


def scaling(settings: Settings) -> ScalingConfig:
    """What each worker asks of the cluster. Raises UsageError for GPUs that this machine does not have."""
    workers, alone = settings.most_workers, not os.environ.get("RAY_ADDRESS")
    gpu = wants_gpu(settings.gpu, settings.least_workers)
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
    """Hands what workers report to `told`, in the driver: one process alone talks to MLflow."""

    def __init__(self, news: Queue, told: Callable[..., None]):
        super().__init__(daemon=True)
        self.news, self.told, self.over = news, told, threading.Event()

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        while True:
            try:
                report = self.news.get(timeout=1)
            except queue.Empty:
                if self.over.is_set():
                    return
                continue
            try:
                self.told(*report)
            except Exception as error:  # of MLflow or its database: no reason to stop training
                say(f"MLflow did not take these figures: {error}")


def read_trained(models: Store, name: str, kind: str, made_by: str) -> bytes | None:
    """The model file, if it is the one that this training ("run") or "sweep" makes, by its fingerprint."""
    try:
        data = models.read(f"{name}.safetensors")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{models.uri}/{name}.safetensors: cannot be read: {error}") from error
    header = read_header(data, f"{models.uri}/{name}.safetensors")
    return data if header.get("provenance", {}).get(kind) == made_by else None


def summary(models: Store, name: str, data: bytes, epochs: int) -> dict:
    """The last line's counts; `epochs` are those of all resumes together, 0 where there was nothing to do."""
    key = f"{name}.safetensors"
    figures = read_header(data, key)["provenance"]["validation"]
    dice = {key.removeprefix("dice/"): round(v, 4) for key, v in figures.items() if key.startswith("dice/")}
    return {"model": f"{models.uri}/{key}", "digest": digest(data), "dice": dice, "epochs": epochs}


def _cause(error: TrainingFailedError) -> Exception:
    """The project's own error that a worker died of, or the failure in one line and where to read on."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    causes = [getattr(failure, "_base_exc", failure) for failure in failures]
    for cause in causes:
        if isinstance(cause, (UsageError, RunError)):
            return cause
    return RunError(f"training failed {MAX_FAILURES + 1} times, the last time with:\n{error}")


def cli(argv: list[str]) -> int:
    """`PRESET [flags]` → exit code."""
    return preset_flags.run("train", Settings, main, __doc__, argv)


if __name__ == "__main__":
    sys.exit(cli(sys.argv[1:]))
