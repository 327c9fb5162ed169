"""The time of a training: how much of its budget is spent, and when a checkpoint is due."""

import time

import torch
import torch.distributed as dist

from bts.training.state import Progress


class Clock:
    """The share of the budget that is spent, the same on every rank."""

    def __init__(self, progress: Progress, rank: int, world: int):
        self.progress, self.rank, self.world = progress, rank, world
        self.budget = progress.preset.budget
        self.device = next(progress.network.parameters()).device
        self.began = time.monotonic() - progress.seconds
        self.kept: float | None = None
        """When the last checkpoint of this epoch was due, or when it began."""

    def seconds(self) -> float:
        """Wall-clock seconds of training so far, earlier runs included; this rank's own clock."""
        return time.monotonic() - self.began

    def share(self, seconds: float) -> float:
        """Of the budget, 1 when spent: by rank 0's seconds or by whole epochs, whichever is further."""
        epochs, minutes = self.budget.epochs, self.budget.minutes
        by_epochs = self.progress.epoch / epochs if epochs else 0.0
        by_time = seconds / (60 * minutes) if minutes else 0.0
        return max(by_epochs, by_time)

    def minutes_left(self) -> float | None:
        """Until the budget is spent, as it goes now; None in a first epoch without a bound on minutes."""
        progress, seconds, known = self.progress, self.seconds(), []
        if self.budget.minutes:
            known.append(self.budget.minutes - seconds / 60)
        if self.budget.epochs and progress.epoch:
            steps = (progress.step - progress.begun.steps) / progress.epoch * self.budget.epochs
            known.append(seconds / 60 * (steps - progress.step) / progress.step)
        return max(0.0, min(known)) if known else None

    def agree(self, batches: int) -> tuple[int, float]:
        """(batches of all ranks together, rank 0's seconds): one small collective of all ranks."""
        if self.world == 1:
            return batches, self.seconds()
        mine = [float(batches), self.seconds() if self.rank == 0 else 0.0]
        shared = torch.tensor(mine, dtype=torch.float64).to(self.device)
        dist.all_reduce(shared)
        return int(shared[0].item()), shared[1].item()

    def is_due(self, seconds: float) -> bool:
        """Whether a checkpoint within the epoch is due at these seconds, of rank 0; says so once."""
        due = self.kept is not None and seconds - self.kept >= 60 * self.budget.checkpoint_minutes
        if due or self.kept is None:
            self.kept = seconds
        return due
