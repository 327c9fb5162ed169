"""One axial slice of a case as pictures: FLAIR, T1ce, truth and prediction, as a radiologist sees them.

Also the parts of which other pictures are made: colours, grey windows, panels.
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
# Colours of Okabe and Ito 2008, which colour-blind readers tell apart.
TYPES = {
    1: ("meningioma", (230, 159, 0)),
    2: ("glioma", (86, 180, 233)),
    3: ("pituitary tumour", (204, 121, 167)),
}
TUMOUR = {1: ("tumour", (230, 159, 0))}
LEGENDS = {"figshare": TYPES, "figshare_tumour": TUMOUR}  # by convention of bts.cases; of the others: LABELS
Legend = Mapping[int, tuple[str, tuple[int, int, int]]]  # name and RGB of each label
BACKGROUNDS = {"flair": "FLAIR", "t1ce": "T1ce"}  # what a reader of tumour pictures expects to see
PICTURE_PX = 440  # longer side of a panel: sharp at twice the width it has on the page
EDGE, INSIDE = 1.0, 0.5  # opacity of a label: its edge shows the shape, its inside the image below
MARGIN = 4  # voxels kept around the brain


def fullest_slice(truth_DHW: np.ndarray, prediction_DHW: np.ndarray) -> int:
    """z of the axial slice with the most tumour in the truth; in the prediction where the truth is empty; of
    the middle one where both are."""
    shown = truth_DHW if truth_DHW.any() else prediction_DHW
    if not shown.any():
        return len(shown) // 2
    return int(np.count_nonzero(shown, axis=(1, 2)).argmax())


def draw(
    truth_HW: np.ndarray,
    prediction_HW: np.ndarray,
    images: Mapping[str, np.ndarray],
    zooms: tuple[float, float],
    *,
    legend: Legend = LABELS,
    sides: bool = True,
) -> dict[str, bytes]:
    """PNG by caption of one axial slice: FLAIR, T1ce, truth, prediction, at the right aspect.

    Labels are uint8 (H, W); `images` holds those of BACKGROUNDS that there are, (H, W) of any dtype;
    `zooms` is mm along (H, W). Without images the labels lie on black. `sides` puts R and L where the
    patient's right and left are: not for figshare, whose slices lie in planes that the set does not tell.
    """
    grey = {name: windowed(images[name]) for name in BACKGROUNDS if name in images}
    below = next(iter(grey.values()), np.zeros(truth_HW.shape, np.uint8))
    panels = {BACKGROUNDS[name]: (image, None) for name, image in grey.items()}
    panels |= {"Truth": (below, truth_HW), "Prediction": (below, prediction_HW)}
    shown = [image for image in grey.values() if image.any()] + [truth_HW, prediction_HW]
    box = box_around(shown) if grey else (slice(None), slice(None))
    return {
        caption: png(
            panel(image[box], None if labels is None else labels[box], zooms, legend=legend, sides=sides)
        )
        for caption, (image, labels) in panels.items()
    }


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
    filled = np.any([array != 0 for array in arrays_HW], axis=0)
    ends = [np.flatnonzero(filled.any(axis=axis)) for axis in (1, 0)]
    return tuple(slice(max(e[0] - MARGIN, 0), e[-1] + 1 + MARGIN) if e.size else slice(None) for e in ends)


def panel(
    grey_HW: np.ndarray,
    labels_HW: np.ndarray | None,
    zooms: tuple[float, float],
    *,
    legend: Legend = LABELS,
    pixels: int = PICTURE_PX,
    sides: bool = True,
) -> Image.Image:
    """The grey image (uint8) smoothly enlarged, labels (uint8) on it as they are; R and L if `sides`.

    `zooms` is mm along (H, W), `pixels` the longer side. Labels on a black image are opaque.
    """
    size = panel_size(grey_HW.shape, zooms, pixels)
    picture = Image.fromarray(grey_HW).resize(size, Image.Resampling.BICUBIC)
    if labels_HW is not None:
        labels = np.asarray(Image.fromarray(labels_HW).resize(picture.size, Image.Resampling.NEAREST))
        picture = Image.fromarray(_coloured(np.asarray(picture), labels, legend))
    if sides:
        write_sides(picture)
    return picture


def panel_size(shape_HW: tuple[int, int], zooms: tuple[float, float], pixels: int) -> tuple[int, int]:
    """Width and height of a panel, the longer of `pixels`, at the right aspect."""
    high, wide = (n * mm for n, mm in zip(shape_HW, zooms, strict=True))
    return tuple(max(1, round(side * pixels / max(high, wide))) for side in (wide, high))


def write_sides(picture: Image.Image) -> None:
    """R and L, the patient's, at the sides of an axial panel."""
    white = 255 if picture.mode == "L" else (255, 255, 255)
    font = ImageFont.load_default(max(12, max(picture.size) // 22))
    style = {"fill": white, "font": font, "stroke_width": 2, "stroke_fill": 0}
    wide, high = picture.size
    # Rows run front to back, columns from the patient's right to left: radiological as it is.
    for letter, x, anchor in (("R", 6, "lm"), ("L", wide - 6, "rm")):
        ImageDraw.Draw(picture).text((x, high // 2), letter, anchor=anchor, **style)


def knows_place(dataset: str) -> bool:
    """Whether left and right are known: a slice of figshare is axial, coronal or sagittal, and tells not."""
    return dataset != "figshare"


def fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, its end cut off where it is wider than that many pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
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
