"""Which spacings are taken as they are, and the size at 1 mm of those that are not."""

from collections.abc import Sequence

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
