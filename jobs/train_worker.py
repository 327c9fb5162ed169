"""One DDP worker of jobs.train: its slices, streamed by Ray Data, its share of validation, its reports."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.train import Checkpoint
from ray.train.torch import get_device
from ray.util.queue import Queue

from bts import feeding, metrics, training
from bts.catalogue import Shard
from bts.curves import best_epoch
from bts.inference import Segmenter
from bts.plan import Plan
from bts.progress import Progress
from bts.sampling import collate_slices
from bts.shards import read_volume
from bts.storage import Store

SHUFFLE = 1024  # slices of the local shuffle: about 200 MB of four modalities
AHEAD = 4  # batches made beforehand
PIECE = 16  # shards read at a time, a rank: about 250 MB of drawn slices, and as much again ahead


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker gets."""

    plan: Plan
    provenance: dict
    """What the model's header says of its origin; of the driver, for workers have no git."""
    shards: Store
    news: Queue
    """From rank 0 to the driver: (epoch, minutes, figures) once an epoch's checkpoint is in the store."""


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
    best = best_epoch(progress.validations)
    figures = {"epochs": progress.epoch, "best_epoch": best, "validation": progress.validations[best]}
    return {
        "model": progress.model_file({**job.provenance, **figures}),
        "losses": progress.losses,
        "validations": progress.validations,
    }


def last_state() -> bytes | None:
    """State of the newest checkpoint of this run, if there is one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return Path(folder, "state.pt").read_bytes()


class Feed:
    """This rank's slices, epoch after epoch, read by Ray Data a piece ahead of the one in use.

    A piece is read to its end: an executor that waits for its consumer spins, and in a training process it
    takes the interpreter from the training (measured: three times the time a step). Not `streaming_split`:
    with equal=True it drops rows, with equal=False it gave one of two workers all of a small set.
    """

    def __init__(self, job: Job, rank: int, world: int):
        self.job, self.rank, self.world = job, rank, world
        self.pieces, self.next_epoch = iter(()), None

    def batches(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of an epoch, the same in every run with as many workers."""
        preset = self.job.plan.preset
        rng = np.random.default_rng([preset.seed, epoch, self.rank])
        tables = feeding.shuffled(self.tables(epoch), preset.batch, SHUFFLE, rng)
        return feeding.ahead((collate_slices(t, preset.modalities, preset.size, rng) for t in tables), AHEAD)

    def tables(self, epoch: int) -> Iterator[pa.Table]:
        """The drawn slices of an epoch, a table a shard, in the order of the deal."""
        if self.next_epoch != epoch:  # the first epoch of this run, or the one after a broken-off epoch
            self.pieces = feeding.ahead(self._pieces(epoch), 1)
        self.next_epoch = None
        last = False
        while not last:
            last, tables = next(self.pieces)
            yield from tables
        self.next_epoch = epoch + 1

    def _pieces(self, start: int) -> Iterator[tuple[bool, list[pa.Table]]]:
        """(whether it is the epoch's last, its tables) of every piece, without end."""
        plan = self.job.plan
        for epoch in itertools.count(start):
            mine = feeding.deal(plan.training, self.world, seed=plan.preset.seed, epoch=epoch)[self.rank]
            for first in range(0, len(mine), PIECE):
                yield first + PIECE >= len(mine), self._read(mine[first : first + PIECE], epoch)

    def _read(self, shards: list[Shard], epoch: int) -> list[pa.Table]:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        items = [{"epoch": epoch, "key": shard.key} for shard in shards]
        data = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            feeding.read_item,  # not a function of this file: a reader need not import torch
            fn_args=(self.job.shards, self.job.plan.preset),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0.5,  # a machine with one CPU must be able to read beside a worker
        )
        return list(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))


def validate(job: Job, segmenter: Segmenter, rank: int, world: int) -> dict[str, float]:
    """Mean Dice by region over the held-out cases, whole volumes; each rank takes its share of the cases."""
    mine, modalities = job.plan.held_out[rank::world], job.plan.preset.modalities
    volumes = feeding.ahead((read_volume(job.shards.read(s.key), modalities) for s in mine), 1)
    scores = [metrics.score(volume.mask, segmenter(volume)) for volume in volumes]
    everyone = [scores]
    if world > 1:
        everyone = [None] * world
        torch.distributed.all_gather_object(everyone, scores)
    cases = [case for part in everyone for case in part]
    regions = metrics.REGIONS
    return {f"dice/{region}": float(np.mean([case[region]["dice"] for case in cases])) for region in regions}
