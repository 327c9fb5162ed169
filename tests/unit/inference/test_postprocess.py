"""bts.inference.postprocess: cores without holes, traces that do not enhance, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bts.boxes import filled_box
from bts.inference.postprocess import drop_small_et, drop_small_pieces, fill_core, postprocess
from bts.settings import Inference

TUMOUR = (1, 2, 3)
LABELS = arrays(np.uint8, (3, 7, 6), elements=st.integers(0, 3))


@pytest.mark.parametrize(
    ("least_ml", "share", "voxel_mm3", "kept"),
    [
        (0.002, 0, 1.0, True),
        (0.003, 0, 1.0, False),
        (0.003, 0, 2.0, True),
        (0, 0.66, 1, True),
        (0, 0.67, 1, False),
    ],
)
def test_too_little_enhancing_tumour_becomes_necrosis(least_ml, share, voxel_mm3, kept):
    labels = np.array([[[0, 2, 1, 3, 3]]], np.uint8)
    settings = Inference(min_et_ml=least_ml, min_et_share=share)
    after = drop_small_et(labels, settings, voxel_mm3)
    assert after.tolist() == (labels.tolist() if kept else [[[0, 2, 1, 1, 1]]])


def test_small_pieces_go_and_the_largest_stays():
    labels = np.array([[[2, 0, 1, 1, 0, 0], [0, 3, 0, 0, 0, 2], [0, 0, 0, 0, 0, 2]]], np.uint8)
    # Four voxels that touch by their corners, and two.
    without = np.array([[[2, 0, 1, 1, 0, 0], [0, 3, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]], np.uint8)
    assert np.array_equal(drop_small_pieces(labels, TUMOUR, 0.003, 1.0, 0), without)
    assert np.array_equal(drop_small_pieces(labels, TUMOUR, 0.003, 1.5, 0), labels)
    assert np.array_equal(drop_small_pieces(labels, TUMOUR, 9.0, 1.0, 0), without)
    assert not drop_small_pieces(np.zeros_like(labels), TUMOUR, 9.0, 1.0, 0).any()


def test_small_pieces_of_core_become_oedema_and_of_enhancing_tumour_necrosis():
    labels = np.array([[[3, 1, 1, 2, 2, 1, 2, 2, 3, 2, 3, 3]]], np.uint8)
    core = Inference(min_core_ml=0.002)
    assert postprocess(labels, core, 1.0).tolist() == [[[3, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3]]]
    enhancing = Inference(min_et_piece_ml=0.002)
    assert postprocess(labels, enhancing, 1.0).tolist() == [[[1, 1, 1, 2, 2, 1, 2, 2, 1, 2, 3, 3]]]


def test_a_crumb_goes_before_pieces_are_compared():
    """Its three voxels enhance, two of the tumour do: these would have gone as a piece smaller than it."""
    labels = np.array([[[2, 2, 3, 3, 2, 2, 0, 3, 3, 3]]], np.uint8)
    settings = Inference(min_tumour_ml=0.004, min_et_piece_ml=0.003)
    assert postprocess(labels, settings, 1.0).tolist() == [[[2, 2, 3, 3, 2, 2, 0, 0, 0, 0]]]


def test_what_a_core_encloses_in_a_slice_is_core():
    ring = np.array([[3, 3, 3, 0], [3, 2, 1, 2], [1, 0, 3, 0], [3, 3, 3, 0]], np.uint8)
    whole = np.array([[3, 3, 3, 0], [3, 1, 1, 2], [1, 1, 3, 0], [3, 3, 3, 0]], np.uint8)
    open_ = ring.copy()
    open_[1, 0] = 0
    assert np.array_equal(fill_core(np.stack([ring, open_])), np.stack([whole, open_]))


@given(LABELS)
def test_nothing_asked_nothing_changed(labels):
    assert np.array_equal(postprocess(labels, Inference(), 1.0), labels)


@given(LABELS, st.floats(0, 0.02), st.floats(0, 0.9))
def test_tumour_core_only_grows_and_enhancing_tumour_stays_whole_or_goes(labels, least_ml, share):
    before = labels.copy()
    after = postprocess(labels, Inference(min_et_ml=least_ml, min_et_share=share, fill_core=True), 1.0)
    assert np.array_equal(labels, before)
    core = np.isin(labels, (1, 3))
    assert np.isin(after, (1, 3))[core].all()
    assert np.array_equal(after == 3, labels == 3) or not (after == 3).any()
    assert np.array_equal(after[after != 1], labels[after != 1])
    assert np.array_equal(postprocess(after, Inference(fill_core=True), 1.0), after)


@given(
    LABELS,
    st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 3),
    st.tuples(*[st.sampled_from([0, 0.002, 0.004])] * 4),
    st.booleans(),
)
def test_a_tumour_is_postprocessed_alike_wherever_it_lies(labels, around, least_ml, fill):
    names = ("min_tumour_ml", "min_et_piece_ml", "min_core_ml", "min_et_ml")
    settings = Inference(fill_core=fill, **dict(zip(names, least_ml, strict=True)))
    whole = np.pad(labels, around)
    # The rules one after another on the whole volume.
    expected = whole
    for parts, least, becomes in zip((TUMOUR, (3,), (1, 3)), least_ml[:3], (0, 1, 2), strict=True):
        expected = drop_small_pieces(expected, parts, least, 1.0, becomes) if least else expected
    expected = fill_core(expected) if fill else expected
    expected = drop_small_et(expected, settings, 1.0)
    found = postprocess(whole, settings, 1.0)
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


@given(LABELS)
def test_the_box_holds_the_tumour_and_no_layer_more(labels):
    box, outside = filled_box(labels), labels.copy()
    outside[box] = 0
    assert not outside.any()
    inside = labels[box]
    assert not inside.size or all(inside.take(end, axis).any() for axis in range(3) for end in (0, -1))
