"""bts.boxes: the smallest box around what is not 0, whatever the order of memory."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bts.boxes import filled_box


@given(st.data())
def test_the_box_is_the_smallest_that_holds_all(data):
    shape = data.draw(array_shapes(min_dims=1, max_dims=3, max_side=6))
    turned = tuple(slice(None, None, data.draw(st.sampled_from([1, -1]))) for _ in shape)
    images = [data.draw(arrays(kind, shape, elements=st.sampled_from([0, 0, 0, 1]))) for kind in "fiB"]
    box = filled_box(*(image[turned] for image in images))
    for axis, side in enumerate(box):
        filled = sorted({where[axis] for image in images for where in np.argwhere(image[turned])})
        assert list(range(shape[axis]))[side] == list(range(filled[0], filled[-1] + 1) if filled else [])


def test_minus_zero_is_background():
    assert filled_box(np.array([-0.0, 0.0, np.nan, -0.0])) == (slice(2, 3),)
