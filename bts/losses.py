"""Losses on overlapping tumour regions, each region a sigmoid of its own. Axes: B batch, R region, H, W."""

from functools import reduce

import torch
from torch.nn import functional

from bts.metrics import REGIONS
from bts.presets import Loss


def region_targets(mask_BHW: torch.Tensor) -> torch.Tensor:
    """Internal labels (B, H, W) → float32 (B, R, H, W), 1 inside the region, in the order of REGIONS."""
    # Comparisons of bytes: torch.isin takes eight times as long, a twentieth of a training step.
    regions = [reduce(torch.logical_or, (mask_BHW == n for n in labels)) for labels in REGIONS.values()]
    return torch.stack(regions, dim=1).float()


def soft_dice(logits_BRHW: torch.Tensor, targets_BRHW: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    """1 - soft Dice, a mean over regions; each region's sums run over the whole batch.

    One sum a batch, for a region is absent from many slices and a slice's own Dice would then be all noise
    (Isensee et al. 2021, nnU-Net's batch Dice).
    """
    probabilities = logits_BRHW.sigmoid()
    overlap = (probabilities * targets_BRHW).sum(dim=(0, 2, 3))
    total = probabilities.sum(dim=(0, 2, 3)) + targets_BRHW.sum(dim=(0, 2, 3))
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def region_loss(logits_BRHW: torch.Tensor, mask_BHW: torch.Tensor, settings: Loss) -> torch.Tensor:
    """The preset's loss of logits against internal labels, a float32 scalar."""
    logits, targets = logits_BRHW.float(), region_targets(mask_BHW)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, targets)
    return settings.dice * soft_dice(logits, targets) + settings.bce * cross_entropy
