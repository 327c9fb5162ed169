"""The smallest box around what is not 0: most of a scan, and of its labels, is background."""

import numpy as np


def filled_box(*arrays: np.ndarray) -> tuple[slice, ...]:
    """The smallest box, a slice an axis, that holds every non-zero value of each array; all have one shape.
    Where all are zero, the slices are empty."""
    lines = zip(*map(_lines, arrays), strict=True)
    ends = [np.flatnonzero(np.logical_or.reduce(line)) for line in lines]
    return tuple(slice(int(at[0]), int(at[-1]) + 1) if len(at) else slice(0, 0) for at in ends)


def _lines(array: np.ndarray) -> list[np.ndarray]:
    """For each axis, at which indices there is a value that is not 0."""
    # A turned view is read in the order of its memory: against it, that takes three times as long.
    ahead = [slice(None, None, -1 if stride < 0 else 1) for stride in array.strides]
    return [line[turn] for line, turn in zip(_of(array[tuple(ahead)] != 0), ahead, strict=True)]


def _of(filled: np.ndarray) -> list[np.ndarray]:
    first = np.logical_or.reduce(filled.reshape(len(filled), -1), axis=1)
    return [first, *_of(np.logical_or.reduce(filled))] if filled.ndim > 1 else [first]
