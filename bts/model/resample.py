"""Slices and volumes at another resolution. Axes: N slices or volumes, C channel, … space (D,) H, W."""

from collections.abc import Sequence

import torch
from torch.nn import functional

SPACING_TOLERANCE = 0.05
"""A spacing this far from 1 mm (as a share) is predicted as it is."""


def is_one_mm(zooms: Sequence[float]) -> bool:
    """Whether spacings (mm) are taken as they are."""
    return all(abs(zoom - 1) <= SPACING_TOLERANCE for zoom in zooms)


def working_size(size: Sequence[int], zooms: Sequence[float]) -> tuple[int, ...]:
    """Pixels along each axis at which to predict: 1 mm where a spacing (mm) is clearly another."""
    if is_one_mm(zooms):
        return tuple(size)
    return tuple(max(1, round(side * zoom)) for side, zoom in zip(size, zooms, strict=True))


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
