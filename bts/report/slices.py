"""Slices of a case as pictures: FLAIR, T1ce, truth and prediction, as a radiologist sees them.

Also the parts of which other pictures are made: grey windows, panels.
Axes: D z slices, H rows (y), W columns (x), canonical LPS.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from bts.boxes import filled_box
from bts.colours import LABEL_COLOURS, Legend

PLANES = {"axial": (0, "RL"), "coronal": (1, "RL"), "sagittal": (2, "AP")}  # axis looked along, its sides
BACKGROUNDS = {"flair": "FLAIR", "t1ce": "T1ce"}  # what a reader of tumour pictures expects to see
PICTURE_PX = 440  # longer side of a panel: sharp at twice the width it has on the page
PLANE_PX, THUMB_PX = 300, 190  # of a panel of a case's own page, and of a square among many cases
EDGE, INSIDE = 1.0, 0.5  # opacity of a label: its edge shows the shape, its inside the image below
MARGIN = 4  # voxels kept around the brain


def fullest_slice(truth_DHW: np.ndarray, prediction_DHW: np.ndarray, axis: int = 0) -> int:
    """Place along an axis of the slice with the most tumour in the truth; in the prediction where the truth
    is empty; of the middle one where both are."""
    shown = truth_DHW if truth_DHW.any() else prediction_DHW
    if not shown.any():
        return shown.shape[axis] // 2
    return int(np.count_nonzero(shown, axis=tuple({0, 1, 2} - {axis})).argmax())


def present(labels_DHW: np.ndarray) -> np.ndarray:
    """The labels (uint8) that occur, without the background."""
    counts = np.bincount(labels_DHW.ravel(), minlength=1)
    return np.flatnonzero(counts[1:]) + 1


def cut(volume_DHW: np.ndarray, axis: int, at: int) -> np.ndarray:
    """One slice as it is looked at: head up, and the front at the left of a sagittal one."""
    found = np.take(volume_DHW, at, axis)
    return found if axis == 0 else found[::-1]


def draw(
    truth_HW: np.ndarray,
    prediction_HW: np.ndarray,
    images: Mapping[str, np.ndarray],
    zooms: tuple[float, float],
    *,
    legend: Legend = LABEL_COLOURS,
    sides: str = "RL",
    pixels: int = PICTURE_PX,
    encode: Callable[[Image.Image], Any] | None = None,
) -> dict[str, Any]:
    """PNG (or what `encode` makes) by caption of one slice: FLAIR, T1ce, truth, prediction, in true aspect.

    Labels are uint8 (H, W); `images` holds those of BACKGROUNDS that there are, (H, W) of any dtype;
    `zooms` is mm along (H, W). Without images the labels lie on black. `sides`: letters at the left and the
    right; none where the planes of the slices are not known.
    """
    grey = {name: windowed(images[name]) for name in BACKGROUNDS if name in images}
    below = next(iter(grey.values()), np.zeros(truth_HW.shape, np.uint8))
    panels: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
        **{BACKGROUNDS[name]: (image, None) for name, image in grey.items()},
        "Ground truth": (below, truth_HW),
        "Prediction": (below, prediction_HW),
    }
    shown = [image for image in grey.values() if image.any()] + [truth_HW, prediction_HW]
    box = box_around(shown) if grey else (slice(None), slice(None))
    return {
        caption: (encode or png)(
            panel(
                image[box],
                None if labels is None else labels[box],
                zooms,
                legend=legend,
                pixels=pixels,
                sides=sides,
            )
        )
        for caption, (image, labels) in panels.items()
    }


def draw_planes(
    truth_DHW: np.ndarray,
    prediction_DHW: np.ndarray,
    images: Mapping[str, np.ndarray],
    zooms: tuple[float, float, float],
    *,
    legend: Legend = LABEL_COLOURS,
    placed: bool = True,
) -> dict[str, tuple[int, dict[str, bytes]]]:
    """{plane: (place of its fullest slice, JPEG by caption)}: axial, coronal, sagittal, as `draw` draws them.

    `placed`: False where the planes are not known: then the slices alone.
    """
    found = {}
    for plane, (axis, sides) in PLANES.items() if placed else {"slice": (0, "")}.items():
        at = fullest_slice(truth_DHW, prediction_DHW, axis)
        down_mm, across_mm = (size for n, size in enumerate(zooms) if n != axis)
        truth, prediction, *grey = (cut(v, axis, at) for v in (truth_DHW, prediction_DHW, *images.values()))
        below = dict(zip(images, grey, strict=True))
        pictures = draw(
            truth,
            prediction,
            below,
            (down_mm, across_mm),
            legend=legend,
            sides=sides,
            pixels=PLANE_PX,
            encode=jpeg,
        )
        found[plane] = at, pictures
    return found


def draw_pair(
    truth_HW: np.ndarray,
    prediction_HW: np.ndarray,
    images: Mapping[str, np.ndarray],
    zooms: tuple[float, float],
    **how,
) -> bytes:
    """JPEG of truth beside prediction, two squares; `how` as `draw` takes it."""
    panels = draw(truth_HW, prediction_HW, images, zooms, pixels=THUMB_PX, encode=lambda panel: panel, **how)
    both = Image.new("RGB", (2 * THUMB_PX + 2, THUMB_PX))
    for caption, x in (("Ground truth", 0), ("Prediction", THUMB_PX + 2)):
        both.paste(ImageOps.pad(panels[caption], (THUMB_PX, THUMB_PX)), (x, 0))
    return jpeg(both)


def windowed(image_HW: np.ndarray) -> np.ndarray:
    """Grey values uint8, from the 1st to the 99th percentile of the brain (non-zero pixels)."""
    brain = image_HW[image_HW != 0]
    if not brain.size:
        return np.zeros(image_HW.shape, np.uint8)
    low, high = np.percentile(brain, (1, 99))
    grey = np.clip((image_HW.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * 255
    return np.where(image_HW != 0, grey, 0).astype(np.uint8)


def box_around(arrays_HW: Sequence[np.ndarray]) -> tuple[slice, slice]:
    """Rows and columns that hold anything in any array, with a margin."""
    rows, columns = (
        slice(max(side.start - MARGIN, 0), side.stop + MARGIN) if side.stop else slice(None)
        for side in filled_box(*arrays_HW)
    )
    return rows, columns


def panel(
    grey_HW: np.ndarray,
    labels_HW: np.ndarray | None,
    zooms: tuple[float, float],
    *,
    legend: Legend = LABEL_COLOURS,
    pixels: int = PICTURE_PX,
    sides: str = "RL",
) -> Image.Image:
    """The grey image (uint8) smoothly enlarged, labels (uint8) on it as they are; letters at its `sides`.

    `zooms` is mm along (H, W), `pixels` the longer side. Labels on a black image are opaque.
    """
    size = panel_size(grey_HW.shape, zooms, pixels)
    picture = Image.fromarray(grey_HW).resize(size, Image.Resampling.BICUBIC)
    if labels_HW is not None:
        labels = np.asarray(Image.fromarray(labels_HW).resize(picture.size, Image.Resampling.NEAREST))
        picture = Image.fromarray(_coloured(np.asarray(picture), labels, legend))
    if sides:
        write_sides(picture, sides)
    return picture


def panel_size(shape_HW: tuple[int, ...], zooms: tuple[float, float], pixels: int) -> tuple[int, int]:
    """Width and height of a panel, the longer of `pixels`, at the right aspect."""
    high, wide = (n * mm for n, mm in zip(shape_HW, zooms, strict=True))
    width, height = (max(1, round(side * pixels / max(high, wide))) for side in (wide, high))
    return width, height


def write_sides(picture: Image.Image, sides: str = "RL") -> None:
    """A letter at the left, one at the right: R and L, the patient's, or A and P, front and back."""
    white = 255 if picture.mode == "L" else (255, 255, 255)
    font = ImageFont.load_default(max(12, max(picture.size) // 22))
    wide, high = picture.size
    # Rows run front to back, columns from the patient's right to left: radiological as it is.
    for letter, x, anchor in zip(sides, (6, wide - 6), ("lm", "rm"), strict=True):
        at = (x, high // 2)
        ImageDraw.Draw(picture).text(at, letter, white, font, anchor=anchor, stroke_width=2, stroke_fill=0)


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def jpeg(picture: Image.Image) -> bytes:
    """The picture as a JPEG file: a fifth of a PNG, and edges as sharp as its colours (no subsampling)."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88, subsampling=0)
    return file.getvalue()


def _coloured(grey_HW: np.ndarray, labels_HW: np.ndarray, legend: Legend) -> np.ndarray:
    """RGB (H, W, 3): labels translucent inside, solid along their edges."""
    palette = np.zeros((256, 3), np.float32)
    for label, (_, colour) in legend.items():
        palette[label] = colour
    edge = np.zeros(labels_HW.shape, bool)
    for axis in (0, 1):
        for step in (-2, -1, 1, 2):
            edge |= np.roll(labels_HW, step, axis) != labels_HW
    inside = INSIDE if grey_HW.any() else EDGE  # nothing to see through to
    opacity = np.where(labels_HW == 0, 0, np.where(edge, EDGE, inside))[..., None]
    return (grey_HW[..., None] * (1 - opacity) + palette[labels_HW] * opacity).astype(np.uint8)
