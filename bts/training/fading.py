"""Tumours that a set shows too rarely, made of those that it shows: on the batch's device, by its labels.

A core that does not enhance, and a tumour that hardly differs from the brain around it, are what a network
trained on a few dozen patients misses. Axes: B batch, C channel (modality), … space: (D, H, W) or (H, W).
"""

import torch
from torch.nn import functional

from bts.modalities import MODALITIES
from bts.settings import Augmentation
from bts.training.augment import by_chance

CORE, ENHANCING = 1, 3
HALO = 5
"""Voxels across of the window over which a label's border is softened: a scan blurs it as far."""
STRONGEST = 1.6
"""A fade is drawn up to here and cut at 1: 3 of 8 of the tumours chosen lose all of their enhancement."""
UNSEEN = 0.85
"""From this fade on (nearly half of those chosen) no reader sees enhancement: it is labelled as core."""
DIMMEST = {"t2": 0.9, "flair": 0.6}
"""Share of a tumour's own brightness that it loses at most. T2 varies most from scanner to scanner."""


def faded(
    images: torch.Tensor,
    mask: torch.Tensor,
    modalities: tuple[str, ...],
    settings: Augmentation,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (B, C, …) float32, z-scored over the brain, and labels (B, …) uint8 of BraTS, changed together.

    Neither input is changed. Modalities that the images lack stay out of it.
    """
    if not settings.dim and not settings.fade:
        return images, mask
    images = images.clone()  # in place from here
    if settings.dim:
        _dim_(images, mask, modalities, settings.dim, generator)
    if settings.fade:
        mask = _fade_(images, mask, modalities, settings.fade, generator)
    return images, mask


def _dim_(images, mask, modalities, chance: float, generator: torch.Generator) -> None:
    """Tumours of some cases nearer to the brain's mean, which is 0, where they are brighter than it."""
    tumour = _soft(mask > 0)
    for name, most in DIMMEST.items():
        strength = most * _strength(mask, chance, generator)
        if name in modalities:
            image = images[:, modalities.index(name)]
            image -= strength * tumour * image.clamp(min=0)


def _fade_(images, mask, modalities, chance: float, generator: torch.Generator) -> torch.Tensor:
    """T1ce of some cases nearer to T1 where the tumour enhances → the labels: enhancing tumour is core where
    none is left to see."""
    fade = (STRONGEST * _strength(mask, chance, generator)).clamp(max=1)
    plain, enhanced = (images[:, modalities.index(name)] for name in MODALITIES[:2])
    brighter = (enhanced - plain).clamp(min=0)
    enhanced -= fade * _soft(mask == ENHANCING) * brighter
    return torch.where((fade > UNSEEN) & (mask == ENHANCING), CORE, mask).to(mask.dtype)


def _soft(inside: torch.Tensor) -> torch.Tensor:
    """(B, …) bool → weights from 0 to 1: 1 inside, falling within the halo outside, in-plane."""
    flat = inside.float().reshape(-1, 1, *inside.shape[-2:])
    wide = functional.avg_pool2d(flat, HALO, stride=1, padding=HALO // 2)
    return torch.maximum(flat, (2 * wide).clamp(max=1)).view(inside.shape)


def _strength(mask: torch.Tensor, chance: float, generator: torch.Generator) -> torch.Tensor:
    """A case, (B, 1, …): uniform from 0 to 1 with this probability, otherwise 0."""
    shape = len(mask), *[1] * (mask.ndim - 1)
    drawn = torch.rand(shape, generator=generator, device=generator.device)
    return drawn * by_chance(shape, chance, generator)
