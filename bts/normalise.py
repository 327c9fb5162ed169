"""Intensity normalisation, on whatever device the images lie."""

import torch


def zscore(images_BCHW: torch.Tensor, mean_BC: torch.Tensor, std_BC: torch.Tensor) -> torch.Tensor:
    """Raw pixels → float32 z-scores of the brain, with the statistics of each slice's whole volume.

    Background (0) stays 0, so that it neither depends on the scanner nor shifts with the mean.
    """
    images = images_BCHW.float()
    mean, std = mean_BC.float()[:, :, None, None], std_BC.float()[:, :, None, None]
    return torch.where(images != 0, (images - mean) / std.clamp(min=1e-6), 0.0)
