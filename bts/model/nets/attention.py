"""Attention U-Net (Oktay et al. 2018, arXiv 1804.03999): a U-Net that weighs what its skips pass on."""

import torch
from torch import nn

from bts.model.nets.blocks import Parts, enlarge
from bts.model.nets.unet import UNet
from bts.settings import Layers


class AttentionUNet(UNet):
    """Images (B, inputs, …) → logits (B, outputs, …); every side a multiple of `layers.multiple`."""

    def __init__(self, inputs: int, outputs: int, dims: int, layers: Layers):
        super().__init__(inputs, outputs, dims, layers)
        parts, widths = Parts(dims, layers), layers.widths
        levels = reversed(range(len(widths) - 1))
        self.gates = nn.ModuleList(Gate(parts, widths[level], widths[level + 1]) for level in levels)

    def skip(self, index: int, skip: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        return self.gates[index](skip, below)


class Gate(nn.Module):
    """Additive attention: a skip (B, width, …), times weights from 0 to 1, one a pixel, that the skip and the
    level below it (B, below, … / 2) agree on → (B, width, …).
    """

    def __init__(self, parts: Parts, width: int, below: int):
        super().__init__()
        self.skip = parts.conv(width, width, kernel=2, stride=2, bias=False)
        self.below = parts.conv(below, width, kernel=1)
        self.weight = parts.conv(width, 1, kernel=1)

    def forward(self, skip: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        weights = self.weight(torch.relu(self.skip(skip) + self.below(below))).sigmoid()
        return skip * enlarge(weights, skip.shape[2:])
