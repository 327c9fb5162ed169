"""A case as a turning head: the tumour's surfaces inside a hull of glass, truth beside prediction, as a GIF.

A surface is a cloud of points with normals, taken off a smoothed mask and drawn nearest last: no 3D library,
a second or two of CPU. Axes: D z slices, H rows (y), W columns (x), canonical LPS; N points.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from bts.cases.case import CaseVolume
from bts.colours import Legend
from bts.report.lettering import write

FRAMES, FRAME_MS = 24, 110
PANEL_PX = 280
FINER = 2  # points are drawn at twice the size, then shrunk: smooth edges
SIDE = 64  # voxels along the longest side of the box that a surface is taken from
TILT = np.deg2rad(22)  # seen from a little above
LIGHT = np.array([-0.45, 0.55, 0.70])  # from the upper left, in front; right, up, towards the viewer
GLASS = np.array([150.0, 152.0, 158.0])  # colour of the hull: none, so that no label looks like it
TRANSLUCENT = {"oedema": 0.3, "enhancing tumour": 0.85}  # opacity by name: they hide what they enclose
COLOURS = 160  # of the GIF, besides those of its legend
BRIGHT, DIM, BEHIND = (240, 240, 240), (170, 170, 170), (95, 95, 95)
HEAD, FOOT = 46, 30  # pixels above the panels and below


@dataclass(frozen=True, slots=True)
class Cloud:
    """Points of a surface."""

    points: np.ndarray
    """(N, 3) float32 x, y, z in mm from the middle of the volume."""
    normals: np.ndarray
    """(N, 3) float32, outwards."""
    voxel: float
    """mm between neighbours."""


def draw(volume: CaseVolume, truth_DHW: np.ndarray, prediction_DHW: np.ndarray, legend: Legend) -> bytes:
    """GIF of one turn around the head-foot axis, starting from the front; both sides by the same camera.

    truth, prediction: labels (D, H, W) uint8 on the volume's crop, coloured by `legend`.
    """
    spacing = _spacing(volume)
    hull = _surface(_outline(volume), spacing)
    sides = {
        caption: {n: _surface(labels == n, spacing) for n in legend if (labels == n).any()}
        for caption, labels in (("ground truth", truth_DHW), ("prediction", prediction_DHW))
    }
    half = spacing[::-1] * truth_DHW.shape[::-1] / 2  # x, y, z in mm
    scale = _scale(hull, half)
    used = {n: of for n, of in legend.items() if any(n in clouds for clouds in sides.values())}
    frame = _frame(volume, list(sides), used)
    frames = []
    for turn in np.arange(FRAMES) * 2 * np.pi / FRAMES:
        glass = _glass(hull, turn, scale)
        picture = frame.copy()
        for place, clouds in enumerate(sides.values()):
            panel = _panel(glass, clouds, turn, scale, legend)
            if volume.traits.placed:
                _write_sides(panel, turn, scale, half)
            picture.paste(panel, (place * PANEL_PX, HEAD))
        frames.append(picture)
    return _gif(frames, [colour for _, colour in used.values()])


def _spacing(volume: CaseVolume) -> np.ndarray:
    """mm along (D, H, W). Where the gap between slices is not known, a stack is a third as deep as wide."""
    spacing = np.array(volume.grid.zooms)
    if not volume.traits.spaced:
        depth, _, width = volume.images.shape[1:]
        spacing[0] = spacing[2] * width / 3 / depth
    return spacing


def _outline(volume: CaseVolume) -> np.ndarray:
    """The brain, bool (D, H, W); with the skull on, the head, whose background is not quite 0."""
    level = 0 if volume.traits.stripped else 0.15 * float(volume.p99[0])
    filled = (np.abs(volume.images) > level).any(axis=0)
    return np.stack([ndimage.binary_fill_holes(slice_HW) for slice_HW in filled])


def _surface(mask_DHW: np.ndarray, spacing: np.ndarray) -> Cloud:
    """Surface of a mask, in equal steps along all axes."""
    if not mask_DHW.any():
        return Cloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), 1.0)
    middle = spacing * mask_DHW.shape / 2
    (box,) = ndimage.find_objects(mask_DHW.view(np.uint8))
    extent = spacing * [s.stop - s.start for s in box]
    voxel = max(extent) / SIDE
    shape = [max(1, round(n)) for n in extent / voxel]
    field = ndimage.gaussian_filter(np.pad(_shares(mask_DHW[box], shape), 3), 1.0)
    inside = field >= min(0.5, field.max() / 2)  # a speck is smoothed below a half
    edge = np.argwhere(inside & ~ndimage.binary_erosion(inside))
    slope = np.stack([g[tuple(edge.T)] for g in np.gradient(field)], axis=1)
    normals = -slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-6)
    start = spacing * [s.start for s in box]
    points = start + (edge - 3 + 0.5) * (extent / shape) - middle
    return Cloud(points[:, ::-1].astype(np.float32), normals[:, ::-1].astype(np.float32), voxel)


def _shares(mask_DHW: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """How much of each cell of a coarser or finer grid of that shape the mask fills, float32: means over the
    voxels that a cell touches, as PyTorch's interpolation by area."""
    filled = mask_DHW.astype(np.int32)
    sizes = np.float32(1)
    for axis, (old, new) in enumerate(zip(mask_DHW.shape, shape, strict=True)):
        first, end = np.arange(new) * old // new, -(-(np.arange(new) + 1) * old // new)
        sums = np.insert(np.cumsum(filled, axis), 0, 0, axis)
        filled = np.take(sums, end, axis) - np.take(sums, first, axis)
        sizes = sizes * (end - first).reshape([-1 if n == axis else 1 for n in range(3)])
    return (filled / sizes).astype(np.float32)


def _scale(hull: Cloud, half: np.ndarray) -> float:
    """Pixels a mm at which the hull, or the box where there is none, stays within its panel all around."""
    x, y, z = np.abs(hull.points).T if len(hull.points) else half[:, None]
    across = np.hypot(x, y).max()
    high = z.max() * np.cos(TILT) + across * np.sin(TILT)
    return float(0.47 * PANEL_PX / max(across, high))


def _seen(vectors_N3: np.ndarray, turn: float) -> np.ndarray:
    """x, y, z → right, up, towards the viewer: first from the front (the patient's right at the left)."""
    x, y, z = vectors_N3.T
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    return np.stack([x, z * np.cos(TILT) + y * np.sin(TILT), z * np.sin(TILT) - y * np.cos(TILT)], axis=1)


def _glass(hull: Cloud, turn: float, scale: float) -> np.ndarray:
    """Light of the hull, (H, W) in 0…1: brightest where it is seen edge-on, as glass is."""
    at, facing = _seen(hull.points, turn) * scale, _seen(hull.normals, turn)[:, 2]
    columns, rows = _pixels(at, PANEL_PX)
    rim = (1 - np.abs(facing)) ** 3 * (hull.voxel * scale) ** 2
    light = np.bincount(rows * PANEL_PX + columns, rim, PANEL_PX**2).reshape(PANEL_PX, PANEL_PX)
    return 1 - np.exp(-0.35 * ndimage.gaussian_filter(light, max(1.0, 0.8 * hull.voxel * scale)))


def _panel(
    glass: np.ndarray, clouds: Mapping[int, Cloud], turn: float, scale: float, legend: Legend
) -> Image.Image:
    """Tumour surfaces, each by its own nearest points, laid over one another from far to near."""
    fine = PANEL_PX * FINER
    picture = np.zeros((fine * fine, 3), np.float32)
    layers = [(n, *_nearest(cloud, turn, scale * FINER, fine)) for n, cloud in clouds.items()]
    seen = np.flatnonzero(np.any([nearest >= 0 for _, nearest, _ in layers], axis=0))
    at = [nearest[seen] for _, nearest, _ in layers]  # which point of each cloud
    depths = [np.where(found >= 0, of[0][found], -np.inf) for found, (*_, of) in zip(at, layers, strict=True)]
    for rank in np.argsort(depths, axis=0):
        for place, (label, _, of) in enumerate(layers):
            mine = np.flatnonzero((rank == place) & (at[place] >= 0))
            here, (_, shade, rim) = seen[mine], of[:, at[place][mine]]
            name, colour = legend[label]
            clear = (1 - TRANSLUCENT.get(name, 1.0)) * (1 - rim[:, None])
            lit = shade[:, None] * np.array(colour, np.float32)
            picture[here] = picture[here] * clear + lit * (1 - clear)
    small = np.asarray(Image.fromarray(picture.astype(np.uint8).reshape(fine, fine, 3)).reduce(FINER))
    glare = np.where(small[..., 0] | small[..., 1] | small[..., 2], 0.4, 1.0)  # little before the tumour
    out = small + (glass * glare)[..., None] * GLASS
    return Image.fromarray(np.clip(out, 0, 255).astype(np.uint8))


def _nearest(cloud: Cloud, turn: float, scale: float, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(of each pixel the point that is seen there, -1 where nothing is, (side²) int32; of each point its
    depth towards the viewer, brightness, how much it is seen edge-on, (3, N) float32)."""
    at, normals = _seen(cloud.points, turn), _seen(cloud.normals, turn)
    order = np.argsort(at[:, 2])  # the nearest is written last, and stays
    at, normals = at[order] * scale, normals[order]
    lit = 0.45 + 0.55 * np.clip(normals @ (LIGHT / np.linalg.norm(LIGHT)), 0, 1)
    rim = (1 - np.clip(normals[:, 2], 0, 1)) ** 2
    width = int(np.ceil(cloud.voxel * scale * 1.3))
    around = np.arange(width, dtype=np.int32) - width // 2
    columns, rows = _pixels(at, side)
    columns = np.clip(columns[:, None, None] + around[None, None, :], 0, side - 1)
    rows = np.clip(rows[:, None, None] + around[None, :, None], 0, side - 1)
    nearest = np.full(side * side, -1, np.int32)
    nearest[rows * side + columns] = np.arange(len(at), dtype=np.int32)[:, None, None]
    return nearest, np.stack([at[:, 2], lit, rim]).astype(np.float32)


def _pixels(at_N3: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Column and row of each point on a square panel."""
    places = side / 2 + at_N3[:, 0], side / 2 - at_N3[:, 1]
    columns, rows = (np.clip(np.floor(place).astype(np.int64), 0, side - 1) for place in places)
    return columns, rows


def _write_sides(panel: Image.Image, turn: float, scale: float, half: np.ndarray) -> None:
    """R and L beside the foot of the head, turning with it; dim behind it."""
    ink, font = ImageDraw.Draw(panel), ImageFont.load_default(15)
    for letter, side in (("R", -1), ("L", 1)):
        ((right, up, near),) = _seen(np.array([[side * (half[0] + 8), 0, -half[2]]]), turn)
        behind = near < -half[2] * np.sin(TILT) - 0.3 * half[0]
        place = (PANEL_PX / 2 + right * scale, PANEL_PX / 2 - up * scale)
        ink.text(
            place, letter, BEHIND if behind else BRIGHT, font, anchor="mm", stroke_width=2, stroke_fill=0
        )


def _frame(volume: CaseVolume, captions: list[str], legend: Legend) -> Image.Image:
    """What no turn changes: case and captions above the panels, the colours below."""
    picture = Image.new("RGB", (PANEL_PX * len(captions), HEAD + PANEL_PX + FOOT))
    ink, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    title = " · ".join(part for part in (volume.case_id, volume.group) if part)
    write(ink, (8, 12), title, BRIGHT, 13, width=picture.width - 16)
    for place, caption in enumerate(captions):
        middle = (place + 0.5) * PANEL_PX
        ink.text((middle, HEAD - 12), caption, DIM, font, anchor="mm")
    x, y = 8, HEAD + PANEL_PX + FOOT // 2
    for name, colour in legend.values():
        ink.rounded_rectangle((x, y - 6, x + 12, y + 6), 3, fill=colour)
        ink.text((x + 18, y), name, DIM, font, anchor="lm")
        x += 18 + round(font.getlength(name)) + 18
    return picture


def _gif(frames: list[Image.Image], exact: list[tuple[int, int, int]]) -> bytes:
    """Frames over and over, in one palette that holds the `exact` colours as they are."""
    sample = Image.new("RGB", (frames[0].width, frames[0].height * 3))
    for n in range(3):
        sample.paste(frames[n * len(frames) // 3], (0, n * frames[0].height))
    palette = sample.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    kept = [value for colour in (*exact, BRIGHT, DIM) for value in colour]
    found = palette.getpalette()
    assert found is not None, "a quantised picture has one"
    palette.putpalette(found[: 3 * COLOURS] + kept)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    file = io.BytesIO()
    small[0].save(file, "GIF", save_all=True, append_images=small[1:], duration=FRAME_MS, loop=0)
    return file.getvalue()
