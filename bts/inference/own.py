"""The predictor of this project's own models: slices with their neighbours, or windows of a volume.

Axes: B batch, C channel (modality), K target, D z slices, H rows (y), W columns (x).
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional

from bts.cases.case import CaseVolume
from bts.inference.engine import Compiled
from bts.inference.predictor import How, Predictor, pick_modalities
from bts.model.device import autocast, channels_last, has_bfloat16, in_channels_last, off_device, to_device
from bts.model.file import Model
from bts.model.frame import place_in_frame
from bts.model.nets.folding import folded
from bts.model.nets.own_statistics import with_own_statistics
from bts.model.normalise import NOTHING, by_slice, constants, fill_background, normalise
from bts.model.resample import resize_images, resize_probabilities
from bts.model.spacing import working_size
from bts.model.targets import probabilities, targets_of
from bts.settings import Preset

MARGIN = 8  # pixels around the brain: without any, some labels at its surface change
GAUSSIAN = 1 / 8  # standard deviation of a window's weights, as a share of its side (nnU-Net's)


class OwnPredictor(Predictor):
    """A model of jobs.train, by its preset."""

    def __init__(self, model: Model, how: How):
        self.model, self.how, self.card = model, how, model.card
        dims, share = 3 if model.preset.volumetric else 2, model.preset.inference.own_statistics
        ready = with_own_statistics(model.network, share) if share else folded(model.network)
        # What a stem folds, it puts into that order itself.
        self.memory = channels_last(dims) if model.preset.layers.stem == 1 else torch.contiguous_format
        self.network: Callable[[torch.Tensor], torch.Tensor]
        if how.engine == "openvino":
            self.memory = torch.contiguous_format
            example = torch.zeros(1, model.preset.channels, *[2 * model.preset.layers.multiple] * dims)
            self.network = Compiled(ready, example, half=has_bfloat16(how.device), any_size=True)
        else:
            self.network = in_channels_last(ready.to(how.device), dims)

    def probabilities(self, volume: CaseVolume) -> torch.Tensor:
        """Raises CaseError for a case that lacks a modality."""
        model, allowed = self.model, self.how.allow_missing
        raw, mean, std = pick_modalities(volume, model.preset.modalities, allowed)
        images = _at_working_size(_signed(raw), volume, model.preset, self.how.device)
        slices, settings = images.transpose(0, 1), model.preset.normalisation  # (D, C, H, W)
        pixels = slices.cpu().numpy() if by_slice(settings) else slices
        known = to_device(constants(pixels, mean, std, settings, model.preset.frame), self.how.device)
        if model.preset.volumetric:
            found = self._windows(images, known.transpose(0, 1))
        else:
            found = self._slices(slices, known, *_place(volume, model.preset, slices.shape[2:]))
        return _at_source_size(found, volume, model.preset)

    def _slices(
        self,
        images_DCHW: torch.Tensor,
        known_DC4: torch.Tensor,
        place: tuple[int, int],
        multiples: tuple[int, int],
    ) -> torch.Tensor:
        """Slice by slice, with the neighbours that a 2.5D network sees → (K, D, H, W).

        place: row and column of the first pixel in the whole slice, or in the frame. multiples: of which the
        network sees rows and columns: what pooling needs, or the frame.
        """
        preset = self.model.preset
        settings, near, least = preset.normalisation, preset.sampling.neighbours, preset.layers.multiple
        rows, columns = multiples
        depth, _, *size = images_DCHW.shape
        filled = _lines(images_DCHW) if settings.keeps_zero else [np.ones((depth, n), bool) for n in size]
        found = torch.zeros((targets_of(preset), depth, *size), device=self.how.device)
        batch = self.how.batch or preset.inference.batch
        for first in range(0, depth, batch):
            last = min(first + batch, depth)
            around = slice(max(0, first - near), min(last + near, depth))
            box = tuple(_extent(np.logical_or.reduce(lines[around])) for lines in filled)
            above, left = ((at + side.start) % n for at, side, n in zip(place, box, multiples, strict=True))
            images = normalise(images_DCHW[(around, slice(None), *box)], known_DC4[around])
            height, width = images.shape[2:]
            right, below = -(left + width) % columns, -(above + height) % rows
            tiny = left + width + right == above + height + below == least
            if tiny and preset.layers.norm == "instance":
                right += least  # at its deepest it would norm single values, which PyTorch refuses
            # Before the background is filled: what is added is background, as in training, and slices beyond
            # the ends are.
            beyond = (near - (first - around.start), near - (around.stop - last))
            images = functional.pad(images, (left, right, above, below, 0, 0, *beyond))
            known = functional.pad(known_DC4[around], (0, 0, 0, 0, *beyond))
            images, known = _with_neighbours(images, near), _with_neighbours(known, near)
            images = fill_background(images, known, settings)
            probable = self._forward(images)[..., above : above + height, left : left + width]
            found[(slice(None), slice(first, last), *box)] = probable.transpose(0, 1)
        return found

    def _windows(self, images_CDHW: torch.Tensor, known_CD4: torch.Tensor) -> torch.Tensor:
        """Overlapping windows, blended by a Gaussian → (K, D, H, W)."""
        preset = self.model.preset
        settings, shape = preset.normalisation, images_CDHW.shape[1:]
        size = _window_size(preset, shape)
        short = [max(0, side - n) for n, side in zip(shape, size, strict=True)]
        images = functional.pad(images_CDHW, (0, short[2], 0, short[1], 0, short[0]))
        nothing = known_CD4.new_tensor(NOTHING).expand(len(known_CD4), short[0], 4)
        known = torch.cat([known_CD4, nothing], dim=1)
        weight = _gaussian(size).to(self.how.device)
        total = torch.zeros((targets_of(preset), *images.shape[1:]), device=self.how.device)
        weights = torch.zeros(images.shape[1:], device=self.how.device)
        batch = self.how.batch or preset.inference.batch
        corners = list(_corners(images.shape[1:], size, preset.inference.overlap))
        for some in (corners[i : i + batch] for i in range(0, len(corners), batch)):
            boxes = [tuple(slice(a, a + side) for a, side in zip(at, size, strict=True)) for at in some]
            cuts = torch.stack([images[(slice(None), *box)] for box in boxes])
            deep = torch.stack([known[:, box[0]] for box in boxes])
            cuts = fill_background(normalise(cuts, deep), deep, settings)
            for box, found in zip(boxes, self._forward(cuts), strict=True):
                total[(slice(None), *box)] += found.mul_(weight)
                weights[box] += weight
        return total.div_(weights)[:, : shape[0], : shape[1], : shape[2]]

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images, each side a multiple of what the network wants → probabilities (B, K, …)."""
        found = self._one_pass(images)
        return found.add_(self._one_pass(images.flip(-1)).flip(-1)).div_(2) if self.how.flips else found

    def _one_pass(self, images: torch.Tensor) -> torch.Tensor:
        with autocast(self.how.device):
            logits = self.network(images.contiguous(memory_format=self.memory))
        return probabilities(logits, self.model.preset)


def _place(
    volume: CaseVolume, preset: Preset, size: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(row and column of the first pixel, multiples of rows and columns) as `_slices` takes them, for slices
    of that size."""
    multiples = (preset.layers.multiple,) * 2
    # Where nothing was resampled, pooling falls on the same pixels wherever the crop begins.
    place = volume.origin[1:] if tuple(size) == volume.images.shape[2:] else (0, 0)
    if preset.frame is None:
        return place, multiples
    grid = volume.grid
    framed = place_in_frame(preset.frame, size, volume.origin[1:], grid.shape[1:], grid.zooms[1:])
    both = zip(framed, preset.frame, place, multiples, strict=True)
    (row, rows), (column, columns) = ((old, least) if at is None else (at, n) for at, n, old, least in both)
    return (row, column), (rows, columns)


def _at_working_size(
    images_CDHW: np.ndarray, volume: CaseVolume, preset: Preset, device: torch.device
) -> torch.Tensor:
    """Voxels on the device, as the network wants them: 1 mm, or the whole slice at the preset's own size.

    A 2D network never looks along z, and needs no slices that were not scanned: z stays as it is.
    """
    if preset.resize:
        whole = to_device(volume.whole(images_CDHW)[:, _depth(volume)], device)
        return resize_images(whole.transpose(0, 1), preset.resize).transpose(0, 1)
    images = to_device(images_CDHW, device)
    if preset.volumetric:
        return resize_images(images[None], working_size(images.shape[1:], volume.grid.zooms))[0]
    work = working_size(images.shape[2:], volume.grid.zooms[1:])
    return resize_images(images.transpose(0, 1), work).transpose(0, 1)


def _at_source_size(found_KDHW: torch.Tensor, volume: CaseVolume, preset: Preset) -> torch.Tensor:
    """Probabilities back on the volume's own grid."""
    depth, height, width = volume.images.shape[1:]
    if preset.resize:
        _, y, x = volume.origin
        whole = resize_probabilities(found_KDHW.transpose(0, 1), volume.grid.shape[1:]).transpose(0, 1)
        return whole[:, :, y : y + height, x : x + width]
    if preset.volumetric:
        return resize_probabilities(found_KDHW[None], (depth, height, width))[0]
    return resize_probabilities(found_KDHW.transpose(0, 1), (height, width)).transpose(0, 1)


def _depth(volume: CaseVolume) -> slice:
    """The crop's slices in the source."""
    return slice(volume.origin[0], volume.origin[0] + volume.images.shape[1])


def _with_neighbours(slices: torch.Tensor, near: int) -> torch.Tensor:
    """(near + B + near, C, …) → (B, C·(2·near + 1), …): each of the B slices with those around it."""
    last = len(slices) - 2 * near
    return torch.stack([slices[n : n + last] for n in range(2 * near + 1)], dim=2).flatten(1, 2)


def _lines(images_DCHW: torch.Tensor) -> list[np.ndarray]:
    """Rows (D, H) and columns (D, W) in which a slice is not 0 everywhere."""
    filled = (images_DCHW != 0).any(dim=1).to(torch.uint8)
    return [lines > 0 for lines in off_device(filled.amax(dim=2), filled.amax(dim=1))]


def _extent(filled_N: np.ndarray) -> slice:
    """Where rows, or columns, are filled: slices near the crown have half the brain's extent."""
    brain = np.flatnonzero(filled_N) if filled_N.any() else [0]
    return slice(max(0, int(brain[0]) - MARGIN), min(int(brain[-1]) + 1 + MARGIN, len(filled_N)))


def _window_size(preset: Preset, shape: Sequence[int]) -> tuple[int, ...]:
    """The training size, or the largest window allowed, cut down to what holds the whole shape."""
    if preset.inference.window is None:
        return preset.size
    multiple = preset.layers.multiple
    return tuple(
        min(most, -(-side // multiple) * multiple)
        for most, side in zip(preset.inference.window, shape, strict=True)
    )


def _corners(shape: Sequence[int], size: Sequence[int], overlap: float) -> Iterator[tuple[int, ...]]:
    """First voxels of windows that cover the shape, evenly spaced, overlapping by at least that share."""
    axes = []
    for n, side in zip(shape, size, strict=True):
        steps = max(1, round(side * (1 - overlap)))
        count = 1 + -(-(n - side) // steps)
        axes.append(sorted({round(i * (n - side) / max(1, count - 1)) for i in range(count)}))
    return itertools.product(*axes)


def _gaussian(size: tuple[int, ...]) -> torch.Tensor:
    """Weights of a window, 1 in its middle and never 0."""
    weight = torch.ones(())
    for side in size:
        x = (torch.arange(side) - (side - 1) / 2) / (GAUSSIAN * side)
        weight = weight[..., None] * torch.exp(-0.5 * x**2)
    return weight.clamp(min=1e-3)


def _signed(images: np.ndarray) -> np.ndarray:
    """Pixels as a contiguous type that torch computes with: uint16 has few operations there."""
    dtype = np.float32 if images.dtype == np.uint16 else images.dtype
    return np.ascontiguousarray(images, dtype=dtype)
