"""From one spacing to another as nnU-Net does it: splines of scikit-image's `resize`, or torch's linear.

Axes: C channel; x, y, z of the plan.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from bts.inference.foreign.nnunet.plan import Resampling

ANISOTROPIC = 3  # times the finest spacing, beyond which the coarsest axis is resampled by itself


def new_shape(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> tuple[int, ...]:
    """Voxels at another spacing."""
    return tuple(round(old / new * n) for old, new, n in zip(spacing, wanted, shape, strict=True))


def resample(
    values: np.ndarray,
    shape: Sequence[int],
    spacing: Sequence[float],
    wanted: Sequence[float],
    how: Resampling,
) -> np.ndarray:
    """float16 or float32 (C, x, y, z) of a spacing (mm) → (C, *shape), whose spacing is `wanted`."""
    if tuple(values.shape[1:]) == tuple(shape) or how.kind == "none":
        return values
    axis = _apart(spacing, wanted, how.separate)
    if how.kind == "torch":
        return _linear(torch.from_numpy(values).float(), shape, axis).numpy()
    found = np.zeros((len(values), *shape), values.dtype)
    for one, out in zip(values, found, strict=True):
        out[...] = _spline(one.astype(np.float64), shape, how.order, axis)
    return found


def _apart(spacing: Sequence[float], wanted: Sequence[float], separate: bool | None) -> int | None:
    """The axis that is resampled by itself, if any: the coarsest of the first spacing that is anisotropic."""
    if separate is None:
        uneven = [one for one in (spacing, wanted) if max(one) / min(one) > ANISOTROPIC]
    else:
        uneven = [spacing] if separate else []
    if not uneven:
        return None
    coarsest = [axis for axis, mm in enumerate(uneven[0]) if mm == max(uneven[0])]
    return coarsest[0] if len(coarsest) == 1 else None


def _spline(image_xyz: np.ndarray, shape: Sequence[int], order: int, axis: int | None) -> np.ndarray:
    if axis is None:
        return _resized(image_xyz, shape, order)
    plane = [side for n, side in enumerate(shape) if n != axis]
    slices = np.stack([_resized(one, plane, order) for one in np.moveaxis(image_xyz, axis, 0)], axis)
    return slices.take(_nearest(image_xyz.shape[axis], shape[axis]), axis)


def _resized(image: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    """A spline through float64 voxels, within their range."""
    factors = [1 / factor for factor in np.divide(image.shape, shape)]
    found = ndimage.zoom(image, factors, order=order, mode="nearest", grid_mode=True)
    return found.clip(image.min(), image.max(), out=found)


def _nearest(old: int, new: int) -> np.ndarray:
    """Of each of `new` slices the nearest of `old`."""
    if old == new:
        return np.arange(new)
    places = old / new * (np.arange(new) + 0.5) - 0.5
    return ndimage.map_coordinates(np.arange(old), places[None], order=0, mode="nearest")


def _linear(values: torch.Tensor, shape: Sequence[int], axis: int | None) -> torch.Tensor:
    if axis is None:
        return functional.interpolate(values[None], tuple(shape), mode="trilinear")[0]
    plane = [side for n, side in enumerate(shape) if n != axis]
    slices = values.movedim(axis + 1, 1)  # (C, axis, …)
    flat = slices.flatten(0, 1)[None]
    resized = flat if list(flat.shape[2:]) == plane else functional.interpolate(flat, plane, mode="bilinear")
    back = resized[0].unflatten(0, slices.shape[:2]).movedim(1, axis + 1)
    if tuple(back.shape[1:]) == tuple(shape):
        return back.contiguous()
    return functional.interpolate(back[None], tuple(shape), mode="nearest-exact")[0]
