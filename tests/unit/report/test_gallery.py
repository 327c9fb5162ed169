"""The pictures that a training leaves, as a viewer decodes them: panels, colours, sides, frames."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bts.cases.case import CaseVolume
from bts.colours import LABEL_COLOURS, TUMOUR_COLOURS, TYPE_COLOURS
from bts.images.nifti import read_nifti
from bts.labels import TARGETS
from bts.presets import PRESETS
from bts.report import gallery, rotation, slices
from tests import builders

SHAPE = (8, 40, 30)  # (D, H, W)
BRAIN = (slice(1, 7), slice(2, 38), slice(2, 28))
LABELS, TYPES = LABEL_COLOURS, TYPE_COLOURS


def volume(
    modalities=("t1", "t1ce", "t2", "flair"), *, zooms=(1, 1, 1), dataset="brats2021", label=3, seed=0
) -> CaseVolume:
    """A head with one label in a box at the patient's right and back, most of it at z 4; origin z 20."""
    images = np.zeros((len(modalities), *SHAPE), np.int16)
    images[:, *BRAIN] = np.random.default_rng(seed).integers(300, 900, images[:, *BRAIN].shape)
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:6, 24:30, 5:10] = label
    mask[4, 22:30, 5:10] = label
    file = builders.nifti(np.zeros(SHAPE[::-1], np.uint8), builders.affine("LPS", zooms[::-1]))
    statistics = dict.fromkeys(("mean", "std", "p01", "p99"), np.full(len(modalities), 800, np.float32))
    names = {"case_id": "A-1", "patient_id": "A", "dataset": dataset, "group": "HGG", "labels": "brats2021"}
    place = {"origin": (20, 0, 0), "grid": read_nifti(file, "A").grid}
    return CaseVolume(modalities=modalities, images=images, mask=mask, **names, **place, **statistics)


def figshare(label: int) -> CaseVolume:
    return replace(volume(("t1ce",), dataset="figshare", label=label), group="glioma")


def drawn(of: CaseVolume, labels: np.ndarray, name: str, *kinds: str) -> dict[str, bytes]:
    """Pictures of the preset for a prediction that is sure of its labels."""
    preset = replace(PRESETS[name], pictures=kinds or PRESETS[name].pictures)
    found = [np.isin(labels, of_target) for of_target in TARGETS[preset.targets].values()]
    return gallery.draw(of, np.array(found, np.float32), labels, preset)


def pixels(png: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    return np.asarray(picture.convert("RGB")).astype(int)


def panels(png: bytes) -> list[np.ndarray]:
    """The panels of a sheet's first row, left to right: what is framed by its paper."""
    sheet = pixels(png)
    framed = (sheet != gallery.PAPER).any(axis=2)
    top = 34 + 24
    bottom = top + int(np.argmin(framed[top:, gallery.GAP]))
    ends = np.flatnonzero(np.diff(framed[top + 2 : bottom - 2].all(axis=0), prepend=False, append=False))
    return [sheet[top:bottom, a:b] for a, b in zip(ends[::2], ends[1::2], strict=True)]


def at(panel: np.ndarray, row: float, column: float) -> tuple:
    """The pixel of a voxel (row, column) of the toy's brain, which pictures cut out with a margin."""
    scale = panel.shape[0] / SHAPE[1]  # the margin reaches the edges of the grid
    return tuple(panel[int((row + 0.5) * scale), int((column + 0.5) * scale)])


def inked(panel: np.ndarray, colour: tuple) -> np.ndarray:
    """(N, 2) rows and columns of the pixels of exactly that colour."""
    return np.argwhere((panel == colour).all(axis=2))


def test_strip_has_images_truths_and_probabilities():
    of = volume(("flair", "t1", "t1ce", "t2"))
    found = drawn(of, of.mask, "unet2d")
    assert list(found) == ["A-1-strip.png"]
    ten = panels(found["A-1-strip.png"])
    assert len(ten) == 10 and len({panel.shape for panel in ten}) == 1
    assert max(ten[0].shape) == gallery.STRIP_PX
    yellow = LABELS[3][1]
    assert [at(panel, 27, 7) for panel in ten[4:]] == [(0, 0, 0), (0, 0, 0), yellow] * 2
    assert all(np.ptp(panel, axis=2).max() == 0 for panel in ten[:4]), "images are grey"


def test_strip_shows_how_sure_it_is():
    of = volume(("flair", "t1", "t1ce", "t2"))
    preset = PRESETS["unet2d"]
    half = gallery.draw(of, np.full((3, *SHAPE), 0.5, np.float32), of.mask, preset)["A-1-strip.png"]
    for panel, label in zip(panels(half)[7:], (1, 2, 3), strict=True):
        assert np.abs(np.array(at(panel, 10, 15)) - np.array(LABELS[label][1]) / 2).max() <= 1


def test_strip_of_nested_regions():
    of = volume()
    strip = panels(drawn(of, of.mask, "fast", "strip")["A-1-strip.png"])
    assert [at(panel, 27, 7) for panel in strip[4:7]] == [LABELS[n][1] for n in (2, 1, 3)], "WT, TC and ET"


@pytest.mark.parametrize(("name", "same"), [("unet3d", "t1ce"), ("resunet2d", "flair"), ("fast", "t1ce")])
def test_triptych_shows_the_labels_by_themselves(name, same):
    of = volume(PRESETS[name].modalities)
    image, truth, prediction = panels(drawn(of, of.mask // 3 * 2, name)["A-1-triptych.png"])
    assert max(truth.shape) == gallery.PANEL_PX
    assert at(truth, 27, 7) == LABELS[3][1] and at(prediction, 27, 7) == LABELS[2][1]
    assert at(truth, 10, 15) == (0, 0, 0) != at(image, 10, 15)
    others = replace(of, images=np.where(np.array(of.modalities)[:, None, None, None] == same, of.images, 1))
    assert np.array_equal(panels(drawn(others, of.mask, name)["A-1-triptych.png"])[0], image)


def test_the_patients_right_is_at_the_left():
    of = volume()
    _, truth, prediction = panels(drawn(of, of.mask * 0, "fast")["A-1-triptych.png"])
    rows, columns = inked(truth, LABELS[3][1]).T
    assert columns.max() < truth.shape[1] / 2 and rows.min() > truth.shape[0] / 2, "right, back"
    white = (prediction == 255).all(axis=2)
    left, right = white[:, :30].sum(), white[:, -30:].sum()
    assert left > right > 0 and white.sum() == left + right, "an R has more ink than an L"


def test_overlay_of_any_tumour_is_of_one_colour():
    of = figshare(label=2)
    sheet = drawn(of, of.mask // 2, "figshare2d")["A-1-overlay.png"]
    image, truth, prediction = panels(sheet)
    assert np.array_equal(truth, prediction) and not np.array_equal(truth, image)
    assert len(inked(truth, TUMOUR_COLOURS[1][1])), "the tumour's edge is solid"
    assert not len(inked(pixels(sheet), TYPES[2][1])) and not len(inked(pixels(sheet), LABELS[2][1]))


def test_figshare_has_its_own_colours_and_no_sides():
    of = figshare(label=2)
    wrong = of.mask // 2 * 3
    _, truth, prediction = panels(drawn(of, wrong, "figshare3d", "triptych")["A-1-triptych.png"])
    assert at(truth, 27, 7) == TYPES[2][1] and at(prediction, 27, 7) == TYPES[3][1]
    assert len(inked(truth, (0, 0, 0))) + len(inked(truth, TYPES[2][1])) == truth[..., 0].size, "no letters"


def test_the_legend_names_a_cavity_only_where_there_is_one():
    blue, of = LABELS[4][1], volume()
    assert not len(inked(pixels(drawn(of, of.mask, "fast")["A-1-triptych.png"]), blue))
    cavity = replace(of, mask=of.mask // 3 * 4)
    sheet = drawn(cavity, of.mask, "fast")["A-1-triptych.png"]
    assert at(panels(sheet)[1], 27, 7) == blue and len(inked(pixels(sheet)[-30:], blue))


def test_pixels_have_their_size_in_mm():
    of = volume(zooms=(5.0, 0.5, 2.0))
    high, wide, _ = panels(drawn(of, of.mask, "fast")["A-1-triptych.png"])[0].shape
    assert wide / high == pytest.approx(30 * 2 / (40 * 0.5), rel=0.02)


@pytest.mark.parametrize(("truth", "said", "z"), [(1, 0, 4), (0, 1, 4), (0, 0, 4)])
def test_empty_truths_and_predictions(truth, said, z):
    of = volume()
    of, labels = replace(of, mask=of.mask * np.uint8(truth)), of.mask * np.uint8(said)
    found = drawn(of, labels, "fast", "strip", "triptych", "overlay")
    assert list(found) == ["A-1-strip.png", "A-1-triptych.png", "A-1-overlay.png"]
    shown = panels(found["A-1-triptych.png"])[1:]
    assert [len(inked(panel, LABELS[3][1])) > 0 for panel in shown] == [bool(truth), bool(said)]
    below = panels(found["A-1-overlay.png"])[0]
    assert np.array_equal(
        below, panels(drawn(volume(), volume().mask, "fast", "overlay")["A-1-overlay.png"])[0]
    )


def test_long_names_fit():
    of = replace(volume(), case_id="x" * 200)
    (sheet,) = drawn(of, of.mask, "fast").values()
    assert len(inked(pixels(sheet)[:34, -gallery.GAP :], gallery.PAPER)) == 34 * gallery.GAP


@pytest.mark.parametrize("first, second", [("Пациент", "Яациент"), ("病例", "患例"), ("José", "Josí")])
def test_names_of_other_alphabets_are_no_boxes(first, second):
    panel = slices.png(Image.new("RGB", (200, 60)))
    assert gallery.montage({first: panel}, "", {}) != gallery.montage({second: panel}, "", {})


def test_grid_compares_networks():
    of = volume()
    predictions = {"unet": of.mask, "fcn": of.mask * 0, "segnet": of.mask // 3, "vnet": of.mask}
    sheet = gallery.grid(of, predictions)
    image, truth, unet, fcn = panels(sheet)
    assert np.array_equal(truth, unet) and np.array_equal(image, fcn) and not np.array_equal(image, truth)
    below = pixels(sheet)[34 + 24 + truth.shape[0] + gallery.GAP : -34]
    framed = (below[40] != gallery.PAPER).any(axis=1)
    assert np.count_nonzero(np.diff(framed.astype(int)) == 1) == 2, "two networks more in a second row"
    assert len(inked(below, LABELS[1][1])) and len(inked(below, LABELS[3][1]))
    assert panels(gallery.grid(figshare(1), {"unet": figshare(1).mask}, "figshare"))


@pytest.mark.slow
def test_the_same_bytes_twice():
    of = volume()
    kinds = ("strip", "triptych", "overlay", "turning")
    assert drawn(of, of.mask, "fast", *kinds) == drawn(of, of.mask, "fast", *kinds)
    assert gallery.grid(of, {"unet": of.mask}) == gallery.grid(of, {"unet": of.mask})


def frames(gif: bytes) -> np.ndarray:
    """(frame, side, H, W, 3) of the panels alone."""
    film = Image.open(io.BytesIO(gif))
    assert film.format == "GIF" and film.info["loop"] == 0
    shown = []
    for n in range(film.n_frames):
        film.seek(n)
        picture = np.asarray(film.convert("RGB")).astype(int)
        body = picture[rotation.HEAD : rotation.HEAD + rotation.PANEL_PX]
        shown.append(np.split(body, 2, axis=1))
    return np.array(shown)


def coloured(panel: np.ndarray) -> np.ndarray:
    """Columns of the yellow pixels: red and green, hardly any blue."""
    return np.nonzero((panel[..., 0] > 90) & (panel[..., 1] > 70) & (panel[..., 2] < 40))[1]


def test_turning_goes_once_around_both_sides():
    of = volume()
    gif = drawn(of, of.mask, "unet3d", "turning")["A-1-turning.gif"]
    film = frames(gif)
    assert film.shape == (rotation.FRAMES, 2, rotation.PANEL_PX, rotation.PANEL_PX, 3)
    assert len(gif) < 1_500_000
    assert np.array_equal(film[:, 0], film[:, 1]), "equal labels, equal pictures"
    middle = rotation.PANEL_PX / 2
    assert coloured(film[0, 0]).mean() < middle < coloured(film[12, 0]).mean(), "the patient's right, left"
    # A quarter of a turn on, the patient's right faces the viewer and the front lies at the right: the
    # tumour is at the back.
    assert coloured(film[6, 0]).mean() < middle


def test_turning_in_the_legends_colours():
    of = figshare(label=2)
    gif = drawn(of, of.mask * 0, "figshare3d", "turning")["A-1-turning.gif"]
    first = np.asarray(Image.open(io.BytesIO(gif)).convert("RGB")).astype(int)
    assert len(inked(first[-rotation.FOOT :], TYPES[2][1])) > 50, "its square in the legend"
    truth, prediction = frames(gif)[0]
    assert np.abs(truth - TYPES[2][1]).sum(axis=2).min() < 40
    assert np.abs(prediction - TYPES[2][1]).sum(axis=2).min() > 150, "an empty prediction"


def test_turning_of_specks_single_slices_and_nothing():
    of = volume(zooms=(5.0, 1.0, 1.0))
    speck = of.mask * 0
    speck[4, 20, 15] = 1
    nothing = replace(of, images=of.images * 0, mask=of.mask * 0)
    single = replace(figshare(3), images=figshare(3).images[:, 4:5], mask=figshare(3).mask[4:5])
    red = LABELS[1][1]
    _, said = frames(drawn(of, speck, "unet3d", "turning")["A-1-turning.gif"])[0]
    assert np.abs(said - red).sum(axis=2).min() < 120
    assert drawn(nothing, nothing.mask, "unet3d", "turning")
    assert drawn(single, single.mask, "figshare3d", "turning")
