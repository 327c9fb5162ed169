"""A training without Ray: one worker, in this process. Not a command."""

from functools import partial

import torch

from bts.errors import RunError, UsageError
from bts.model.device import pick_device
from bts.storage import Store
from bts.training.state import Progress, furthest
from jobs.driver import machine
from jobs.driver.plans import Asked
from jobs.driver.progress import hand_over
from jobs.workers import rank
from jobs.workers.feed import Feed, read_here

NEWEST = 2  # checkpoints of Ray's that are looked at: it may have been killed while it wrote the last


def fit(job: rank.Job, settings: Asked, checkpoints: Store, on_report: rank.OnReport) -> dict:
    """Train in this process, from the newest checkpoint on, Ray's or its own → what rank 0 has made.

    Raises UsageError for a GPU that this machine does not have, RunError after Ctrl-C.
    """
    device = device_of(settings.gpu)
    if device.type == "cpu":
        torch.set_num_threads(machine.cores())

    def keep(progress: Progress, figures: dict, name: str) -> None:
        checkpoints.put(rank.ALONE, progress.state())

    batches, report = Feed(job, 0, 1, read_here).batches, partial(hand_over, on_report)
    try:
        return rank.train(job, batches, report, keep, checkpoint=newest(checkpoints), device=device)
    except KeyboardInterrupt:
        raise RunError("stopped; the same command goes on at the last epoch") from None


def newest(checkpoints: Store) -> bytes | None:
    """What has been done of a training, by Ray or without. Raises RunError where it cannot be read."""
    by_ray = [entry.key for entry in checkpoints.list() if entry.key.endswith(f"/{rank.STATE}")]
    try:
        return furthest([rank.read_alone(checkpoints), *map(checkpoints.read, by_ray[-NEWEST:])])
    except OSError as error:
        raise RunError(f"{checkpoints.uri}: a checkpoint cannot be read: {error}") from error


def device_of(gpu: str) -> torch.device:
    """Where `--gpu` says that it trains. Raises UsageError for a GPU that this machine does not have."""
    if gpu == "yes" and not torch.cuda.is_available():
        raise UsageError("--gpu yes: this machine has 0 GPUs for 1 workers")
    return pick_device("cpu" if gpu == "no" else None)
