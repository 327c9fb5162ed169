"""Intensity normalisation: every kind is a clip, a shift and a division, known a slice and modality.

The four constants are measured on whole slices or volumes (here, NumPy) and used on whatever device the
images lie, so that a patch is normalised as its whole slice is.
Axes: S slices, C channel (modality), H rows, W columns.
"""

import math

import numpy as np
import torch

from bts.settings import Normalisation

CONSTANTS = ("low", "high", "shift", "scale")
"""x → (clip(x, low, high) - shift) / scale, the last axis of `constants`."""
NOTHING = (0, 0, 0, 1)
"""CONSTANTS of a slice that is not there, or shows no brain."""


def by_slice(settings: Normalisation) -> bool:
    """Whether `constants` looks at the pixels; otherwise at their number of slices and modalities alone."""
    return settings.kind.startswith("slice_")


def constants(
    images_SCHW: np.ndarray | torch.Tensor,
    mean_C: np.ndarray,
    std_C: np.ndarray,
    settings: Normalisation,
    frame: tuple[int, int] | None = None,
) -> np.ndarray:
    """Raw slices of one case → float32 (S, C, 4), the CONSTANTS of each slice and modality.

    images_SCHW: an array where the constants are `by_slice`, else anything of that shape. mean_C, std_C: over
    the brain of the whole volume, which brain_zscore takes. frame: the preset's, of which percentiles may be.
    """
    depth, channels = images_SCHW.shape[:2]
    kind = settings.kind
    if kind == "slice_zscore":
        assert isinstance(images_SCHW, np.ndarray)
        pixels = 0
        if settings.percentiles == "frame":
            assert frame is not None, "Preset refuses it"
            pixels = math.prod(frame)
        return np.array([[_clipped(image, pixels) for image in stack] for stack in images_SCHW], np.float32)
    one = np.empty((depth, channels, 4), np.float32)
    one[..., 0], one[..., 1] = -np.inf, np.inf
    if kind == "slice_minmax":
        assert isinstance(images_SCHW, np.ndarray)
        # Background is 0 wherever a crop leaves it out.
        low = np.minimum(images_SCHW.min(axis=(2, 3)), 0).astype(np.float32)  # int16 cannot hold every range
        one[..., 2], one[..., 3] = low, images_SCHW.max(axis=(2, 3)) - low
    elif kind == "fixed":
        one[..., :] = (0, settings.scale, 0, settings.scale)
    elif kind == "global_zscore":
        one[..., 2], one[..., 3] = settings.mean, settings.std
    else:
        one[..., 2], one[..., 3] = mean_C, std_C
    return one


def _clipped(image_HW: np.ndarray, pixels: int) -> tuple[float, float, float, float]:
    """CONSTANTS of slice_zscore; NOTHING of a slice without brain.

    pixels: of the frame, of which the percentiles are; 0: they are of the brain.
    """
    brain = image_HW[image_HW != 0].astype(np.float32)
    if not brain.size:
        return NOTHING
    low, high = limits(brain, pixels - brain.size) if pixels else np.percentile(brain, (1, 99))
    brain.clip(low, high, out=brain)
    if pixels:  # of a slice near the crown even the 99th percentile may be background
        brain = brain[brain != 0]
    return (low, high, brain.mean(), brain.std()) if brain.size else NOTHING


def limits(brain_N: np.ndarray, zeros: int) -> tuple[float, float]:
    """1st and 99th percentile (linear) of values that are not 0 and of so many zeros beside them."""
    zeros, ordered = max(zeros, 0), np.sort(brain_N)
    negative = int(np.searchsorted(ordered, 0))

    def at(rank: int) -> float:
        if negative <= rank < negative + zeros:
            return 0.0
        return float(ordered[rank if rank < negative else rank - zeros])

    ranks = [share * (len(ordered) + zeros - 1) for share in (0.01, 0.99)]
    ends = [(rank, at(math.floor(rank)), at(math.ceil(rank))) for rank in ranks]
    first, last = (low + (high - low) * (rank - math.floor(rank)) for rank, low, high in ends)
    return first, last


def normalise(images: torch.Tensor, constants: torch.Tensor) -> torch.Tensor:
    """Raw pixels (B, C, …, H, W) and constants (B, C, …, 4) → float32, background (0) still 0.

    So the background neither depends on the scanner nor shifts with the mean; `fill_background` sets its
    last value.
    """
    low, high, shift, scale = constants[..., None, None, :].unbind(-1)
    found = images.float().clamp(low, high).sub_(shift).div_(scale.clamp(min=1e-6))
    return found.masked_fill_(images == 0, 0.0)


def fill_background(images: torch.Tensor, constants: torch.Tensor, settings: Normalisation) -> torch.Tensor:
    """Normalised (and augmented) images with the background that the network sees."""
    if settings.background is not None:
        return torch.where(images != 0, images, settings.background)
    if settings.kind != "global_zscore":
        return images
    shift, scale = constants[..., None, None, 2:].unbind(-1)
    return torch.where(images != 0, images, -shift / scale.clamp(min=1e-6))
