"""Losses of logits against targets that may overlap (output sigmoid) or exclude each other (softmax).

Axes: B batch, K output channel, … space: (H, W) or (D, H, W), N its pixels in a row.
"""

import functools
import operator

import torch
from torch.nn import functional

from bts.settings import Loss


def total_loss(logits: torch.Tensor, targets: torch.Tensor, settings: Loss, output: str) -> torch.Tensor:
    """Weighted sum of the terms whose weight is not 0: a float32 scalar, float64 of float64 logits.

    logits (B, K, …) of any float type. targets (B, K, …), 1 where a channel's target is: in any number of
    channels under "sigmoid", in exactly one under "softmax", whose first is the background.
    Raises ValueError for class_weights that are not one a channel, and for a term of the other output.
    """
    exclusive = output == "softmax"
    weights = _class_weights(logits, settings, output)
    # contiguous: networks answer channels last, the targets are not, and mixed they take half as long again.
    logits = logits.flatten(2).contiguous().to(torch.promote_types(logits.dtype, torch.float32))
    targets = targets.flatten(2).to(logits.dtype)
    probabilities = logits.softmax(dim=1) if exclusive else logits.sigmoid()
    terms = []
    if settings.dice:
        terms.append(settings.dice * dice(probabilities, targets, settings.smooth))
    if settings.generalised_dice:
        terms.append(settings.generalised_dice * generalised_dice(probabilities, targets))
    if entropy := settings.ce if exclusive else settings.bce:
        terms.append(entropy * cross_entropy(logits, targets, weights, exclusive))
    if settings.focal:
        terms.append(settings.focal * focal(logits, probabilities, targets, weights, exclusive))
    if settings.lovasz:
        term = lovasz_softmax(probabilities, targets) if exclusive else lovasz_hinge(logits, targets)
        terms.append(settings.lovasz * term)
    return functools.reduce(operator.add, terms)


def dice(probabilities_BKN, targets_BKN, smooth: float = 1.0) -> torch.Tensor:
    """1 - soft Dice, a mean over channels; each channel's sums run over the whole batch.

    One sum a batch, for a region is absent from many slices and a slice's own Dice would then be all noise
    (Isensee et al. 2021, nnU-Net's batch Dice).
    """
    overlap = (probabilities_BKN * targets_BKN).sum(dim=(0, 2))
    total = probabilities_BKN.sum(dim=(0, 2)) + targets_BKN.sum(dim=(0, 2))
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def generalised_dice(probabilities_BKN, targets_BKN, epsilon: float = 1e-6) -> torch.Tensor:
    """1 - Dice of all channels together over the batch, each weighed by 1 / size² (Sudre et al. 2017).

    The paper's formula gives a channel that is absent 1 / ε, beside which no other counts: here it has the
    weight of the smallest channel present.
    """
    overlap = (probabilities_BKN * targets_BKN).sum(dim=(0, 2))
    size = targets_BKN.sum(dim=(0, 2))
    total = probabilities_BKN.sum(dim=(0, 2)) + size
    # Relative to the smallest, for a size squared is too much for the sums' precision; ∞ if none is present.
    smallest = size.masked_fill(size == 0, torch.inf).min()
    weights = torch.where(size > 0, smallest / size, 1.0) ** 2
    return 1 - (2 * (weights * overlap).sum() + epsilon) / ((weights * total).sum() + epsilon)


def cross_entropy(logits_BKN, targets_BKN, weights_K1, exclusive: bool) -> torch.Tensor:
    """Binary cross-entropy, a mean over channels and pixels; or categorical, a mean over pixels.

    Categorical, the weighted cross-entropy of Kermi et al. 2018: the mean of Σ w y (-log p). Torch divides by
    the pixels' weights instead of their number.
    """
    return _mean(_surprise(logits_BKN, targets_BKN, weights_K1, exclusive), exclusive)


def focal(logits_BKN, probabilities_BKN, targets_BKN, weights_K1, exclusive: bool) -> torch.Tensor:
    """Cross-entropy × (1 - probability of what is true)², so that easy pixels hardly count (Lin et al. 2017).

    γ is the paper's 2; its α is class_weights' work.
    """
    missed = (targets_BKN - probabilities_BKN) ** 2
    return _mean(missed * _surprise(logits_BKN, targets_BKN, weights_K1, exclusive), exclusive)


def lovasz_hinge(logits_BKN, targets_BKN) -> torch.Tensor:
    """Lovász extension of 1 - IoU on hinge errors, a mean over channels (Berman et al. 2018)."""
    errors = functional.relu(1 - logits_BKN * (2 * targets_BKN - 1))
    return _lovasz(errors, targets_BKN).mean()


def lovasz_softmax(probabilities_BKN, targets_BKN) -> torch.Tensor:
    """Lovász extension of 1 - IoU, a mean over the channels present in the batch (Berman et al. 2018)."""
    losses = _lovasz((targets_BKN - probabilities_BKN).abs(), targets_BKN)
    present = targets_BKN.amax(dim=(0, 2))
    return (losses * present).sum() / present.sum()


def _lovasz(errors_BKN, targets_BKN) -> torch.Tensor:
    """Sum of each channel's errors over the batch, largest first, times what each adds to 1 - IoU, (K,)."""
    errors, order = errors_BKN.transpose(0, 1).flatten(1).sort(dim=1, descending=True)
    truth = targets_BKN.transpose(0, 1).flatten(1).gather(1, order)
    size = truth.sum(dim=1, keepdim=True)
    overlap = size - truth.cumsum(dim=1)
    union = size + (1 - truth).cumsum(dim=1)
    # In closed form: differences of neighbouring IoU would be lost in the rounding of large images.
    steps = torch.where(truth > 0, 1 / union, overlap / (union * (union - 1)))
    # 0 / 0 is the first error in a channel without truth: IoU falls from 1 to 0 with it.
    return (errors * steps.nan_to_num(nan=1.0)).sum(dim=1)


def _surprise(logits_BKN, targets_BKN, weights_K1, exclusive: bool) -> torch.Tensor:
    """-log of the probability of what is true, times the weights, (B, K, N); softmax: in the true channel."""
    if exclusive:
        surprise = -targets_BKN * logits_BKN.log_softmax(dim=1)
    else:
        surprise = functional.binary_cross_entropy_with_logits(logits_BKN, targets_BKN, reduction="none")
    return surprise if weights_K1 is None else weights_K1 * surprise


def _mean(values_BKN, exclusive: bool) -> torch.Tensor:
    """Mean over pixels, and over channels unless they are one distribution."""
    # Not .mean(): its gradient is an image of equal values, that of .sum() a number.
    return values_BKN.sum() / (values_BKN[:, 0] if exclusive else values_BKN).numel()


def _class_weights(logits, settings: Loss, output: str) -> torch.Tensor | None:
    """The settings' weights, (K, 1), None where all are 1. Raises ValueError for settings that do not fit."""
    other = "bce" if output == "softmax" else "ce"
    if getattr(settings, other):
        raise ValueError(f"loss.{other} and output {output} do not go together")
    weights, channels = settings.class_weights, logits.shape[1]
    if not weights:
        return None
    if len(weights) != channels:
        raise ValueError(f"loss.class_weights has {len(weights)} values for {channels} {output} channels")
    return torch.tensor(weights, device=logits.device)[:, None]
