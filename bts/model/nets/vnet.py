"""V-Net (Milletari et al. 2016, arXiv 1606.04797): residual stages of one to three 5×5×5 convolutions."""

import torch
from torch import nn

from bts.model.nets.blocks import Parts, he
from bts.settings import Layers


class VNet(nn.Module):
    """Images (B, inputs, …) → logits (B, outputs, …); every side a multiple of `layers.multiple`."""

    def __init__(self, inputs: int, outputs: int, dims: int, layers: Layers):
        super().__init__()
        parts, widths = Parts(dims, layers), layers.widths
        self.first = Stage(parts, inputs, widths[0], convs=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level in range(1, len(widths)):
            halve = parts.unit(widths[level - 1], widths[level], kernel=2, stride=2)
            self.down.append(nn.Sequential(*halve, *parts.dropout(level)))
            self.encoder.append(Stage(parts, widths[level], widths[level], convs=min(level + 1, 3)))
        below = widths[-1]
        for level in reversed(range(len(widths) - 1)):
            width, both = widths[level], 2 * widths[level]
            double = parts.transposed(below, width, bias=layers.norm == "none")
            after = [parts.norm(width), parts.activation(width), *parts.dropout(level)]
            self.up.append(nn.Sequential(double, *after))
            self.decoder.append(Stage(parts, both, both, convs=min(level + 1, 3)))
            below = both
        self.apply(he)
        self.head = parts.conv(below, outputs, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        skips = [x]
        for down, stage in zip(self.down, self.encoder, strict=True):
            x = stage(down(x))
            skips.append(x)
        skips.pop()
        for up, stage in zip(self.up, self.decoder, strict=True):
            x = stage(torch.cat([up(x), skips.pop()], dim=1))
        return self.head(x)


class Stage(nn.Module):
    """`convs` convolutions over 5 pixels a side, and the input added before the last activation:
    (B, inputs, …) → (B, width, …).
    """

    def __init__(self, parts: Parts, inputs: int, width: int, convs: int):
        super().__init__()
        ends = [inputs, *[width] * convs]
        layers = [layer for before in ends[:-1] for layer in parts.unit(before, width, kernel=5)]
        self.body, self.activation = nn.Sequential(*layers[:-1]), layers[-1]
        self.shortcut = nn.Identity() if inputs == width else parts.conv(inputs, width, kernel=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.shortcut(x) + self.body(x))
