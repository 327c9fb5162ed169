"""What is known of tumours, applied to a whole case's labels: no crumbs, no holes in cores, no traces of ET.

Axes: D z slices, H rows (y), W columns (x). Labels of the project, uint8: 1 necrosis, 2 oedema, 3 enhancing.
"""

import numpy as np
from scipy.ndimage import binary_fill_holes, label

from bts.boxes import filled_box
from bts.settings import Inference


def postprocess(labels_DHW: np.ndarray, settings: Inference, voxel_mm3: float) -> np.ndarray:
    """The labels after all that the settings ask for.

    No rule looks beyond the tumour: within its bounding box they take a fraction of the time.
    """
    box, found = filled_box(labels_DHW), np.zeros_like(labels_DHW)
    if labels_DHW[box].size:
        found[box] = postprocess_box(labels_DHW[box], settings, voxel_mm3)
    return found


def postprocess_box(labels_DHW: np.ndarray, settings: Inference, voxel_mm3: float) -> np.ndarray:
    """`postprocess` of a box that holds the whole tumour."""
    for parts, least_ml, becomes in (
        ((1, 2, 3), settings.min_tumour_ml, 0),
        ((3,), settings.min_et_piece_ml, 1),
        ((1, 3), settings.min_core_ml, 2),
    ):
        if least_ml:
            labels_DHW = drop_small_pieces(labels_DHW, parts, least_ml, voxel_mm3, becomes)
    if settings.fill_core:
        labels_DHW = fill_core(labels_DHW)
    return drop_small_et(labels_DHW, settings, voxel_mm3)


def drop_small_pieces(
    labels_DHW: np.ndarray, parts: tuple[int, ...], least_ml: float, voxel_mm3: float, becomes: int
) -> np.ndarray:
    """Pieces of these labels together (voxels that touch, if by a corner) below `least_ml` become another
    label; the largest stays."""
    pieces, _ = label(np.isin(labels_DHW, parts), np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    small = sizes * voxel_mm3 / 1000 < least_ml
    small[[0, int(sizes.argmax())]] = False
    return np.where(small[pieces], np.uint8(becomes), labels_DHW)


def fill_core(labels_DHW: np.ndarray) -> np.ndarray:
    """Whatever the tumour core encloses within an axial slice becomes necrosis."""
    filled = labels_DHW.copy()
    core = (labels_DHW == 1) | (labels_DHW == 3)
    for z in np.flatnonzero(core.any(axis=(1, 2))):
        filled[z][binary_fill_holes(core[z]) & ~core[z]] = 1
    return filled


def drop_small_et(labels_DHW: np.ndarray, settings: Inference, voxel_mm3: float) -> np.ndarray:
    """Enhancing tumour below `min_et_ml`, or below `min_et_share` of the core, becomes necrosis, which keeps
    TC and WT.
    """
    enhancing = labels_DHW == 3
    voxels, core = int(enhancing.sum()), int((labels_DHW == 1).sum() + enhancing.sum())
    if voxels * voxel_mm3 / 1000 >= settings.min_et_ml and voxels >= settings.min_et_share * core:
        return labels_DHW
    return np.where(enhancing, np.uint8(1), labels_DHW)
