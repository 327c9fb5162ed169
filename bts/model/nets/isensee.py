"""3D U-Net of Isensee et al. 2018 (arXiv 1802.10508), winner of third place at BraTS 2017; in 2D as well."""

import torch
from torch import nn

from bts.model.nets.blocks import Parts, PreActivation, add_up, he
from bts.settings import Layers

DROPOUT = {2: nn.Dropout2d, 3: nn.Dropout3d}


class IsenseeUNet(nn.Module):
    """Images (B, inputs, …) → logits (B, outputs, …); every side a multiple of `layers.multiple`.

    Deep supervision: the logits are the sum of those of the three finest levels, enlarged.
    """

    def __init__(self, inputs: int, outputs: int, dims: int, layers: Layers):
        super().__init__()
        parts, widths = Parts(dims, layers), layers.widths
        self.down, self.context = nn.ModuleList(), nn.ModuleList()
        self.up, self.localisation = nn.ModuleList(), nn.ModuleList()
        for level, (before, width) in enumerate(zip((inputs, *widths), widths, strict=False)):
            self.down.append(parts.conv(before, width, stride=2 if level else 1))
            self.context.append(PreActivation(parts, width, width, _dropout(parts, level)))
        for level in reversed(range(len(widths) - 1)):
            width, twice = widths[level], nn.Upsample(scale_factor=2)
            self.up.append(nn.Sequential(twice, *parts.unit(widths[level + 1], width)))
            mix = [*parts.unit(2 * width, width), *parts.unit(width, width, kernel=1)]
            self.localisation.append(nn.Sequential(*mix))
        self.apply(he)
        self.heads = nn.ModuleList(parts.conv(width, outputs, kernel=1) for width in widths[2::-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for down, context in zip(self.down, self.context, strict=True):
            x = context(down(x))
            skips.append(x)
        features = [skips.pop()]
        for up, localisation in zip(self.up, self.localisation, strict=True):
            features.append(localisation(torch.cat([skips.pop(), up(features[-1])], dim=1)))
        finest = features[-len(self.heads) :]
        return add_up([head(x) for head, x in zip(self.heads, finest, strict=True)])


def _dropout(parts: Parts, level: int) -> list[nn.Module]:
    """Dropout of whole channels with the level's share."""
    share = parts.layers.dropout[level] if parts.layers.dropout else 0
    return [DROPOUT[parts.dims](share)] if share else []
