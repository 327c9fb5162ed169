"""One trial of jobs.tune: a training in a process of its own, reported at every validation."""

import os
import tempfile
from dataclasses import dataclass

import torch
from ray import tune
from ray.util.queue import Queue

from bts.errors import RunError, UsageError
from bts.model.device import pick_device
from bts.training import loop
from bts.training.plan import Plan, read_encoder
from bts.training.state import Progress, outcome, start
from jobs.workers.feed import Feed, read_here
from jobs.workers.rank import Job, validate
from jobs.workers.train import read_state, write_state


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a sweep."""

    number: int
    flags: list[str]
    """What it varies, as the command line of jobs.train takes it."""
    plan: Plan

    def __str__(self) -> str:
        return " ".join(self.flags) or "the preset as it is"


def run_trial(config: dict, jobs: list[Job], reports: Queue, cpus: int, device: str | None) -> None:
    """Train from the trial's last checkpoint on; Ray Tune ends the process where others did better."""
    try:
        train_trial(config, jobs, reports, cpus, device)
    except (RunError, UsageError) as error:  # such as a loss that is no number: again would be no better
        tune.report({"dice": 0.0, "percent": 100, "failure": str(error)})


def train_trial(config: dict, jobs: list[Job], reports: Queue, cpus: int, device: str | None) -> None:
    """One training, reported at every validation."""
    number = config["number"]
    job = jobs[number]
    if pick_device(device).type == "cpu":
        torch.set_num_threads(min(cpus, len(os.sched_getaffinity(0))))

    def on_epoch(progress: Progress) -> None:
        if progress.epoch not in progress.validations:
            return
        figures = {**progress.metrics, "dice": progress.best_score, "percent": round(100 * progress.share)}
        reports.put((number, progress.epoch, figures))
        with tempfile.TemporaryDirectory() as folder:
            write_state(progress, folder)
            tune.report(figures, checkpoint=tune.Checkpoint.from_directory(folder))

    feed = Feed(job, rank=0, world=1, read=read_here)
    loop.train(
        job.plan.preset,
        batches=feed.batches,
        validate=lambda segmenter: validate(job, segmenter, rank=0, world=1),
        on_epoch=on_epoch,
        checkpoint=read_state(tune.get_checkpoint()),
        encoder=read_encoder(job.plan.preset.layers.weights),
        device=device,
    )


def model_of(trial: Trial, checkpoint: tune.Checkpoint, sweep: str) -> bytes:
    """The model file of a trial, its best weights, as jobs.train would have written it."""
    progress = start(trial.plan.preset, torch.device("cpu"), read_state(checkpoint))
    return progress.model_file({**trial.plan.provenance(), **outcome(progress), "sweep": sweep})
