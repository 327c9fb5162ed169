"""Residual U-Net of Kermi et al. 2018 (BrainLes, LNCS 11384): pre-activation units, no pooling."""

import torch
from torch import nn

from bts.model.nets.blocks import Parts, PreActivation, he
from bts.settings import Layers


class ResidualUNet(nn.Module):
    """Images (B, inputs, …) → logits (B, outputs, …); every side a multiple of `layers.multiple`."""

    def __init__(self, inputs: int, outputs: int, dims: int, layers: Layers):
        super().__init__()
        parts, widths = Parts(dims, layers), layers.widths
        self.down = nn.ModuleList([_first(parts, inputs, widths[0])])
        self.encoder = nn.ModuleList([PreActivation(parts, widths[0], widths[0], parts.dropout(0))])
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level in range(1, len(widths)):
            before, width = widths[level - 1 : level + 1]
            self.down.append(parts.conv(before, width, kernel=2, stride=2))
            self.encoder.append(PreActivation(parts, width, width, parts.dropout(level)))
        for level in reversed(range(len(widths) - 1)):
            width, between = widths[level], parts.dropout(level)
            self.up.append(_double(parts, widths[level + 1], width))
            self.decoder.append(PreActivation(parts, 2 * width, width, between))
        self.last = nn.Sequential(parts.norm(widths[0]), parts.activation(widths[0]))
        self.apply(he)
        self.head = parts.conv(widths[0], outputs, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for down, level in zip(self.down, self.encoder, strict=True):
            x = level(down(x))
            skips.append(x)
        skips.pop()
        for up, level in zip(self.up, self.decoder, strict=True):
            x = level(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(self.last(x))


def _first(parts: Parts, inputs: int, width: int) -> nn.Module:
    """The convolution that takes the images in."""
    if parts.layers.first == 2:
        return nn.Sequential(*parts.even_conv(inputs, width))
    return parts.conv(inputs, width)


def _double(parts: Parts, inputs: int, width: int) -> nn.Sequential:
    """Twice the size by repetition, then a convolution over 2 pixels a side."""
    return nn.Sequential(nn.Upsample(scale_factor=2), *parts.even_conv(inputs, width))
