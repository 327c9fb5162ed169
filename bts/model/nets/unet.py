"""U-Net in 2D (Ronneberger et al. 2015, arXiv 1505.04597) and 3D (Çiçek et al. 2016, arXiv 1606.06650).

It may work at a fraction of the input's resolution: `stem` folds neighbouring voxels into channels (Shi et
al. 2016, arXiv 1609.05158), and the head unfolds its channels into voxels again.
"""

import torch
from torch import nn

from bts.model.device import as_autocast, channels_last
from bts.model.nets.blocks import Parts, add_up, he
from bts.settings import Layers


class Encoder(nn.Module):
    """The way down: (B, inputs, …) → a list of features, finest first; level l is (B, widths[l], … / 2^l)."""

    def __init__(self, parts: Parts, inputs: int):
        super().__init__()
        widths = parts.layers.widths
        self.levels = nn.ModuleList([nn.Sequential(*parts.two_convs(inputs, widths[0], level=0))])
        for level in range(1, len(widths)):
            before, width = widths[level - 1 : level + 1]
            if parts.layers.down == "stride":
                layers = parts.two_convs(before, width, level, stride=2)
            else:
                layers = [*parts.pool(before, level), *parts.two_convs(before, width, level)]
            self.levels.append(nn.Sequential(*layers))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


class UNet(nn.Module):
    """Images (B, inputs, …) → logits (B, outputs, …); every side a multiple of `layers.multiple`."""

    def __init__(self, inputs: int, outputs: int, dims: int, layers: Layers):
        super().__init__()
        parts, widths = Parts(dims, layers), layers.widths
        self.stem, fold = layers.stem, layers.stem**dims
        self.encoder = Encoder(parts, inputs * fold)
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths) - 1)):
            width = widths[level]
            self.up.append(parts.transposed(widths[level + 1], width, layers.up))
            first = parts.dropout(level) if layers.place == "level" else []
            self.decoder.append(nn.Sequential(*first, *parts.two_convs(2 * width, width, level)))
        if layers.norm == "none" or layers.place == "level":
            self.apply(he)  # elsewhere the normalisation takes the scale of the weights out again
        # One head on the levels' concatenation is the sum of a head a level, which needs no such memory.
        seen = widths[::-1] if layers.hypercolumns else widths[:1]
        self.heads = nn.ModuleList(parts.conv(width, outputs * fold, kernel=1) for width in seen)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stem > 1:
            x = fold(as_autocast(x), self.stem)  # half the bytes to move; a convolution would round them too
        *skips, x = self.encoder(x)
        features = [x]
        for index, (up, level) in enumerate(zip(self.up, self.decoder, strict=True)):
            x = level(torch.cat([up(x), self.skip(index, skips.pop(), x)], dim=1))
            features.append(x)
        seen = features[-len(self.heads) :]
        logits = add_up([head(x) for head, x in zip(self.heads, seen, strict=True)])
        return unfold(logits, self.stem) if self.stem > 1 else logits

    def skip(self, index: int, skip: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        """What the decoder's block `index` sees of the encoder's `skip`; `below` is its other input."""
        return skip


def fold(x: torch.Tensor, n: int) -> torch.Tensor:
    """(B, C, …) → (B, C·n^dims, … / n): blocks of n voxels along each axis become channels."""
    sides, dims = x.shape[2:], x.ndim - 2
    blocks = x.reshape(*x.shape[:2], *(part for side in sides for part in (side // n, n)))
    # (B, C, H/n, n, W/n, n) → (B, C, n, n, H/n, W/n)
    within, across = range(3, 3 + 2 * dims, 2), range(2, 2 + 2 * dims, 2)
    folded = blocks.permute(0, 1, *within, *across).flatten(1, 1 + dims)
    return folded.contiguous(memory_format=channels_last(dims))


def unfold(x: torch.Tensor, n: int) -> torch.Tensor:
    """What `fold` undoes: (B, K·n^dims, …) → (B, K, … · n)."""
    sides, dims = x.shape[2:], x.ndim - 2
    blocks = x.unflatten(1, (-1, *[n] * dims))
    order = (place for axis in range(dims) for place in (2 + dims + axis, 2 + axis))
    return blocks.permute(0, 1, *order).reshape(x.shape[0], -1, *(side * n for side in sides))
