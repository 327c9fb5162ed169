"""From the voxels of whole images to what nnU-Net's network sees: transposed, cropped, normalised, resampled.

Axes: C channel; x, y, z of the plan, after its transpose.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_fill_holes, find_objects

from bts.inference.foreign.nnunet.plan import Plan
from bts.inference.foreign.nnunet.resample import new_shape, resample

EPSILON = 1e-8
MOST_VOXELS = 1 << 28  # of one resampled channel: 1 GB


@dataclass(frozen=True, slots=True)
class Prepared:
    """Images as the network sees them, or its answer to them, and what brings that back."""

    images: np.ndarray
    """float32 (C, x, y, z) at the plan's spacing; of an answer the logits, float16 (K, x, y, z)."""
    box: tuple[slice, slice, slice]
    """Where the crop lies in the whole image."""
    spacing: tuple[float, ...]
    """mm of the whole image."""
    wanted: tuple[float, ...]
    """mm of `images`."""


def prepare(images_Czyx: np.ndarray, spacing_zyx: tuple[float, ...], plan: Plan) -> Prepared:
    """Raw float32 images (C, z, y, x), mm → what the network sees. Raises ValueError for too many voxels."""
    images = images_Czyx.transpose(0, *(axis + 1 for axis in plan.transpose))
    spacing = tuple(spacing_zyx[axis] for axis in plan.transpose)
    wanted = plan.spacing if len(plan.spacing) == 3 else (spacing[0], *plan.spacing)
    inside = binary_fill_holes((images != 0).any(axis=0))
    box = find_objects(inside.astype(np.int8))[0] if inside.any() else (slice(0, n) for n in inside.shape)
    box = tuple(box)
    images, inside = images[(slice(None), *box)], inside[box]
    shape = new_shape(images.shape[1:], spacing, wanted)
    if 0 in shape or np.prod(shape, dtype=np.int64) > MOST_VOXELS:
        raise ValueError(f"{'×'.join(map(str, shape))} voxels at the model's spacing")
    for channel, image in enumerate(images):
        normalise(image, inside, channel, plan)
    return Prepared(resample(images, shape, spacing, wanted, plan.images), box, spacing, wanted)


def normalise(image: np.ndarray, inside: np.ndarray, channel: int, plan: Plan) -> None:
    """One float32 channel, in place; `inside` is what is not background around the head."""
    kind = plan.normalisation[channel]
    if kind == "zscore":
        seen = image[inside] if plan.masked[channel] else image
        mean, scale = seen.mean(), max(seen.std(), EPSILON)
        if plan.masked[channel]:
            image[inside] = (seen - mean) / scale
        else:
            image -= mean
            image /= scale
    elif kind == "ct":
        of = plan.intensities[channel]
        image.clip(of["percentile_00_5"], of["percentile_99_5"], out=image)
        image -= of["mean"]
        image /= max(of["std"], EPSILON)
    elif kind == "rescale":
        image -= image.min()
        image /= max(image.max(), EPSILON)
    elif kind == "rgb":
        image /= 255
