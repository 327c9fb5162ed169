"""Pictures that a training leaves of held-out cases: which ones is said by the preset's `pictures`.

Axes: K targets, D z slices, H rows (y), W columns (x), canonical LPS, cropped as the case's volume is.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bts.cases.case import CaseVolume
from bts.colours import Colours, Legend, colours_of
from bts.labels import PAINT, TARGETS, WRITTEN_AS
from bts.report import rotation, slices
from bts.report.lettering import Font, write
from bts.settings import Preset

NAMES = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}
PANEL_PX, STRIP_PX = 400, 220  # longer side of a panel; a strip has ten
SMALL = 15  # of letters, in pixels
GAP, APART = 8, 28  # pixels between panels, and between groups of them
PAPER, BRIGHT, DIM = (32, 35, 40), (240, 240, 240), (175, 175, 175)  # behind the panels, title, captions

Group = Mapping[str, Image.Image]  # panels by caption, left to right


def draw(
    volume: CaseVolume, probabilities: np.ndarray, labels: np.ndarray, preset: Preset
) -> dict[str, bytes]:
    """PNG or GIF by file name, CASE-KIND.png, of one case with a truth: each kind of `preset.pictures`.

    probabilities (K, D, H, W) float32 of the preset's targets, labels (D, H, W) uint8, as predicted.
    """
    shown = _Slice.fullest(volume, labels, WRITTEN_AS.get(preset.targets, ""))
    kinds: dict[str, Callable[[], bytes]] = {
        "strip": lambda: _strip(shown, volume.modalities, probabilities[:, shown.z], preset.targets),
        "triptych": lambda: _three(shown, _first_image(volume, preset), on_image=False),
        "overlay": lambda: _three(shown, _first_image(volume, preset), on_image=True),
        "turning": lambda: rotation.draw(volume, shown.truth_DHW, labels, shown.legend),
    }
    ends = {"turning": "gif"}
    return {f"{volume.case_id}-{kind}.{ends.get(kind, 'png')}": kinds[kind]() for kind in preset.pictures}


def grid(
    volume: CaseVolume,
    predictions: Mapping[str, np.ndarray],
    convention: str = "",
    colours: Colours = "field",
) -> bytes:
    """One slice as PNG: the image, the truth and each network's prediction on it, four panels a row.

    predictions: labels (D, H, W) uint8 by network name; `convention`: the figshare one that they are
    in, if any.
    """
    shown = _Slice.fullest(volume, next(iter(predictions.values())), convention, colours)
    image = "t1ce" if "t1ce" in volume.modalities else volume.modalities[0]
    below = shown.grey(image)
    cells = {NAMES[image]: shown.panel(below), "ground truth": shown.panel(below, shown.truth)}
    cells |= {name.replace("_", " "): shown.panel(below, of[shown.z]) for name, of in predictions.items()}
    captions = list(cells)
    rows = [[{name: cells[name] for name in captions[n : n + 4]}] for n in range(0, len(captions), 4)]
    return shown.sheet(rows, shown.used(*(of[shown.z] for of in predictions.values())))


def montage(cases: Mapping[str, bytes], title: str, legend: Legend) -> bytes:
    """PNG of many cases, four a row: {caption: picture of `slices.draw_pair`}."""
    groups = [{caption: Image.open(io.BytesIO(data))} for caption, data in cases.items()]
    rows = [groups[n : n + 4] for n in range(0, len(groups), 4)]
    return _sheet(title, rows, legend, ramp=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """What the sheets of one case share: its fullest slice, cut to the brain, and how to draw on it."""

    volume: CaseVolume
    truth_DHW: np.ndarray
    """In the labels that the preset predicts: 1 is any tumour where it tells no types."""
    prediction: np.ndarray
    """(H, W)."""
    z: int
    box: tuple[slice, slice]
    legend: Legend

    @classmethod
    def fullest(
        cls, volume: CaseVolume, labels_DHW: np.ndarray, convention: str, colours: Colours = "field"
    ) -> "_Slice":
        assert volume.mask is not None, "only cases with a ground truth are drawn"
        truth = (volume.mask > 0).astype(np.uint8) if convention == "figshare_tumour" else volume.mask
        z = slices.fullest_slice(truth, labels_DHW)
        box = slices.box_around([*volume.images[:, z], truth[z], labels_DHW[z]])
        legend = colours_of(convention, colours)
        return cls(volume=volume, truth_DHW=truth, prediction=labels_DHW[z], z=z, box=box, legend=legend)

    @property
    def truth(self) -> np.ndarray:
        """(H, W)."""
        return self.truth_DHW[self.z]

    @property
    def title(self) -> str:
        """Case, group where it has one, slice: z in the source, or place in a stack that tells none."""
        volume = self.volume
        place = f"slice {self.z + 1} of {len(self.truth_DHW)}"
        if volume.traits.placed:
            place = f"slice {volume.origin[0] + self.z}"
        return " · ".join(part for part in (volume.case_id, volume.group, place) if part)

    def grey(self, modality: str) -> np.ndarray:
        """The modality's slice, uint8 (H, W)."""
        return slices.windowed(self.volume.images[self.volume.modalities.index(modality), self.z])

    def panel(self, grey_HW: np.ndarray, labels_HW: np.ndarray | None = None, pixels=PANEL_PX) -> Image.Image:
        return slices.panel(
            grey_HW[self.box],
            None if labels_HW is None else labels_HW[self.box],
            self.volume.grid.zooms[1:],
            legend=self.legend,
            pixels=pixels,
            sides="RL" if self.volume.traits.placed else "",
        )

    def used(self, *more_HW: np.ndarray) -> Legend:
        """The legend, without the cavity where no label of the slice is one."""
        seen = any((labels == 4).any() for labels in (self.truth, self.prediction, *more_HW))
        return {label: of for label, of in self.legend.items() if label != 4 or seen}

    def sheet(self, rows: Sequence[Sequence[Group]], legend: Legend, ramp: bool = False) -> bytes:
        return _sheet(self.title, rows, legend, ramp)


def _first_image(volume: CaseVolume, preset: Preset) -> str:
    """The modality to show: T1ce where there is one; FLAIR of a preset whose patches FLAIR centres."""
    wanted = "flair" if preset.sampling.kind == "patches" else "t1ce"
    return wanted if wanted in volume.modalities else volume.modalities[0]


def _three(shown: _Slice, image: str, *, on_image: bool) -> bytes:
    """Image, truth, prediction; the labels on the image, or by themselves on black."""
    grey = shown.grey(image)
    below = grey if on_image else np.zeros_like(grey)
    group = {
        NAMES[image]: shown.panel(grey),
        "ground truth": shown.panel(below, shown.truth),
        "prediction": shown.panel(below, shown.prediction),
    }
    return shown.sheet([[group]], shown.used())


def _strip(shown: _Slice, modalities: Sequence[str], probabilities_KHW: np.ndarray, targets: str) -> bytes:
    """Every image | the truth of each target | its predicted probability, in a row."""
    images = {NAMES[m]: shown.panel(shown.grey(m), pixels=STRIP_PX) for m in modalities}
    truths, predicted = {}, {}
    for (name, labels), probability in zip(TARGETS[targets].items(), probabilities_KHW, strict=True):
        label = PAINT.get(name, labels[0])
        of = np.isin(shown.truth, labels).astype(np.uint8) * np.uint8(label)
        truths[f"{name} truth"] = shown.panel(np.zeros_like(of), of, STRIP_PX)
        predicted[f"{name} predicted"] = _tinted(shown, probability, shown.legend[label][1])
    return shown.sheet([[images, truths, predicted]], {}, ramp=True)


def _tinted(shown: _Slice, probability_HW: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """A probability as brightness of the target's colour: black is 0, the full colour 1."""
    grey = np.rint(np.clip(probability_HW[shown.box], 0, 1) * 255).astype(np.uint8)
    size = slices.panel_size(grey.shape, shown.volume.grid.zooms[1:], STRIP_PX)
    brightness = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))
    picture = Image.fromarray((brightness[..., None] / 255 * np.array(colour)).round().astype(np.uint8))
    if shown.volume.traits.placed:
        slices.write_sides(picture)
    return picture


def _sheet(title: str, rows: Sequence[Sequence[Group]], legend: Legend, ramp: bool) -> bytes:
    """PNG: rows of groups of panels of one size, captions above them, a title on top, the colours below."""
    wide, high = next(iter(rows[0][0].values())).size
    small = ImageFont.load_default(SMALL)
    widths = [sum(len(g) * (wide + GAP) - GAP + APART for g in row) - APART for row in rows]
    below = 34 if legend or ramp else 0
    size = (max(widths) + 2 * GAP, 34 + len(rows) * (high + 24 + GAP) + below)
    sheet = Image.new("RGB", size, PAPER)
    ink = ImageDraw.Draw(sheet)
    write(ink, (GAP, 17), title, BRIGHT, 18, width=size[0] - 2 * GAP)
    y = 34
    for row in rows:
        x = GAP
        for group in row:
            for caption, panel in group.items():
                write(ink, (x + wide / 2, y + 12), caption, DIM, SMALL, width=wide, anchor="mm")
                sheet.paste(panel, (x, y + 24))
                x += wide + GAP
            x += APART - GAP
        y += high + 24 + GAP
    x = GAP
    for name, colour in legend.values():
        ink.rounded_rectangle((x, y + 8, x + 14, y + 22), 3, fill=colour)
        ink.text((x + 21, y + 15), name, DIM, small, anchor="lm")
        x += 21 + round(small.getlength(name)) + 22
    if ramp:
        _draw_ramp(ink, x, y + 15, small)
    return slices.png(sheet)


def _draw_ramp(ink: ImageDraw.ImageDraw, x: int, y: int, font: Font) -> None:
    """The scale of the probabilities, from black to bright."""
    text = "probability 0"
    ink.text((x, y), text, DIM, font, anchor="lm")
    x += round(font.getlength(text)) + 8
    for step in range(128):
        ink.line((x + step, y - 6, x + step, y + 6), fill=(2 * step,) * 3)
    ink.rectangle((x, y - 6, x + 127, y + 6), outline=DIM)
    ink.text((x + 136, y), "1", DIM, font, anchor="lm")
