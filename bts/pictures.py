"""One axial slice of a case as pictures: FLAIR, T1ce, truth and prediction, as a radiologist sees them.

Axes: D z slices, H rows (y), W columns (x), canonical LPS.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# The field's colours: necrosis red, oedema green, enhancing yellow; blue for the cavity of 2024.
LABELS = {
    1: ("necrosis / non-enhancing", (230, 30, 40)),
    2: ("oedema", (30, 170, 60)),
    3: ("enhancing tumour", (255, 220, 0)),
    4: ("resection cavity", (66, 133, 244)),
}
BACKGROUNDS = {"flair": "FLAIR", "t1ce": "T1ce"}  # what a reader of tumour pictures expects to see
PICTURE_PX = 440  # longer side of a panel: sharp at twice the width it has on the page
EDGE, INSIDE = 1.0, 0.5  # opacity of a label: its edge shows the shape, its inside the image below
MARGIN = 4  # voxels kept around the brain


def fullest_slice(truth_DHW: np.ndarray, prediction_DHW: np.ndarray) -> int:
    """z of the axial slice with the most tumour in the truth; in the prediction where the truth is empty."""
    shown = truth_DHW if truth_DHW.any() else prediction_DHW
    return int(np.count_nonzero(shown, axis=(1, 2)).argmax())


def draw(
    truth_HW: np.ndarray,
    prediction_HW: np.ndarray,
    images: Mapping[str, np.ndarray],
    zooms: tuple[float, float],
) -> dict[str, bytes]:
    """PNG by caption of one axial slice: FLAIR, T1ce, truth, prediction, at the right aspect.

    Labels are uint8 (H, W); `images` holds those of BACKGROUNDS that there are, (H, W) of any dtype;
    `zooms` is mm along (H, W). Without images the labels lie on black.
    """
    grey = {name: _windowed(images[name]) for name in BACKGROUNDS if name in images}
    below = next(iter(grey.values()), np.zeros(truth_HW.shape, np.uint8))
    panels = {BACKGROUNDS[name]: (image, None) for name, image in grey.items()}
    panels |= {"Truth": (below, truth_HW), "Prediction": (below, prediction_HW)}
    shown = [image for image in grey.values() if image.any()] + [truth_HW, prediction_HW]
    box = _box(shown) if grey else (slice(None), slice(None))
    return {
        caption: _panel(image[box], None if labels is None else labels[box], zooms)
        for caption, (image, labels) in panels.items()
    }


def _windowed(image_HW: np.ndarray) -> np.ndarray:
    """Grey values uint8, from the 1st to the 99th percentile of the brain (non-zero pixels)."""
    brain = image_HW[image_HW != 0]
    if not brain.size:
        return np.zeros(image_HW.shape, np.uint8)
    low, high = np.percentile(brain, (1, 99))
    grey = np.clip((image_HW.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * 255
    return np.where(image_HW != 0, grey, 0).astype(np.uint8)


def _box(arrays_HW: Sequence[np.ndarray]) -> tuple[slice, slice]:
    """Rows and columns that hold anything in any array, with a margin."""
    filled = np.any([array != 0 for array in arrays_HW], axis=0)
    ends = [np.flatnonzero(filled.any(axis=axis)) for axis in (1, 0)]
    return tuple(slice(max(e[0] - MARGIN, 0), e[-1] + 1 + MARGIN) if e.size else slice(None) for e in ends)


def _panel(grey_HW: np.ndarray, labels_HW: np.ndarray | None, zooms: tuple[float, float]) -> bytes:
    """One PNG: the grey image smoothly enlarged, labels as they are, R and L at the sides."""
    high, wide = (n * mm for n, mm in zip(grey_HW.shape, zooms, strict=True))
    size = tuple(max(1, round(side * PICTURE_PX / max(high, wide))) for side in (wide, high))
    picture = Image.fromarray(grey_HW).resize(size, Image.Resampling.BICUBIC)
    if labels_HW is not None:
        labels = np.asarray(Image.fromarray(labels_HW).resize(size, Image.Resampling.NEAREST))
        picture = Image.fromarray(_coloured(np.asarray(picture), labels))
    ink, white = ImageDraw.Draw(picture), 255 if labels_HW is None else (255, 255, 255)
    font = ImageFont.load_default(PICTURE_PX // 22)
    # Rows run front to back, columns from the patient's right to left: radiological as it is.
    style = {"fill": white, "font": font, "stroke_width": 2, "stroke_fill": 0}
    for letter, x, anchor in (("R", 6, "lm"), ("L", size[0] - 6, "rm")):
        ink.text((x, size[1] // 2), letter, anchor=anchor, **style)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def _coloured(grey_HW: np.ndarray, labels_HW: np.ndarray) -> np.ndarray:
    """RGB (H, W, 3): labels translucent inside, solid along their edges."""
    palette = np.zeros((256, 3), np.float32)
    for label, (_, colour) in LABELS.items():
        palette[label] = colour
    edge = np.zeros(labels_HW.shape, bool)
    for axis in (0, 1):
        for step in (-2, -1, 1, 2):
            edge |= np.roll(labels_HW, step, axis) != labels_HW
    inside = INSIDE if grey_HW.any() else EDGE  # nothing to see through to
    opacity = np.where(labels_HW == 0, 0, np.where(edge, EDGE, inside))[..., None]
    return (grey_HW[..., None] * (1 - opacity) + palette[labels_HW] * opacity).astype(np.uint8)
