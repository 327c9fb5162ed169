"""Where the brain's crop lies in the frame in which a preset sees every slice. Axes: H rows, W columns."""

from collections.abc import Sequence

from bts.model.spacing import is_one_mm, working_size


def place_in_frame(
    frame: Sequence[int],
    crop: Sequence[int],
    start: Sequence[int],
    source: Sequence[int],
    zooms: Sequence[float],
) -> tuple[int | None, ...]:
    """First row and column of the crop in the frame, None along an axis where the crop is larger.

    frame, crop: (H, W) in working pixels. start, source: of the crop's first pixel and of the whole slice, in
    the source's pixels of `zooms` mm. The middle of the source is the frame's; a brain that would reach out
    of the frame is moved in.
    """
    wholes = working_size(source, zooms)
    scales = [1.0] * len(wholes) if is_one_mm(zooms) else zooms
    found = []
    for side, n, first, whole, scale in zip(frame, crop, start, wholes, scales, strict=True):
        at = round(first * scale) + (side - whole) // 2
        found.append(min(max(at, 0), side - n) if n <= side else None)
    return tuple(found)
