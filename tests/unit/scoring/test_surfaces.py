"""Distances between surfaces and scores by lesion: by hand on small cases, and what must not change them."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bts.labels import CAVITY, REGIONS
from bts.scoring import borders
from bts.scoring.lesions import dilate, score_lesions
from bts.scoring.metrics import DISTANCES, LESIONS, measure
from bts.scoring.rules import GLIOMA, Rules
from bts.scoring.surfaces import FARTHEST, gaps, robust_hausdorff, surface_dice

MM = (1.0, 1.0, 1.0)
ONE = Rules(reach=1, smallest=0)


def box(*slices: slice, shape=(24, 24, 24)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[slices] = True
    return mask


CUBE = box(slice(4, 12), slice(4, 12), slice(4, 12))


@pytest.mark.parametrize(
    ("axis", "spacing"), [(0, (3.0, 1.0, 1.0)), (1, (1.0, 0.5, 1.0)), (2, (1.0, 1.0, 2.0))]
)
def test_a_shift_is_as_many_millimetres_as_the_spacing_says(axis, spacing):
    found = gaps(CUBE, np.roll(CUBE, 2, axis=axis), spacing)
    assert robust_hausdorff(found) == pytest.approx(2 * spacing[axis])
    assert robust_hausdorff(found, share=1) == pytest.approx(2 * spacing[axis])
    between = borders.gaps(CUBE, np.roll(CUBE, 2, axis=axis), spacing)
    assert borders.hausdorff(between) == borders.hausdorff(between, 1) == pytest.approx(2 * spacing[axis])


def test_surface_dice_counts_what_lies_within_the_tolerance():
    wider = box(slice(3, 13), slice(3, 13), slice(3, 13))
    found = gaps(CUBE, wider, MM)
    assert surface_dice(found, 0.9) == 0 and surface_dice(found, 2) == 1
    assert 0.8 < surface_dice(found, 1) < 1  # corners lie further apart
    areas = [one.areas.sum() for one in found]
    assert areas[0] < areas[1] and 0.8 * 6 * 64 < areas[0] < 6 * 64  # rounded edges
    assert surface_dice(gaps(CUBE, CUBE, MM), 0) == 1 and robust_hausdorff(gaps(CUBE, CUBE, MM)) == 0


def test_the_farthest_twentieth_of_a_surface_is_left_out():
    """One voxel far away: a fortieth of the area, and of the voxels at the border."""
    found = CUBE | box(slice(20, 21), slice(4, 5), slice(4, 5))
    assert robust_hausdorff(gaps(found, CUBE, MM)) == 0 == borders.hausdorff(borders.gaps(found, CUBE, MM))
    assert (
        robust_hausdorff(gaps(found, CUBE, MM), 1) > 8 < borders.hausdorff(borders.gaps(found, CUBE, MM), 1)
    )


def test_a_mask_that_fills_the_array_has_its_border_there():
    full = np.ones((3, 4, 5), bool)
    assert np.array_equal(~borders.border(full), box(slice(1, 2), slice(1, 3), slice(1, 4), shape=full.shape))


def test_one_lesion_found_one_missed_one_invented():
    truth = CUBE | box(slice(18, 20), slice(18, 20), slice(18, 20))
    prediction = np.roll(CUBE, 1, axis=0) | box(slice(20, 22), slice(2, 4), slice(2, 4))
    scores = score_lesions(truth, prediction, MM, ONE)
    assert [scores[f"lesions_{what}"] for what in ("found", "missed", "false")] == [1, 1, 1]
    assert scores["lesion_dice"] == pytest.approx(7 / 8 / 3)
    assert scores["lesion_hd95"] == pytest.approx((1 + 2 * FARTHEST) / 3)


def test_small_lesions_are_left_out_but_claim_what_they_touch():
    small = box(slice(18, 20), slice(18, 20), slice(18, 20))
    scores = score_lesions(CUBE | small, CUBE | small, MM, Rules(1, 8))
    assert scores == dict(zip(LESIONS, (1, 0, 1, 0, 0), strict=True))
    assert score_lesions(CUBE | small, CUBE, MM, Rules(1, 8))["lesion_dice"] == 1
    assert score_lesions(CUBE | small, CUBE, MM, Rules(1, 7.9))["lesions_missed"] == 1
    assert score_lesions(CUBE | small, CUBE, (2.0, 1.0, 1.0), Rules(1, 8))["lesions_missed"] == 1


def test_parts_within_reach_of_each_other_are_one_lesion():
    pieces = CUBE | box(slice(14, 16), slice(4, 12), slice(4, 12))  # two voxels apart
    assert score_lesions(pieces, pieces, MM, ONE)["lesions_found"] == 1
    assert score_lesions(pieces, CUBE, MM, ONE)["lesions_missed"] == 0
    apart = CUBE | box(slice(15, 17), slice(4, 12), slice(4, 12))  # three
    assert score_lesions(apart, CUBE, MM, ONE)["lesions_missed"] == 1


def test_nothing_anywhere_is_right_and_something_on_one_side_is_wrong():
    nothing, tumour = np.zeros((6, 6, 6), np.uint8), np.zeros((6, 6, 6), np.uint8)
    tumour[1:5, 1:5, 1:5] = 3
    names = DISTANCES + LESIONS
    right, missed, invented = (
        measure(*pair, REGIONS, CAVITY, spacing=MM)["ET"]
        for pair in ((nothing, nothing), (tumour, nothing), (nothing, tumour))
    )
    assert [right[name] for name in names] == [0, 1, 0, 1, 0, 0, 0, 0]
    assert [missed[name] for name in names] == [FARTHEST, 0, -0.064, 0, FARTHEST, 0, 1, 0]
    assert [invented[name] for name in names] == [FARTHEST, 0, 0.064, 0, FARTHEST, 0, 0, 1]


def test_dilation_is_by_faces_and_edges():
    point = box(slice(3, 4), slice(3, 4), slice(3, 4), shape=(7, 7, 7))
    assert dilate(point, 1).sum() == 19
    offsets = np.abs(np.indices((7, 7, 7)) - 3)
    assert np.array_equal(dilate(point, 2), (offsets.max(0) <= 2) & (offsets.sum(0) <= 4))


labels = arrays.arrays(np.uint8, (5, 6, 7), elements=st.sampled_from([0, 0, 0, 1, 2, 3]))


@given(labels, labels, st.permutations(range(3)), st.lists(st.booleans(), min_size=3, max_size=3))
def test_turning_both_changes_nothing(truth, prediction, axes, flipped):
    spacing = (3.0, 1.0, 0.5)
    turn = tuple(slice(None, None, -1 if flip else 1) for flip in flipped)
    turned = [np.transpose(one[turn], axes) for one in (truth, prediction)]
    before = measure(truth, prediction, REGIONS, CAVITY, spacing=spacing, rules=ONE)
    after = measure(*turned, REGIONS, CAVITY, spacing=tuple(spacing[a] for a in axes), rules=ONE)
    assert all(after[region] == pytest.approx(of) for region, of in before.items())


@given(labels, labels)
def test_distances_are_the_same_both_ways_and_grow_with_the_voxels(truth, prediction):
    there, back, doubled = (
        measure(*pair, REGIONS, CAVITY, spacing=(mm,) * 3, rules=GLIOMA)
        for pair, mm in (((truth, prediction), 1.0), ((prediction, truth), 1.0), ((truth, prediction), 2.0))
    )
    for region, of in there.items():
        assert back[region]["hd95"] == pytest.approx(of["hd95"])
        assert back[region]["nsd1"] == pytest.approx(of["nsd1"])
        assert back[region]["volume_error_ml"] == -of["volume_error_ml"]
        assert doubled[region]["volume_error_ml"] == pytest.approx(8 * of["volume_error_ml"])
        assert doubled[region]["hd95"] == pytest.approx(of["hd95"] * (1 if of["hd95"] == FARTHEST else 2))
