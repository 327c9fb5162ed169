"""Connected parts of a mask."""

import numpy as np
from scipy import ndimage


def largest(mask: np.ndarray) -> np.ndarray:
    """bool (z, y, x): the largest connected part, its holes filled."""
    parts, count = ndimage.label(mask)
    if not count:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes(parts == sizes.argmax())
