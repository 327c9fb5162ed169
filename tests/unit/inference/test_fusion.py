"""bts.inference.fusion: several labelmaps become one."""

import numpy as np
import pytest

from bts.inference.fusion import METHODS, fuse, fuse_region

SHAPE = (12, 20, 16)


def ball(radius: float, shift=(0, 0, 0)) -> np.ndarray:
    axes = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    middle = [n / 2 + move for n, move in zip(SHAPE, shift, strict=True)]
    return sum((x - at) ** 2 for x, at in zip(axes, middle, strict=True)) < radius**2


def raters(seed: int, errors=(0.02, 0.05, 0.08, 0.3)) -> tuple[np.ndarray, list[np.ndarray]]:
    """(a ball, what raters of such shares of wrong voxels make of it)"""
    rng, truth = np.random.default_rng(seed), ball(5)
    return truth, [truth ^ (rng.random(SHAPE) < share) for share in errors]


def dice(a, b) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("errors", [(0.02, 0.05, 0.3), (0.01, 0.02, 0.05, 0.2, 0.3, 0.4)])
def test_staple_is_that_of_itk(seed, errors):
    import SimpleITK

    _, masks = raters(seed, errors)
    images = [SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
    expected = SimpleITK.GetArrayFromImage(SimpleITK.STAPLE(images, 1.0)) > 0.5
    assert (fuse_region(masks, "staple") != expected).mean() < 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_what_weighs_the_raters_beats_the_majority_among_poor_ones(seed):
    truth, masks = raters(seed, (0.02, 0.03, 0.04, 0.3, 0.35, 0.4))
    scores = {method: dice(fuse_region(masks, method), truth) for method in METHODS}
    assert scores["simple"] > scores["majority"] and scores["staple"] > scores["majority"]
    assert scores["majority"] > max(dice(mask, truth) for mask in masks[3:])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("of", [np.zeros(SHAPE, bool), np.ones(SHAPE, bool), ball(4)])
def test_equal_labelmaps_stay_as_they_are(method, of):
    np.testing.assert_array_equal(fuse_region([of, of, of], method), of)


@pytest.mark.parametrize("method", METHODS)
def test_their_order_changes_nothing(method):
    _, masks = raters(7)
    np.testing.assert_array_equal(fuse_region(masks, method), fuse_region(masks[::-1], method))


def test_half_is_no_majority():
    assert not fuse_region([ball(4), ball(0)], "majority").any()


def test_regions_are_fused_one_by_one_and_painted():
    """Two say enhancing, one necrosis, one oedema: three say core, two enhancing of four are not enough."""
    labels = [np.full((1, 1, 1), label, np.uint8) for label in (3, 3, 1, 2)]
    assert fuse(labels, "majority") == 1
    assert fuse([*labels, np.full((1, 1, 1), 3, np.uint8)], "majority") == 3


def test_a_cavity_is_kept():
    labels = [np.where(ball(4), np.uint8(4), np.uint8(2)) for _ in range(3)]
    np.testing.assert_array_equal(fuse(labels, "staple"), labels[0])


def test_too_many():
    with pytest.raises(ValueError, match="11 labelmaps; from 2 to 10"):
        fuse([np.zeros(SHAPE, np.uint8)] * 11, "majority")


def test_simple_of_three_leaves_none_out():
    """Or of the two that stay the one nearer to the estimate would decide alone."""
    masks = [ball(5), ball(4.6, (0, 0, 2)), ball(5, (0, 5, 0))]
    np.testing.assert_array_equal(fuse_region(masks, "simple"), fuse_region(masks, "majority"))


def test_simple_of_two_does_not_let_one_decide_alone():
    large, moved = np.zeros((2, 8, 8, 8), np.uint8)
    large[1:7, 1:7, 1:7], moved[4:8, 4:8, 4:8] = 3, 3
    assert np.array_equal(fuse([large, moved], "simple"), np.where(large & moved, 3, 0))
