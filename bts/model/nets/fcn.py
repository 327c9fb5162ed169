"""FCN-8s (Long et al. 2015, arXiv 1411.4038): scores of the three coarsest levels, enlarged and added."""

import torch
from torch import nn

from bts.model.nets.blocks import Parts, add_up, enlarge, he
from bts.model.nets.unet import Encoder
from bts.settings import Layers


class FCN(nn.Module):
    """Images (B, inputs, …) → logits (B, outputs, …); every side a multiple of `layers.multiple`."""

    def __init__(self, inputs: int, outputs: int, dims: int, layers: Layers):
        super().__init__()
        parts = Parts(dims, layers)
        self.encoder = Encoder(parts, inputs).apply(he)
        coarsest = layers.widths[:-4:-1]
        self.heads = nn.ModuleList(parts.conv(width, outputs, kernel=1) for width in coarsest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.encoder(x)[:-4:-1]
        scores = [head(feature) for head, feature in zip(self.heads, features, strict=True)]
        return enlarge(add_up(scores), x.shape[2:])
