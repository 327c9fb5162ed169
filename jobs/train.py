"""Shards → one model file: a preset trained by DDP workers that Ray feeds, checkpointed every epoch.

The same command again goes on at the last epoch after a kill, and does nothing once the model is there. The
model is registered in MLflow too, its curves beside it.

    python -m jobs.train fast --shards data/shards --models data/models --budget.minutes 10
    ray job submit --working-dir . -- python -m jobs.train fast --shards s3://b/shards --models s3://b/models \\
        --workers 8 --gpu yes
"""

import json
import logging
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import ray
import torch
import tyro
from ray._private.ray_logging import global_worker_stdstream_dispatcher
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Queue

from bts import feeding, metrics, model, training
from bts.catalogue import Shard, read_catalogue
from bts.errors import RunError, UsageError
from bts.inference import Segmenter
from bts.plan import Plan, make_plan
from bts.presets import PRESETS, Preset, to_dict
from bts.progress import Progress
from bts.sampling import collate_slices
from bts.shards import read_volume
from bts.storage import Store
from bts.tracking import Tracker, flatten, without_login
from jobs import common

SHUFFLE = 1024  # slices of the local shuffle: about 300 MB of four modalities
AHEAD = 4  # batches made beforehand
STREAM = 2000  # shards a rank reads in one go, over several epochs where there are fewer
READERS = 4  # shards read at a time, a rank
BUFFER = 2**29  # bytes of slices that wait in the object store, a rank: 10 to 20 cases


@dataclass(kw_only=True)
class Settings:
    """Train one preset. Its fields are flags; the defaults shown are this preset's own."""

    shards: str
    """Folder or s3://bucket/prefix with the shards of jobs.preprocess."""
    models: str
    """Folder or s3://bucket/prefix for the model, NAME.safetensors, and the run's checkpoints."""
    workers: int = 1
    """DDP workers, each with one GPU or an equal part of its machine's CPU cores."""
    gpu: Literal["auto", "yes", "no"] = "auto"
    """auto: GPUs if the cluster has them now; yes: ask for them, also of an autoscaler that starts with none."""
    fold: Literal[0, 1, 2, 3, 4] = 0
    """Which fifth of the patients is held out for validation."""
    preset: Annotated[Preset, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker gets."""

    plan: Plan
    shards: Store
    news: Queue
    """From rank 0 to the driver: the figures of each epoch once its checkpoint is safe."""


def main(settings: Settings, system: str) -> common.Outcome:
    """`settings.preset.name` is the model's name by now; `system` the preset's own."""
    name, models, shards = settings.preset.name, Store(settings.models), Store(settings.shards)
    catalogue = read_catalogue(shards)
    plan = make_plan(catalogue, replace(settings.preset, name=system), settings.fold)
    if not 1 <= settings.workers <= len(plan.training):
        raise UsageError(f"--workers {settings.workers}: give 1 to {len(plan.training)}, the number of training cases")
    common.say(
        f"{shards.uri}: {len(catalogue)} shards, {len(plan.training)} for training, {len(plan.held_out)} held out"
    )
    if (trained := read_trained(models, name, plan)) is not None:
        common.say(f"nothing to do: {name}.safetensors is the model of these shards and settings")
        return common.Outcome(models, summary(models, name, trained, epochs=0))
    start_ray()
    tracker = Tracker()
    params = {**flatten(to_dict(plan.preset)), "fold": plan.fold, "workers": settings.workers}
    tags = {"data": plan.data, "commit": plan.provenance()["commit"], "shards": without_login(shards.uri)}
    run_id = tracker.start(name, plan.run, params, tags)
    status = "FAILED"
    try:
        data, epochs = fit(name, plan, settings, lambda epoch, figures: tracker.log(run_id, figures, epoch))
        tracker.register(run_id, name, data, model.digest(data))
        models.put(f"{name}.safetensors", data)  # last: cut off before this, the next run does the rest
        status = "FINISHED"
    finally:
        tracker.finish(run_id, status)
    return common.Outcome(models, summary(models, name, data, epochs))


def start_ray() -> None:
    """Ray without what Train's own processes say: the news of rank 0 are enough, errors arrive by themselves."""
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody reclaims this machine
    common.start_ray()
    global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")


def fit(name: str, plan: Plan, settings: Settings, log) -> tuple[bytes, int]:
    """Train with Ray → the model file and the epochs trained. Raises RunError when every restart failed."""
    models, news = Store(settings.models), Queue(actor_options={"num_cpus": 0})
    cluster = ray.cluster_resources()
    gpu = settings.gpu == "yes" or (settings.gpu == "auto" and cluster.get("GPU", 0) >= settings.workers)
    # Reading needs a CPU too: on a small machine the workers must not hold them all.
    cpus = 1 if ray.util.client.ray.is_connected() or cluster.get("CPU", 0) > settings.workers else 0.01
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": Job(plan=plan, shards=Store(settings.shards), news=news)},
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if gpu else {})},
            placement_strategy="PACK" if gpu else "SPREAD",
        ),
        run_config=RunConfig(
            name=f"{name}-{plan.run}",
            storage_path=models.path("_checkpoints"),
            storage_filesystem=models.arrow_fs(),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=3),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    with Listener(news, plan, log):
        result = trainer.fit()
    return result.return_value["model"], result.return_value["epochs"]


class Listener(threading.Thread):
    """Prints and logs what rank 0 reports, in the driver: one process alone talks to MLflow."""

    def __init__(self, news: Queue, plan: Plan, log):
        super().__init__(daemon=True)
        self.news, self.plan, self.log, self.over = news, plan, log, threading.Event()

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        while True:
            try:
                epoch, minutes, figures = self.news.get(timeout=1)
            except queue.Empty:
                if self.over.is_set():
                    return
                continue
            common.say(progress_line(self.plan.preset, epoch, minutes, figures))
            self.log(epoch, figures)


def progress_line(preset: Preset, epoch: int, minutes: float, figures: dict[str, float]) -> str:
    bounds = [f"/{preset.budget.epochs}" if preset.budget.epochs else ""]
    bounds += [f"/{preset.budget.minutes:g}" if preset.budget.minutes else ""]
    dice = "".join(f" {key.removeprefix('dice/')} {v:.3f}" for key, v in figures.items() if key.startswith("dice/"))
    return (
        f"epoch {epoch}{bounds[0]}, {minutes:.1f}{bounds[1]} min: loss {figures['loss']:.4f}{dice} "
        f"{figures['slices_per_second']:.0f} slices/s, wait {figures['wait_share']:.0%}"
    )


def work(config: dict) -> dict:
    """One worker, from the last checkpoint to the end of the budget → the model, of rank 0."""
    job: Job = config["job"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if get_device().type == "cpu":  # Ray gives a worker as many threads as it asked for CPUs
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))

    def on_epoch(progress: Progress) -> None:
        figures = {**progress.metrics, "slices_per_second": progress.metrics["slices_per_second"] * world}
        with tempfile.TemporaryDirectory() as folder:
            if rank == 0:
                Path(folder, "state.pt").write_bytes(progress.state())
            ray.train.report(
                figures,
                checkpoint=Checkpoint.from_directory(folder) if rank == 0 else None,
                checkpoint_dir_name=f"epoch-{progress.epoch:05d}",
            )
        if rank == 0:
            job.news.put((progress.epoch, progress.seconds / 60, figures))

    feed = Feed(job, rank, world)
    progress = training.train(
        job.plan.preset,
        batches=feed.batches,
        validate=lambda segmenter: validate(job, segmenter, rank, world),
        on_epoch=on_epoch,
        checkpoint=last_state(),
        device=get_device(),
        rank=rank,
        world=world,
    )
    if rank != 0:
        return {}
    best = max(progress.validations.items(), key=lambda item: sum(item[1].values()), default=(progress.epoch, {}))
    meta = {**job.plan.provenance(), "epochs": progress.epoch, "best_epoch": best[0], "validation": best[1]}
    return {"model": progress.model_file(meta), "epochs": progress.epoch}


def last_state() -> bytes | None:
    """State of the newest checkpoint of this run, if there is one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return Path(folder, "state.pt").read_bytes()


class Feed:
    """This rank's slices of all epochs as one stream of Ray Data, so that no epoch waits for a cold start.

    Not `streaming_split`: with equal=True it drops rows, with equal=False it gave one of two workers everything
    where the set is small, and it does not know in which epoch a resumed run is.
    """

    def __init__(self, job: Job, rank: int, world: int):
        self.job, self.rank, self.world = job, rank, world
        self.tables, self.next_epoch, self.held = iter(()), None, None

    def batches(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of an epoch, the same in every run with as many workers."""
        preset = self.job.plan.preset
        rng = np.random.default_rng([preset.seed, epoch, self.rank])
        tables = feeding.shuffled(self._slices(epoch), preset.batch, SHUFFLE, rng)
        return feeding.ahead((collate_slices(t, preset.modalities, preset.size, rng) for t in tables), AHEAD)

    def _slices(self, epoch: int) -> Iterator[pa.Table]:
        while True:
            if self.next_epoch is None or self.next_epoch <= epoch:
                self.tables, self.held = self._stream(epoch), None
            table = self.held or next(self.tables, None)
            self.held = None
            if table is None:
                return
            at = table["epoch"][0].as_py()
            if at > epoch:
                self.held = table
                return
            if at == epoch:  # else the rest of an epoch that was broken off
                yield table

    def _stream(self, epoch: int) -> Iterator[pa.Table]:
        """Drawn slices of this and the following epochs, a table a shard."""
        plan, seed = self.job.plan, self.job.plan.preset.seed
        self.next_epoch = epoch + max(1, STREAM * self.world // len(plan.training))
        items = [
            {"epoch": e, "key": shard.key}
            for e in range(epoch, self.next_epoch)
            for shard in feeding.deal(plan.training, self.world, seed=seed, epoch=e)[self.rank]
        ]
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(object_store_memory=BUFFER)
        data = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            read,
            fn_args=(self.job,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.TaskPoolStrategy(size=READERS),
            num_cpus=0.5,  # a machine with one CPU must be able to read beside a worker
        )
        return iter(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))


def read(items: pa.Table, job: Job) -> pa.Table:
    """One item of the stream → its drawn slices, with the epoch as a column."""
    (item,) = items.to_pylist()
    preset = job.plan.preset
    rows = feeding.read_slices(
        job.shards, item["key"], preset.modalities,
        empty_slices=preset.sampling.empty_slices, seed=preset.seed, epoch=item["epoch"],
    )  # fmt: skip
    return rows.append_column("epoch", pa.array([item["epoch"]] * rows.num_rows, pa.int32()))


def validate(job: Job, segmenter: Segmenter, rank: int, world: int) -> dict[str, float]:
    """Mean Dice by region over the held-out cases, whole volumes; each rank takes its share of the cases."""
    mine = job.plan.held_out[rank::world]
    volumes = feeding.ahead((read_volume(job.shards.read(s.key), job.plan.preset.modalities) for s in mine), 1)
    scores = [metrics.score(volume.mask, segmenter(volume), metrics.REGIONS) for volume in volumes]
    everyone = [scores]
    if world > 1:
        everyone = [None] * world
        torch.distributed.all_gather_object(everyone, scores)
    cases = [case for part in everyone for case in part]
    return {f"dice/{region}": float(np.mean([case[region]["dice"] for case in cases])) for region in metrics.REGIONS}


def read_trained(models: Store, name: str, plan: Plan) -> bytes | None:
    """The model file, if it is the one that this plan makes."""
    try:
        data = models.read(f"{name}.safetensors")
    except FileNotFoundError:
        return None
    header = model.read_header(data, f"{models.uri}/{name}.safetensors")
    return data if header.get("provenance", {}).get("run") == plan.run else None


def summary(models: Store, name: str, data: bytes, epochs: int) -> dict:
    """The last line's counts."""
    key = f"{name}.safetensors"
    provenance = model.read_header(data, key)["provenance"]
    dice = {k.removeprefix("dice/"): round(v, 4) for k, v in provenance["validation"].items()}
    return {"model": f"{models.uri}/{key}", "digest": model.digest(data), "dice": dice, "epochs": epochs}


def cli(argv: list[str]) -> int:
    """`PRESET [flags]` → exit code."""
    if not argv or argv[0] not in PRESETS:
        known = "\n".join(f"  {name:12} {preset.summary}" for name, preset in PRESETS.items())
        problem = f"there is no preset {argv[0]}; " if argv and not argv[0].startswith("-") else ""
        print(f"jobs.train: {problem}give a preset first, then flags (--help after it lists them):\n{known}", file=sys.stderr)
        return common.WRONG_USAGE
    default = Settings(shards=tyro.MISSING, models=tyro.MISSING, preset=PRESETS[argv[0]])
    prog = f"python -m jobs.train {argv[0]}"
    settings = tyro.cli(Settings, prog=prog, description=__doc__.split("\n\n")[0], args=argv[1:], default=default)
    return common.guarded("train", lambda: main(settings, argv[0]))


if __name__ == "__main__":
    sys.exit(cli(sys.argv[1:]))
