"""SegNet (Badrinarayanan et al. 2017, arXiv 1511.00561): no skips; unpooling puts each maximum back."""

import math

import torch
from torch import nn
from torch.nn import functional

from bts.model.nets.blocks import Parts, he
from bts.settings import Layers

POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}


class SegNet(nn.Module):
    """Images (B, inputs, …) → logits (B, outputs, …); every side a multiple of `layers.multiple`."""

    def __init__(self, inputs: int, outputs: int, dims: int, layers: Layers):
        super().__init__()
        parts, widths, self.dims = Parts(dims, layers), layers.widths, dims
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            above = widths[max(level - 1, 0)]
            self.encoder.append(nn.Sequential(*parts.two_convs(above if level else inputs, width, level)))
            self.decoder.insert(0, nn.Sequential(*parts.two_convs(width, above, level)))
        self.apply(he)
        self.head = parts.conv(widths[0], outputs, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *deeper = self.encoder
        x, places = first(x), []
        for level in deeper:
            x, place = POOL[self.dims](x, 2, return_indices=True)
            places.append(place)
            x = level(x)
        *deeper, last = self.decoder
        for level in deeper:
            x = unpool(level(x), places.pop())
        return self.head(last(x))


def unpool(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, C, …) → (B, C, … × 2): each value at its place, zeros elsewhere; bfloat16 included."""
    size = [2 * side for side in x.shape[2:]]
    empty = x.new_zeros(*x.shape[:2], math.prod(size))
    return empty.scatter(2, places.flatten(2), x.flatten(2)).unflatten(2, size)
