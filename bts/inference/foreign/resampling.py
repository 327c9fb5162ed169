"""Volumes on a grid of another spacing, in the arithmetic of MONAI's Spacing.

In its order of operations too: a background of 0 becomes 1e-13 here and there, and a normalisation of what is
not 0 sees the difference. Axes: C channel, X Y Z.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

SAME_MM = 1e-3  # a spacing this near is taken as it is


def at_spacing(
    affine: np.ndarray, shape: Sequence[int], mm: Sequence[float]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """(4×4 from voxels of the new grid to voxels of the old, shape of the new).

    The first voxel stays where it is, the last is the last that lies within the old grid, or nearly so.
    """
    zooms = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    wanted = np.where(np.abs(zooms - mm) <= SAME_MM, zooms, mm)
    zoom_and_shear = np.linalg.cholesky(affine[:3, :3].T @ affine[:3, :3]).T
    rotation = affine[:3, :3] @ np.linalg.inv(zoom_and_shear)
    new = np.eye(4)
    new[:3, :3] = rotation @ np.diag(np.sign(np.diag(zoom_and_shear)) * wanted)
    corners = np.stack(np.meshgrid(*([0.0, n - 1.0] for n in shape), indexing="ij")).reshape(3, -1)
    corners = np.concatenate([corners, np.ones_like(corners[:1])])
    extent = np.ptp((np.linalg.solve(new, affine) @ corners)[:3], axis=1)
    new[:3, 3] = (affine @ corners)[:3, 0]
    return np.linalg.solve(affine, new), tuple(int(n) for n in np.round(extent + 1))


def sampled(
    images: torch.Tensor, to_old: np.ndarray, shape: Sequence[int], nearest: bool = False
) -> torch.Tensor:
    """(C, X, Y, Z) at the places of a grid of `shape`, linearly or the nearest voxel; beyond the border, the
    border. A channel at a time in double precision, float32 out."""
    theta = _normalised(images.shape[1:])[None] @ torch.from_numpy(to_old)[None]
    theta = theta @ torch.from_numpy(np.linalg.inv(_normalised(shape).numpy()))[None]
    theta[:, :3] = theta[:, [2, 1, 0]]  # grid_sample counts axes from the last
    theta[:, :, :3] = theta[:, :, [2, 1, 0]]
    grid = functional.affine_grid(theta[:, :3], [1, 1, *shape], align_corners=False)
    mode = "nearest" if nearest else "bilinear"
    found = torch.empty((len(images), *shape))
    for channel, image in zip(found, images, strict=True):
        exact = image.double()[None, None]
        channel.copy_(functional.grid_sample(exact, grid, mode, "border", align_corners=False)[0, 0])
    return found


def _normalised(shape: Sequence[int]) -> torch.Tensor:
    """4×4, voxel indices → -1 … 1 from edge to edge."""
    sides = torch.tensor(list(shape), dtype=torch.float64)
    found = torch.diag(torch.cat([2.0 / sides, torch.ones(1, dtype=torch.float64)]))
    found[:-1, -1] = 1.0 / sides - 1.0
    return found
