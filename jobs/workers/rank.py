"""One rank of a training, with Ray or without: its share of validation, what it tells, what it hands over."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bts.cases.case import CaseVolume
from bts.inference.segmenter import Segmenter
from bts.model.file import load_model
from bts.report import gallery
from bts.report.curves import draw_thresholds
from bts.settings import Preset
from bts.shards.catalogue import read_shard
from bts.storage import Store
from bts.training import loop, prefetch, validation
from bts.training.plan import Plan, read_encoder
from bts.training.state import Progress, outcome

SHOWN = 3  # held-out cases that pictures are drawn of
STATE = "state.pt"  # in a checkpoint of Ray Train's
ALONE = "alone.pt"  # beside those, of a training without Ray

OnReport = Callable[[int, float, dict], None]
"""(epochs done, minutes, figures) once an epoch is kept, and now and then within an epoch; then the figures
have `steps`."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every rank gets."""

    plan: Plan
    provenance: dict
    """What the model's header says of its origin; of the driver, for workers have no git."""
    shards: Store
    parts: int
    """Batches of a step, of all ranks together: as many as there may be workers."""


def train(
    job: Job,
    batches: Callable[[int], Iterable[dict]],
    on_report: OnReport,
    keep: Callable[[Progress, dict, str], None],
    *,
    checkpoint: bytes | None,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
) -> dict:
    """From the checkpoint to the end of the budget → of rank 0 the model, its pictures and its curves.

    on_report: of rank 0. keep(progress, figures, name): a checkpoint, called by every rank.
    """
    report: OnReport = on_report if rank == 0 else lambda *_: None

    def figures_of_all(figures: dict) -> dict:
        return {**figures, "samples_per_second": figures["samples_per_second"] * world}

    def on_epoch(progress: Progress) -> None:
        figures = figures_of_all(progress.metrics)
        keep(progress, figures, f"epoch-{progress.epoch:05d}")
        report(progress.epoch, progress.seconds / 60, figures)

    def on_progress(progress: Progress, figures: dict) -> None:
        figures = figures_of_all(figures)
        report(progress.epoch, figures.pop("seconds") / 60, figures)

    progress = loop.train(
        job.plan.preset,
        batches=batches,
        validate=lambda segmenter: validate(job, segmenter, rank, world),
        on_epoch=on_epoch,
        on_progress=on_progress,
        on_part=lambda p: keep(p, {}, f"epoch-{p.epoch:05d}-step-{p.begun.steps:06d}"),
        checkpoint=checkpoint,
        encoder=read_encoder(job.plan.preset.layers.weights),
        device=device,
        rank=rank,
        world=world,
        parts=job.parts,
    )
    if rank != 0:
        return {}
    pictures, threshold = draw_held_out(job, progress)
    data = progress.model_file({**job.provenance, **outcome(progress), **threshold})
    kept = {name: getattr(progress, name) for name in ("losses", "rates", "validations")}
    return {"model": data, "pictures": pictures, **kept}


def read_alone(checkpoints: Store) -> bytes | None:
    """What a training of these checkpoints had done without Ray, if it was."""
    try:
        return checkpoints.read(ALONE)
    except FileNotFoundError:
        return None


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
    volumes = prefetch.ahead((read_shard(job.shards, key, preset.modalities) for key in keys), 1)
    for key, volume in zip(keys, volumes, strict=True):
        part = validation.held_out_part(volume, preset.seed, turns[key]) if key in turns else volume
        if part:
            yield part


def draw_held_out(job: Job, progress: Progress) -> tuple[dict[str, bytes], dict]:
    """(pictures by file name, what a sweep says of the threshold) of the weights that are kept."""
    preset, device = job.plan.preset, next(progress.network.parameters()).device
    segmenter = Segmenter([load_model(progress.model_file({}), preset.name)], device=device)
    pictures = draw(segmenter, held_out(job), preset)
    if preset.targets != "tumour":
        return pictures, {}
    ious = validation.sweep(segmenter, held_out(job))
    best = validation.THRESHOLDS[int(np.argmax(ious))]
    pictures["thresholds.png"] = draw_thresholds(validation.THRESHOLDS, ious, best)
    return pictures, {"best_threshold": best, "iou_by_threshold": ious}


def draw(segmenter: Segmenter, volumes: Iterable[CaseVolume], preset: Preset) -> dict[str, bytes]:
    """PNG and GIF by file name: the pictures that the preset asks for, of the first few cases."""
    pictures: dict[str, bytes] = {}
    for volume in itertools.islice(volumes, SHOWN):
        found = segmenter.probabilities(volume)
        pictures |= gallery.draw(volume, found.numpy(), segmenter.labels(volume, found), preset)
    return pictures
