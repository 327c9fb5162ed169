"""The training loop: one process or DDP, no Ray inside.

The caller feeds batches and validates; the loop owns the network, its average, the optimiser and the clock.
Axes: B batch, C channel (modality), … space: (H, W), or (D, H, W) for volumes.
"""

import math
import time
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import nn

from bts.augment import augment
from bts.device import autocast, channels_last, pick_device
from bts.errors import RunError
from bts.inference import Segmenter
from bts.losses import total_loss
from bts.normalise import finish, normalise
from bts.progress import Progress, start
from bts.settings import Preset
from bts.targets import encode

CHECK_EVERY = 16
"""Steps between looks at the loss: each look makes the CPU wait for a GPU."""


def train(
    preset: Preset,
    *,
    batches: Callable[[int], Iterable[dict]],
    on_epoch: Callable[[Progress], None],
    validate: Callable[[Segmenter], dict[str, float]] | None = None,
    checkpoint: bytes | None = None,
    encoder: bytes | None = None,
    device: str | torch.device | None = None,
    rank: int = 0,
    world: int = 1,
) -> Progress:
    """Train until the budget is spent.

    batches(epoch): this rank's batches of one epoch, dicts of arrays or tensors as bts.sampling.collate makes
      them: images, mask, constants. Ranks may have uneven numbers.
    validate(segmenter) → figures; those named "dice/…" judge the weights, the higher the better. Rank 0's
      count, others may pass None.
    on_epoch(progress): called by every rank after every epoch.
    encoder: pretrained weights of encoder_unet's encoder, the bytes of a .safetensors file.
    checkpoint: `Progress.state()` to go on from. With world > 1 torch.distributed must be initialised.
    Equal seeds and batches give equal losses. Raises RunError when the loss is not finite.
    """
    progress = start(preset, pick_device(device), checkpoint, encoder)
    clock = Clock(progress, world)
    stepper = nn.parallel.DistributedDataParallel(progress.network) if world > 1 else progress.network
    progress.done = clock.share() >= 1 or progress.stalled
    while not progress.done:  # asked once an epoch: the one that ends the budget is validated
        run_epoch(progress, stepper, batches(progress.epoch), clock, rank)
        progress.done = clock.share() >= 1
        if progress.done or progress.epoch % preset.budget.validate_every == 0:
            _validate(progress, validate, world)
        progress.done |= progress.stalled
        progress.seconds = clock.seconds()
        on_epoch(progress)
    return progress


def run_epoch(
    progress: Progress, stepper: nn.Module, batches: Iterable[dict], clock: "Clock", rank: int
) -> None:
    """One pass over the batches, or what of it the budget allows (at least a step); updates the progress."""
    device = next(progress.network.parameters()).device
    # A generator of the epoch's own: a resumed run draws the same.
    seed = (progress.preset.seed * 1_000_003 + progress.epoch) * 1009 + rank
    generator = torch.Generator(device).manual_seed(seed)
    torch.manual_seed(seed)  # of dropout
    stepper.train()
    losses, samples, waited, began = [], 0, 0.0, time.perf_counter()
    batches = iter(batches)
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        exhausted, seconds = clock.agree(batch is None)
        share = clock.share(seconds)
        if exhausted or (losses and share >= 1):
            break
        losses.append(train_step(progress, stepper, _to(device, batch), share, generator))
        samples += len(batch["mask"])
        if len(losses) % CHECK_EVERY == 0:
            _check(losses[-CHECK_EVERY:], progress)
    if not losses:
        raise RunError(f"epoch {progress.epoch + 1} has no batch; give more cases or a smaller --batch")
    _check(losses[-CHECK_EVERY:], progress)
    progress.epoch += 1
    took = time.perf_counter() - began
    progress.losses.append(torch.stack(losses).mean().item())
    progress.rates.append(progress.lr)
    progress.metrics = {
        "loss": progress.losses[-1],
        "lr": progress.lr,
        "samples_per_second": samples / took,
        "wait_share": waited / took,
    }


def train_step(progress: Progress, stepper: nn.Module, batch: dict, share: float, generator) -> torch.Tensor:
    """One optimiser step on one batch → its loss. share: of the budget that is spent."""
    preset = progress.preset
    settings = preset.optimiser
    images = normalise(batch["images"], batch["constants"])
    images, mask = vary(images, batch["mask"], preset, generator)
    images = finish(images, batch["constants"], preset.normalisation)
    progress.lr = learning_rate(progress, share)
    for group in progress.optimiser.param_groups:
        group["lr"] = progress.lr
    with autocast(images.device, volumes_learn=preset.volumetric):
        logits = stepper(images.contiguous(memory_format=channels_last(images.ndim - 2)))
    loss = total_loss(logits, encode(mask, preset), preset.loss, preset.output)
    progress.optimiser.zero_grad()
    loss.backward()
    if settings.clip:
        nn.utils.clip_grad_norm_(progress.network.parameters(), settings.clip)
    progress.optimiser.step()
    progress.step += 1
    if settings.ema:
        update_average(progress.average, progress.network, settings.ema, progress.step)
    return loss.detach()


def vary(images: torch.Tensor, mask: torch.Tensor, preset: Preset, generator) -> tuple:
    """Augmented images and labels; the slices of a stack, channels side by side, change together."""
    near = preset.sampling.neighbours
    if not near:
        return augment(images, mask, preset.augmentation, generator)
    deep = images.unflatten(1, (len(preset.modalities), 2 * near + 1))
    deep, mask = augment(deep, mask[:, None], preset.augmentation, generator)
    return deep.flatten(1, 2), mask[:, 0]


def learning_rate(progress: Progress, share: float) -> float:
    """Of the next step; share: of the budget that is spent."""
    settings = progress.preset.optimiser
    left = max(0.0, 1 - share)
    factor = {
        "constant": 1.0,
        "poly": left**settings.power,
        "cosine": (1 - math.cos(math.pi * left)) / 2,
        "plateau": settings.factor**progress.falls,
        "epoch": settings.factor**progress.epoch,
    }[settings.schedule]
    warmup = min(1.0, (progress.step + 1) / max(1, settings.warmup))
    return max(settings.floor, settings.lr * factor / (1 + settings.decay * progress.step)) * warmup


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the running average towards the network; early steps count more, to forget the random start."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, weight)
        else:
            old.copy_(new)


class Clock:
    """The share of the budget that is spent, the same on every rank."""

    def __init__(self, progress: Progress, world: int):
        self.progress, self.world, self.budget = progress, world, progress.preset.budget
        self.device = next(progress.network.parameters()).device
        self.began = time.monotonic() - progress.seconds

    def seconds(self) -> float:
        """Wall-clock seconds of training so far, earlier runs included; this rank's own clock."""
        return time.monotonic() - self.began

    def share(self, seconds: float | None = None) -> float:
        """Of the budget, 1 when spent: by rank 0's time or by whole epochs, whichever is further."""
        if seconds is None:
            seconds = self.agree(False)[1]
        epochs, minutes = self.budget.epochs, self.budget.minutes
        by_epochs = self.progress.epoch / epochs if epochs else 0.0
        by_time = seconds / (60 * minutes) if minutes else 0.0
        return max(by_epochs, by_time)

    def agree(self, exhausted: bool) -> tuple[bool, float]:
        """(whether any rank has no more batches, rank 0's seconds): one small collective of all ranks."""
        if self.world == 1:
            return exhausted, self.seconds()
        mine = torch.tensor([float(exhausted), self.seconds() if dist.get_rank() == 0 else 0.0])
        shared = mine.double().to(self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return bool(shared[0].item()), shared[1].item()


def _validate(progress: Progress, validate: Callable | None, world: int) -> None:
    """Figures of the averaged weights on held-out patients: rank 0's, shared with all."""
    figures = validate(progress.segmenter()) if validate else None
    if world > 1:
        shared = [figures]
        dist.broadcast_object_list(shared, src=0)
        figures = shared[0]
    if not figures:
        return
    progress.validations[progress.epoch] = figures
    progress.metrics.update(figures)
    dice = [value for name, value in figures.items() if name.startswith("dice/")]
    progress.judge(sum(dice) / len(dice))


def _check(losses: list[torch.Tensor], progress: Progress) -> None:
    """Raise RunError that names the first of the latest losses that is not finite."""
    for back, value in enumerate(torch.stack(losses).tolist()):
        if not math.isfinite(value):
            step = progress.step - len(losses) + back + 1
            raise RunError(
                f"the loss became {value} in epoch {progress.epoch + 1} at step {step}; "
                "try a lower --optimiser.lr"
            )


def _to(device: torch.device, batch: dict) -> dict[str, torch.Tensor]:
    """Arrays or tensors of a batch → tensors on the device."""
    keys = ("images", "mask", "constants")
    return {key: torch.as_tensor(batch[key]).to(device, non_blocking=True) for key in keys}
