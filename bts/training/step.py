"""A step of a training: batches → losses → gradients → weights, and the rate at which they move.

Axes: B batch, C channel (modality), … space: (H, W), or (D, H, W) for volumes.
"""

import contextlib
import math

import torch
from torch import nn

from bts.model.device import autocast, channels_last
from bts.model.normalise import fill_background, normalise
from bts.model.targets import encode
from bts.settings import Preset
from bts.training.augment import augment
from bts.training.fading import faded
from bts.training.losses import total_loss
from bts.training.state import Progress

BATCH = ("images", "mask", "constants")  # what of a batch goes to the device


def train_step(
    progress: Progress,
    stepper: nn.Module,
    batches: list[dict],
    share: float,
    generator: torch.Generator,
    weight: float = 1.0,
) -> list[torch.Tensor]:
    """One optimiser step on the gradients of these batches → the loss of each.

    share: of the budget that is spent. weight: of each batch's gradient in this rank's sum, which DDP
    averages over the ranks; 0 for a rank that has no batch left.
    """
    settings = progress.preset.optimiser
    progress.lr = learning_rate(progress, share)
    for group in progress.optimiser.param_groups:
        group["lr"] = progress.lr
    progress.optimiser.zero_grad()
    # Of a rank that only keeps the others company: norms must not learn from a batch that was seen before.
    kept = [] if weight else [(buffer, buffer.clone()) for buffer in progress.network.buffers()]
    losses = []
    for left, batch in zip(reversed(range(len(batches))), batches, strict=True):
        # Ranks exchange gradients once a step, with the last batch of each.
        alone = getattr(stepper, "no_sync", contextlib.nullcontext) if left else contextlib.nullcontext
        with alone():
            loss = batch_loss(progress.preset, stepper, batch, generator)
            (loss * weight).backward()
        losses.append(loss.detach())
    for buffer, before in kept:
        buffer.copy_(before)
    if settings.clip:
        nn.utils.clip_grad_norm_(progress.network.parameters(), settings.clip)
    progress.optimiser.step()
    progress.step += 1
    if settings.ema:
        update_average(progress.average, progress.network, settings.ema, progress.step)
    return losses


def batch_loss(preset: Preset, stepper: nn.Module, batch: dict, generator: torch.Generator) -> torch.Tensor:
    """The loss of one batch, normalised and augmented on the device."""
    batch = _to(next(stepper.parameters()).device, batch)
    images = normalise(batch["images"], batch["constants"])
    images, mask = vary(images, batch["mask"], preset, generator)
    images = fill_background(images, batch["constants"], preset.normalisation)
    deepest = min(preset.size) // preset.layers.multiple if preset.volumetric else None
    with autocast(images.device, learned_side=deepest):
        logits = stepper(images.contiguous(memory_format=channels_last(images.ndim - 2)))
    return total_loss(logits, encode(mask, preset), preset.loss, preset.output)


def vary(
    images: torch.Tensor, mask: torch.Tensor, preset: Preset, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augmented images and labels; the slices of a stack, channels side by side, change together, and the
    labels of its middle slice are left."""
    near, settings = preset.sampling.neighbours, preset.augmentation
    deep = images.unflatten(1, (len(preset.modalities), 2 * near + 1)) if near else images
    deep, mask = faded(deep, mask, preset.modalities, settings, generator)
    if not near:
        return augment(deep, mask, settings, generator)
    deep, mask = augment(deep, mask[:, near : near + 1], settings, generator)
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
    decay = settings.decay * settings.decay_growth**progress.epoch
    return max(settings.floor, settings.lr * factor / (1 + decay * progress.step)) * warmup


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the running average towards the network; early steps count more, to forget the random start."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    floats = [(old, new) for old, new in pairs if old.is_floating_point()]
    torch._foreach_lerp_([old for old, _ in floats], [new for _, new in floats], weight)
    for old, new in pairs:
        if not old.is_floating_point():
            old.copy_(new)


def _to(device: torch.device, batch: dict) -> dict[str, torch.Tensor]:
    """Arrays or tensors of a batch → tensors on the device."""
    return {key: torch.as_tensor(batch[key]).to(device, non_blocking=True) for key in BATCH}
