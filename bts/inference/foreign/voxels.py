"""A case as another tool reads it: whole images in the file's own voxel order; and its answer on our crop.

Other tools' readers do not crop, and most do not reorient: their axes are the file's, reversed to (z, y, x).
Axes: C channel, K target; z, y, x of such an order; D, H, W of the project's canonical one (LPS+).
"""

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from nibabel import orientations

from bts.cases.case import CaseVolume
from bts.inference.predictor import missing_of

Order = Literal["file", "RAS", "LPS"]
"""file: the file's own voxel order. RAS: reoriented, x to the patient's right and y to the front. LPS: x to
the left and y to the back, as inside the project."""


def whole_images(
    volume: CaseVolume, modalities: Sequence[str], order: Order, allow_missing: Collection[str] = ()
) -> np.ndarray:
    """float32 (C, z, y, x) of the wanted modalities, the files' own values; one that may be missing is 0.

    Raises CaseError for another missing one.
    """
    missing = missing_of(volume, modalities, allow_missing)
    shape = turned(np.empty(volume.grid.shape, np.bool_), volume, order).shape
    images = np.zeros((len(modalities), *shape), np.float32)
    for image, modality in zip(images, modalities, strict=True):
        if modality not in missing:
            image[...] = turned(volume.source(modality), volume, order)
    return images


def spacing_of(volume: CaseVolume, order: Order) -> tuple[float, float, float]:
    """mm along (z, y, x), as the file's header has it."""
    own = volume.grid.source_zooms
    if order != "file":
        to_canonical = orientations.io_orientation(volume.grid.source_affine)[:, 0]
        x, y, z = (own[int(axis)] for axis in np.argsort(to_canonical))
        own = (x, y, z)
    return own[::-1]


def on_crop(found: np.ndarray, volume: CaseVolume, order: Order) -> np.ndarray:
    """(K, z, y, x) over the whole image → (K, D, H, W) on the case's crop, contiguous."""
    return np.stack([np.ascontiguousarray(_turned_back(one, volume, order)[volume.box]) for one in found])


def turned(whole_DHW: np.ndarray, volume: CaseVolume, order: Order) -> np.ndarray:
    """An array over the canonical grid → (z, y, x) of an order; a view."""
    if order == "file":
        return volume.grid.to_source(whole_DHW)
    return whole_DHW[:, ::-1, ::-1] if order == "RAS" else whole_DHW


def _turned_back(whole_zyx: np.ndarray, volume: CaseVolume, order: Order) -> np.ndarray:
    if order == "file":
        return volume.grid.to_canonical(whole_zyx)
    return whole_zyx[:, ::-1, ::-1] if order == "RAS" else whole_zyx
