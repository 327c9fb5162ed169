"""What a network predicts: labels of the project ↔ its output channels.

Axes: B batch, K target, … space: (H, W) or (D, H, W).
"""

from collections.abc import Sequence
from functools import reduce

import torch

from bts.errors import UsageError
from bts.labels import PAINT, TARGETS
from bts.model.card import Predicts
from bts.settings import Preset

REGIONAL, LABELS = Predicts("regions", "sigmoid"), Predicts("labels", "softmax")


def outputs(preset: Preset) -> int:
    """Output channels of the network: one a target, and background first under softmax."""
    return targets_of(preset) + (preset.output == "softmax")


def targets_of(preset: Preset) -> int:
    """Targets of the network: its outputs without the background."""
    return len(TARGETS[preset.targets])


def encode(mask: torch.Tensor, preset: Preset) -> torch.Tensor:
    """Labels (B, …) uint8 → float32 (B, outputs, …), 1 where the channel's target is."""
    # Comparisons of bytes: torch.isin takes eight times as long, a twentieth of a training step.
    targets = TARGETS[preset.targets].values()
    found = [reduce(torch.logical_or, (mask == label for label in labels)) for labels in targets]
    if preset.output == "softmax":
        found.insert(0, ~reduce(torch.logical_or, found))
    return torch.stack(found, dim=1).float()


def probabilities(logits: torch.Tensor, preset: Preset) -> torch.Tensor:
    """Logits (B, outputs, …) → float32 (B, K, …), a probability a target; background is what is left of 1."""
    logits = logits.float()
    return logits.softmax(dim=1)[:, 1:] if preset.output == "softmax" else logits.sigmoid()


def decode(probabilities_KDHW: torch.Tensor, predicts: Predicts | Preset, threshold: float) -> torch.Tensor:
    """Probabilities (K, D, H, W) → uint8 (D, H, W) labels of the project; 1 is any tumour for `tumour`."""
    targets = TARGETS[predicts.targets]
    if predicts.targets == "regions":
        labels = probabilities_KDHW.new_zeros(probabilities_KDHW.shape[1:], dtype=torch.uint8)
        for region, label in PAINT.items():
            labels.masked_fill_(probabilities_KDHW[list(targets).index(region)] > threshold, label)
        return labels
    highest, winner = probabilities_KDHW.max(dim=0)
    rest = 1 - probabilities_KDHW.sum(dim=0)
    sure = highest > (rest if predicts.output == "softmax" else threshold)
    return torch.where(sure, winner + 1, 0).to(torch.uint8)


def common(several: Sequence[Predicts]) -> Predicts:
    """What probabilities of several kinds can all be averaged as: exclusive labels add up to regions.

    Raises UsageError where there is no such thing.
    """
    kinds = set(several)
    if len(kinds) == 1:
        return several[0]
    if kinds == {LABELS, REGIONAL}:
        return REGIONAL
    said = ", ".join(sorted(map(str, kinds)))
    raise UsageError(f"the models predict different targets: {said}; give one kind")


def converted(probabilities_KDHW: torch.Tensor, of: Predicts, wanted: Predicts) -> torch.Tensor:
    """Probabilities of one kind as those of another, which `common` gave."""
    if of == wanted:
        return probabilities_KDHW
    order = list(TARGETS[of.targets].values())
    parts = [[order.index((label,)) for label in labels] for labels in TARGETS[wanted.targets].values()]
    return torch.stack([probabilities_KDHW[channels].sum(dim=0) for channels in parts])
