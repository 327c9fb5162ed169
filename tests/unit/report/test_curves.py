"""bts.report.curves: charts of a training, as pictures that can be decoded."""

import io

import numpy as np
import pytest
from PIL import Image

from bts.colours import TYPE_COLOURS
from bts.report.curves import (
    COLOURS,
    draw_bars,
    draw_classes,
    draw_curves,
    draw_thresholds,
)

LOW, HIGH = {"dice/WT": 0.5, "dice/ET": 0.1}, {"dice/WT": 0.7, "dice/ET": 0.3}


def pixels(png: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    return np.asarray(picture.convert("RGB")).astype(int)


def lines(picture: np.ndarray) -> int:
    """Panels of a chart: each has a frame, black from top to bottom at both its sides."""
    black = (picture < 60).all(axis=2)
    found = 0
    for half in (black[: len(black) // 2], black[len(black) // 2 :]) if len(black) > 400 else (black,):
        sides = half.sum(axis=0) > 0.6 * half.shape[0]
        found += np.count_nonzero(np.diff(sides.astype(int), prepend=0) == 1)
    return found // 2


@pytest.mark.parametrize("validations", [{}, {2: LOW}, {2: LOW, 4: HIGH}])
def test_a_png_of_any_number_of_validations(validations):
    assert lines(pixels(draw_curves([1.0, 0.5, 0.4, 0.3], validations))) == 2


def test_a_panel_for_each_kind_of_figure():
    more = {**HIGH, "iou/WT": 0.5, "iou/ET": 0.2, "accuracy": 0.98}
    losses, rates = [1.0, 0.5, 0.4], [1e-3, 1e-3, 1e-4]
    assert lines(pixels(draw_curves(losses, {3: more}))) == 4
    assert lines(pixels(draw_curves(losses, {3: more}, rates))) == 5
    assert lines(pixels(draw_curves(losses, {3: HIGH}, rates))) == 3
    assert lines(pixels(draw_curves(losses, {3: HIGH}, [0.0, 0.1, 0.1]))) == 3, "a warm-up begins at zero"


def test_a_region_may_be_missing_from_a_validation():
    assert draw_curves([1.0, 0.5], {1: {"dice/tumour": 0.5, "dice/glioma": 0.4}, 2: {"dice/tumour": 0.6}})


def test_charts_are_the_same_twice():
    for draw in (
        lambda: draw_curves([1.0, 0.5], {1: LOW, 2: HIGH}, [0.1, 0.1], 2),
        lambda: draw_thresholds([0.3, 0.5], [0.6, 0.5], 0.3),
        lambda: draw_classes({"glioma": {"cases": 89, "slices": 1426}}),
        lambda: draw_bars({"unet": {"dice/WT": 0.9}}),
    ):
        assert draw() == draw()


def test_the_best_threshold_is_marked():
    thresholds, ious = [0.2, 0.4, 0.6, 0.8], [0.3, 0.6, 0.5, 0.2]
    orange = [
        np.argwhere(np.abs(pixels(draw_thresholds(thresholds, ious, best)) - (213, 94, 0)).sum(axis=2) < 9)
        for best in (0.4, 0.8)
    ]
    assert all(len(found) > 20 for found in orange)
    assert orange[0][:, 1].mean() < orange[1][:, 1].mean() and orange[0][:, 0].mean() < orange[1][:, 0].mean()


def test_tumour_types_keep_their_colours():
    counts = {name: {"cases": n, "slices": 9 * n} for name, n in (("glioma", 89), ("pituitary", 62))}
    picture = pixels(draw_classes(counts))
    areas = [np.count_nonzero((picture == TYPE_COLOURS[label][1]).all(axis=2)) for label in (2, 3)]
    assert areas[0] / areas[1] == pytest.approx(89 / 62, rel=0.05)


def test_classes_of_any_kind():
    voxels = {"healthy": {"voxels": 8_740_000}, "necrosis": {"voxels": 16_070}, "oedema": {"voxels": 0}}
    for counts in (voxels, {"": {"cases": 3, "slices": 0}}, {"a": {"cases": 1}, "b": {"slices": 2}}):
        assert pixels(draw_classes(counts)).any()


def test_a_bar_for_each_figure_of_each_network():
    values = {"attention_unet": {"accuracy": 0.9, "dice/WT": 0.6}, "fcn": {"accuracy": 0.45}}
    picture = pixels(draw_bars(values))
    blue = (picture == (0, 114, 178)).all(axis=2)
    blue[:40] = False  # the legend
    heights = blue.sum(axis=0)
    ends = np.flatnonzero(np.diff(heights > 20, prepend=False, append=False))
    first, second = (heights[a + 2 : b - 2].max() for a, b in zip(ends[::2], ends[1::2], strict=True))
    assert first / second == pytest.approx(2, rel=0.05)
    assert (picture == (213, 94, 0)).all(axis=2).sum() > 100


def test_bars_beyond_the_last_colour_are_hatched():
    """As of six regions by two metrics: no two look alike."""
    names = [f"dice/{n}" for n in range(len(COLOURS) + 1)]
    picture = pixels(draw_bars({"unet": dict.fromkeys(names, 1.0)}))
    middle = picture[len(picture) * 3 // 5 : len(picture) * 4 // 5]
    blue = (middle == (0, 114, 178)).all(axis=2)
    first, last = (side.sum() for side in np.array_split(blue, 2, axis=1))
    assert 0 < last < 0.95 * first
