"""Slices and volumes at another resolution. Axes: N slices or volumes, C channel, … space (D,) H, W."""

from collections.abc import Sequence

import torch
from torch.nn import functional


def resize_images(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Raw pixels (N, C, …) resampled linearly to `size`, float32 (as they are where nothing changes).

    A pixel that is background (0) at its nearest source pixel stays 0.
    """
    if tuple(images.shape[2:]) == tuple(size):
        return images
    images = images.float()
    brain = functional.interpolate((images != 0).float(), tuple(size), mode="nearest-exact")
    if images.ndim == 4:
        return functional.interpolate(images, tuple(size), mode="bilinear", antialias=True) * brain
    return functional.interpolate(images, tuple(size), mode="trilinear") * brain


def resize_labels(labels_NHW: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """uint8 labels (N, H, W) at the nearest pixel."""
    return functional.interpolate(labels_NHW[:, None], tuple(size), mode="nearest-exact")[:, 0]


def resize_probabilities(values: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """float32 (N, K, …) resampled linearly."""
    if tuple(values.shape[2:]) == tuple(size):
        return values
    return functional.interpolate(values, tuple(size), mode="bilinear" if values.ndim == 4 else "trilinear")
