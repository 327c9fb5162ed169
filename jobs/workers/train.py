"""One DDP worker of jobs.train: its slices by Ray Data, its checkpoints by Ray Train."""

import contextlib
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import ray
import torch
from ray.exceptions import RayActorError
from ray.train import Checkpoint
from ray.train.torch import get_device
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bts.shards.catalogue import Shard
from bts.training.rows import by_case, read_rows
from bts.training.state import Progress, furthest
from jobs.workers import rank
from jobs.workers.feed import Feed, items_of
from jobs.workers.tries import tried

READERS = 2  # tasks a rank that read shards


def work(config: dict) -> dict:
    """One worker, from the last checkpoint to the end of the budget → the model, of rank 0."""
    job: rank.Job = config["job"]
    reports: Queue = config["reports"]
    context = ray.train.get_context()
    number, world = context.get_world_rank(), context.get_world_size()
    if get_device().type == "cpu":  # Ray gives a worker as many threads as it asked for CPUs
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))

    def on_report(epoch: int, minutes: float, figures: dict) -> None:
        with contextlib.suppress(RayActorError):  # the driver is gone, or will say what it lost
            reports.put((epoch, minutes, figures))

    def keep(progress: Progress, figures: dict, name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if number == 0:
                write_state(progress, folder)
                checkpoint = Checkpoint.from_directory(folder)
            ray.train.report(figures, checkpoint=checkpoint, checkpoint_dir_name=name)

    return rank.train(
        job,
        Feed(job, number, world, through_ray).batches,
        on_report,
        keep,
        checkpoint=furthest([read_state(ray.train.get_checkpoint()), rank.read_alone(config["checkpoints"])]),
        device=get_device(),
        rank=number,
        world=world,
    )


def write_state(progress: Progress, folder: str) -> None:
    """What `read_state` reads of a checkpoint of this folder."""
    Path(folder, rank.STATE).write_bytes(progress.state())


def read_state(checkpoint: Checkpoint | None) -> bytes | None:
    """What `Progress.restore` takes, of the newest checkpoint if there is one."""
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return Path(folder, rank.STATE).read_bytes()


def through_ray(job: rank.Job, shards: list[Shard], epoch: int, whole: bool) -> list[pa.Table]:
    """A `Reader` by Ray Data's tasks.

    What they give is read to its end: an executor that waits for its consumer spins, and in a training
    process it takes the interpreter from the training (measured: three times the time a step).
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = None  # what a task reads is one block, however large
    items = items_of(shards, epoch)
    readers = min(READERS, len(items))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # A task for many shards: what Ray asks for a task is more than what reading a shard takes.
    data = tried(
        ray.data.from_items(items, override_num_blocks=readers).map_batches,
        read_rows,  # not a function of this file: a reader need not import torch
        fn_args=(job.shards, job.plan.preset, job.plan.turns(), whole),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0,  # the workers may hold every CPU that there is, and wait for what is read
        scheduling_strategy=here,  # else tasks without a CPU go to the head, too
        concurrency=readers,
    )
    blocks = data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    return [table for block in blocks for table in by_case(block)]
