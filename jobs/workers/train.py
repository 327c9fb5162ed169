"""One DDP worker of jobs.train: its slices, streamed by Ray Data, its share of validation, its reports."""

import contextlib
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
from ray.exceptions import RayActorError
from ray.train import Checkpoint
from ray.train.torch import get_device
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bts.cases.case import CaseVolume
from bts.inference.segmenter import Segmenter
from bts.model.file import load_model
from bts.report import gallery
from bts.report.curves import draw_thresholds
from bts.shards.catalogue import Shard
from bts.shards.format import read_volume
from bts.storage import Store
from bts.training import draw, loop, prefetch, validation
from bts.training.batches import Sample, make_batches, samples_of
from bts.training.plan import Plan, read_encoder
from bts.training.rows import by_case, read_rows
from bts.training.state import Progress, outcome
from jobs.workers.tries import tried

KEEP = 2 << 30  # bytes: training cases that fit are read once and kept, uncompressed, in each worker
PIECE = 16  # shards read at a time, a rank: about 250 MB of drawn slices, and as much again ahead
READERS = 2  # tasks a rank that read shards
STATE = "state.pt"  # in a checkpoint
SHOWN = 3  # held-out cases that pictures are drawn of


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker gets."""

    plan: Plan
    provenance: dict
    """What the model's header says of its origin; of the driver, for workers have no git."""
    shards: Store
    parts: int
    """Batches of a step, of all workers together: as many as there may be workers."""
    news: Queue
    """From rank 0 to the driver: (epochs done, minutes, figures) once an epoch's checkpoint is in the store,
    and now and then within an epoch; then the figures have `steps`."""


def work(config: dict) -> dict:
    """One worker, from the last checkpoint to the end of the budget → the model, of rank 0."""
    job: Job = config["job"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if get_device().type == "cpu":  # Ray gives a worker as many threads as it asked for CPUs
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))

    def on_epoch(progress: Progress) -> None:
        figures = {**progress.metrics, "samples_per_second": progress.metrics["samples_per_second"] * world}
        keep(progress, figures, rank, f"epoch-{progress.epoch:05d}")
        tell(progress, figures, progress.seconds)

    def tell(progress: Progress, figures: dict, seconds: float) -> None:
        if rank == 0:
            with contextlib.suppress(RayActorError):  # the driver is gone, or will say what it lost
                job.news.put((progress.epoch, seconds / 60, figures))

    def on_look(progress: Progress, figures: dict) -> None:
        figures = {**figures, "samples_per_second": figures["samples_per_second"] * world}
        tell(progress, figures, figures.pop("seconds"))

    feed = Feed(job, rank, world)
    progress = loop.train(
        job.plan.preset,
        batches=feed.batches,
        validate=lambda segmenter: validate(job, segmenter, rank, world),
        on_epoch=on_epoch,
        on_look=on_look,
        on_part=lambda p: keep(p, {}, rank, f"epoch-{p.epoch:05d}-step-{p.begun.steps:06d}"),
        checkpoint=read_state(ray.train.get_checkpoint()),
        encoder=read_encoder(job.plan.preset.layers.weights),
        device=get_device(),
        rank=rank,
        world=world,
        parts=job.parts,
    )
    if rank != 0:
        return {}
    pictures, threshold = look(job, progress)
    data = progress.model_file({**job.provenance, **outcome(progress), **threshold})
    kept = {name: getattr(progress, name) for name in ("losses", "rates", "validations")}
    return {"model": data, "pictures": pictures, **kept}


def keep(progress: Progress, figures: dict[str, float], rank: int, name: str) -> None:
    """A checkpoint in the store, by rank 0; every rank must come here."""
    with tempfile.TemporaryDirectory() as folder:
        if rank == 0:
            write_state(progress, folder)
        checkpoint = Checkpoint.from_directory(folder) if rank == 0 else None
        ray.train.report(figures, checkpoint=checkpoint, checkpoint_dir_name=name)


def write_state(progress: Progress, folder: str) -> None:
    """What `read_state` reads of a checkpoint of this folder."""
    Path(folder, STATE).write_bytes(progress.state())


def read_state(checkpoint: Checkpoint | None) -> bytes | None:
    """What `Progress.restore` takes, of the newest checkpoint if there is one."""
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return Path(folder, STATE).read_bytes()


class Feed:
    """This rank's slices, epoch after epoch, read by Ray Data a piece ahead of the one in use.

    A piece is read to its end: an executor that waits for its consumer spins, and in a training process it
    takes the interpreter from the training (measured: three times the time a step). Not `streaming_split`:
    with equal=True it drops rows, with equal=False it gave one of two workers all of a small set.
    """

    def __init__(self, job: Job, rank: int, world: int):
        self.job, self.rank, self.world = job, rank, world
        self.pieces: Iterator[tuple[bool, list[pa.Table]]] = iter(())
        self.next_epoch: int | None = None
        self.turns = job.plan.turns()
        self.keeps = sum(shard.bytes for shard in job.plan.training) <= KEEP
        self.kept: dict[str, pa.Table] = {}

    def batches(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of an epoch, the same in every run with as many workers."""
        preset = self.job.plan.preset
        rng = np.random.default_rng([preset.seed, epoch, self.rank])
        return make_batches(self.samples(epoch, rng), preset, rng)

    def samples(self, epoch: int, rng: np.random.Generator) -> Iterator[Sample]:
        """The samples of an epoch, a shard after the other."""
        for table in self.tables(epoch):
            yield from samples_of(table, self.job.plan.preset, rng)

    def tables(self, epoch: int) -> Iterator[pa.Table]:
        """The drawn slices of an epoch, a table a shard, in the order of the deal."""
        if self.next_epoch != epoch:  # the first epoch of this run, or the one after a broken-off epoch
            self.pieces = prefetch.ahead(self._pieces(epoch), 1)
        self.next_epoch = None
        last = False
        while not last:
            last, tables = next(self.pieces)
            yield from tables
        self.next_epoch = epoch + 1

    def _pieces(self, start: int) -> Iterator[tuple[bool, list[pa.Table]]]:
        """(whether it is the epoch's last, its tables) of every piece, without end."""
        plan, shares = self.job.plan, draw.batches_a_step(self.job.parts, self.world)
        for epoch in itertools.count(start):
            mine = draw.deal(plan.training, shares, seed=plan.preset.seed, epoch=epoch)[self.rank]
            for first in range(0, len(mine), PIECE):
                yield first + PIECE >= len(mine), self._tables(mine[first : first + PIECE], epoch)

    def _tables(self, shards: list[Shard], epoch: int) -> list[pa.Table]:
        """What the epoch needs of these shards."""
        if not self.keeps:
            return self._through_ray(shards, epoch, whole=False)
        missing = [shard for shard in shards if shard.key not in self.kept]
        tables = self._through_ray(missing, epoch, whole=True) if missing else []
        self.kept |= {shard.key: table for shard, table in zip(missing, tables, strict=True)}
        preset, keys = self.job.plan.preset, [shard.key for shard in shards]
        return [draw.needed(self.kept[key], preset, epoch, self.turns.get(key)) for key in keys]

    def _through_ray(self, shards: list[Shard], epoch: int, whole: bool) -> list:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        context.target_max_block_size = None  # what a task reads is one block, however large
        items = [{"epoch": epoch, "key": shard.key} for shard in shards]
        readers = min(READERS, len(items))
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # A task for many shards: what Ray asks for a task is more than what reading a shard takes.
        data = tried(
            ray.data.from_items(items, override_num_blocks=readers).map_batches,
            read_rows,  # not a function of this file: a reader need not import torch
            fn_args=(self.job.shards, self.job.plan.preset, self.turns, whole),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,  # the workers may hold every CPU that there is, and wait for what is read
            scheduling_strategy=here,  # else tasks without a CPU go to the head, too
            concurrency=readers,
        )
        blocks = data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        return [table for block in blocks for table in by_case(block)]


def validate(job: Job, segmenter: Segmenter, rank: int, world: int) -> dict[str, float]:
    """Mean figures over the held-out cases, whole volumes; each rank takes its share of the cases."""
    mine = [validation.score_case(segmenter, volume) for volume in held_out(job, rank, world)]
    everyone = [mine]
    if world > 1:
        everyone = [[] for _ in range(world)]
        torch.distributed.all_gather_object(everyone, mine)
    return validation.mean_figures([case for part in everyone for case in part])


def held_out(job: Job, rank: int = 0, world: int = 1) -> Iterator[CaseVolume]:
    """The held-out cases of a rank, one read ahead; of a split by slice, the slices alone that it holds
    out."""
    preset, turns = job.plan.preset, job.plan.turns()
    keys = [shard.key for shard in job.plan.held_out[rank::world]]
    volumes = prefetch.ahead((read_volume(job.shards.read(key), preset.modalities) for key in keys), 1)
    for key, volume in zip(keys, volumes, strict=True):
        part = validation.held_out_part(volume, preset.seed, turns[key]) if key in turns else volume
        if part:
            yield part


def look(job: Job, progress: Progress) -> tuple[dict[str, bytes], dict]:
    """(pictures by file name, what a sweep says of the threshold) of the weights that are kept."""
    preset, device = job.plan.preset, next(progress.network.parameters()).device
    segmenter = Segmenter([load_model(progress.model_file({}), preset.name)], device=device)
    pictures: dict[str, bytes] = {}
    for volume in itertools.islice(held_out(job), SHOWN):
        found = segmenter.probabilities(volume)
        labels = segmenter.tidied(volume, segmenter.decoded(found))
        pictures |= gallery.draw(volume, found.numpy(), labels, preset)
    if preset.targets != "tumour":
        return pictures, {}
    ious = validation.sweep(segmenter, held_out(job))
    best = validation.THRESHOLDS[int(np.argmax(ious))]
    pictures["thresholds.png"] = draw_thresholds(validation.THRESHOLDS, ious, best)
    return pictures, {"best_threshold": best, "iou_by_threshold": ious}
