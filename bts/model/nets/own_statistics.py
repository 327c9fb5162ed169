"""Batch normalisation by what it sees: scans of another scanner are normed as they are."""

import copy
from typing import Any

import torch
from torch import nn

EVERY = 2  # voxels along each axis: an eighth of a volume tells mean and variance as well as all of it


class OwnStatistics(nn.Module):
    """A trained batch normalisation whose mean and variance are in part those of what it sees."""

    def __init__(self, norm: nn.BatchNorm2d | nn.BatchNorm3d, share: float):
        super().__init__()
        self.norm, self.share = norm, share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, …) → the same shape; each item of the batch by itself."""
        norm, sides = self.norm, [1] * (x.ndim - 2)
        thinned: tuple[Any, ...] = (..., *[slice(None, None, EVERY)] * len(sides))
        seen = x[thinned].float().flatten(2)
        variance, mean = torch.var_mean(seen, dim=2, correction=0)
        assert norm.running_mean is not None and norm.running_var is not None
        mean = torch.lerp(norm.running_mean.expand_as(mean), mean, self.share)
        variance = torch.lerp(norm.running_var.expand_as(variance), variance, self.share)
        scale = norm.weight * (variance + norm.eps).rsqrt()
        shift = norm.bias - mean * scale
        return x * scale.view(*mean.shape, *sides).to(x.dtype) + shift.view(*mean.shape, *sides).to(x.dtype)


def with_own_statistics(network: nn.Module, share: float) -> nn.Module:
    """A copy in eval mode. share: weight of the case's own statistics, against those of the training.

    The statistics of a training set fit no scan from elsewhere; those of the scan alone forget what the
    network learned (Nado et al. 2020, arXiv 2006.10963).
    """
    network = copy.deepcopy(network).eval()
    for block in list(network.modules()):
        for name, child in list(block.named_children()):
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(block, name, OwnStatistics(child, share))
    return network
