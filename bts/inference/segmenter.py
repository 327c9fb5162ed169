"""Segmenter: voxels of one case → labelmap, by one model or the mean of several.

Axes: B batch, C channel (modality), K target, D z slices, H rows (y), W columns (x).
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from bts.cases.case import CaseVolume
from bts.errors import CaseError, UsageError
from bts.inference.confidence import agreement, expected_dice
from bts.inference.postprocess import tidy
from bts.model.device import autocast, channels_last, pick_device
from bts.model.file import Model
from bts.model.frame import place_in_frame
from bts.model.nets.folding import folded
from bts.model.nets.own_statistics import with_own_statistics
from bts.model.normalise import NOTHING, constants, finish, normalise
from bts.model.resample import resize_images, resize_probabilities, working_size
from bts.model.targets import decode, probabilities, targets_of
from bts.settings import Inference, Preset

MARGIN = 8  # pixels around the brain: without any, some labels at its surface change
LEAST = ("min_et_ml", "min_et_share", "min_tumour_ml", "min_core_ml", "min_et_piece_ml")
GAUSSIAN = 1 / 8  # standard deviation of a window's weights, as a share of its side (nnU-Net's)


class Segmenter:
    """Predicts labels of whole cases; the same case gives the same bytes on the same machine."""

    def __init__(
        self,
        models: list[Model],
        device=None,
        flips: bool = False,
        batch: int | None = None,
        allow_missing: Collection[str] = (),
    ):
        """models: their probabilities are averaged, each by its own settings; their order changes nothing.

        flips: average also over the left-right mirror image, at twice the time.
        batch: slices (or volumes) predicted at once, None for each preset's.
        allow_missing: modalities that a case may lack; the networks see 0 in their place.
        Raises UsageError for models whose probabilities are not of one kind.
        """
        if not models:
            raise ValueError("a Segmenter needs at least one model")
        if len(kinds := {kind_of(model.preset) for model in models}) > 1:
            raise UsageError(
                f"the models predict different targets: {', '.join(sorted(kinds))}; give one kind"
            )
        self.device, self.flips = pick_device(device), flips
        self.models, self.preset = [self._ready(model) for model in models], models[0].preset
        self.settings = shared([model.preset.inference for model in models])
        self.batch, self.allow_missing = batch, frozenset(allow_missing)

    def _ready(self, model: Model) -> Model:
        dims = 3 if model.preset.volumetric else 2
        share = model.preset.inference.own_statistics
        ready = with_own_statistics(model.network, share) if share else folded(model.network)
        network = ready.to(self.device, memory_format=channels_last(dims))
        return replace(model, network=network)

    def __call__(self, volume: CaseVolume) -> np.ndarray:
        """A case → uint8 (D, H, W) labels of the project on its own grid.

        Raises CaseError when the case lacks a modality that a model needs.
        """
        return self.tidied(volume, self.decoded(self.probabilities(volume)))

    def tidied(self, volume: CaseVolume, labels_DHW: np.ndarray) -> np.ndarray:
        """What `decoded` labels amount to, seen as a whole, as uint8 (D, H, W)."""
        if not volume.traits.stripped:
            return labels_DHW
        brain = volume.brain
        return tidy(labels_DHW * brain, self.settings, float(np.prod(volume.grid.zooms))) * brain

    def decoded(self, probabilities_KDHW: torch.Tensor) -> np.ndarray:
        """The likeliest labels voxel by voxel, before anything is known of the whole, as uint8 (D, H, W)."""
        return decode(probabilities_KDHW, self.preset, self.settings.threshold).numpy()

    def as_bytes(self, volume: CaseVolume, probabilities_KDHW: torch.Tensor) -> np.ndarray:
        """Probabilities as uint8 (K, D, H, W): 255 is 1, from 128 on it is over 0.5; 0 outside the brain,
        where no tumour is looked for. What `tidied` changes stays as the network sees it."""
        found = torch.ceil(probabilities_KDHW * 255 - 0.5).to(torch.uint8).numpy()
        return found * volume.brain if volume.traits.stripped else found

    def agreement(
        self, volume: CaseVolume, probabilities_KDHW: torch.Tensor, labels_DHW: np.ndarray
    ) -> dict[str, float]:
        """How far the probabilities bear out the labels, by region (see `confidence`); of the brain alone."""
        if volume.traits.stripped:
            probabilities_KDHW = probabilities_KDHW * torch.from_numpy(volume.brain)
        return agreement(probabilities_KDHW, labels_DHW, self.preset.targets)

    def expected_dice(
        self, volume: CaseVolume, probabilities_KDHW: torch.Tensor, labels_DHW: np.ndarray
    ) -> dict[str, float]:
        """Dice to expect of the labels, by region, from what each model's held-out cases got: their mean."""
        agreed = self.agreement(volume, probabilities_KDHW, labels_DHW)
        each = [expected_dice(agreed, model.meta.get("validation", {})) for model in self.models]
        known = [region for region in each[0] if all(region in of for of in each)]
        return {region: sum(of[region] for of in each) / len(each) for region in known}

    def probabilities(self, volume: CaseVolume) -> torch.Tensor:
        """A case → float32 (K, D, H, W) probabilities of the targets, mean of all models."""
        return sum(self.each(volume)) / len(self.models)

    @torch.inference_mode()
    def each(self, volume: CaseVolume) -> list[torch.Tensor]:
        """The probabilities of every model by itself."""
        return [self._predict(model, volume) for model in self.models]

    def _predict(self, model: Model, volume: CaseVolume) -> torch.Tensor:
        images, mean, std = pick_modalities(volume, model.preset.modalities, self.allow_missing)
        images = _at_working_size(_signed(images), volume, model.preset)
        slices = images.transpose(0, 1)  # (D, C, H, W)
        known = constants(slices.numpy(), mean, std, model.preset.normalisation, model.preset.frame)
        known = torch.from_numpy(known)
        if model.preset.volumetric:
            found = self._windows(model, images, known.transpose(0, 1))
        else:
            found = self._slices(model, slices, known, *_place(volume, model.preset, slices.shape[2:]))
        if not torch.isfinite(found).all():
            problem = f"the network {model.preset.name} ({model.digest}) gives no numbers"
            mend = "look at the images, and at the GPU"
            raise CaseError(problem, mend=mend, case=volume.case_id, stage="predict")
        return _at_source_size(found, volume, model.preset)

    def _slices(
        self,
        model: Model,
        images_DCHW: torch.Tensor,
        known_DC4: torch.Tensor,
        place: tuple[int, int],
        multiples: tuple[int, int],
    ) -> torch.Tensor:
        """Slice by slice, with the neighbours that a 2.5D network sees → (K, D, H, W).

        place: row and column of the first pixel in the whole slice, or in the frame. multiples: of which the
        network sees rows and columns: what pooling needs, or the frame.
        """
        settings, targets = model.preset.normalisation, targets_of(model.preset)
        near, least = model.preset.sampling.neighbours, model.preset.layers.multiple
        rows, columns = multiples
        found = torch.zeros((len(images_DCHW), targets, *images_DCHW.shape[2:]))
        for indices in torch.arange(len(images_DCHW)).split(self.batch or model.preset.inference.batch):
            seen = images_DCHW[max(0, int(indices[0]) - near) : int(indices[-1]) + near + 1]
            box = _extent(seen) if settings.keeps_zero else _whole(seen)
            above, left = ((at + side.start) % n for at, side, n in zip(place, box, multiples, strict=True))
            images = _with_neighbours(images_DCHW[(..., *box)], indices, near)
            known = _with_neighbours(known_DC4, indices, near)
            height, width = images.shape[2:]
            # Before normalising: what is added is background, as in training.
            right, below = -(left + width) % columns, -(above + height) % rows
            tiny = left + width + right == above + height + below == least
            if tiny and model.preset.layers.norm == "instance":
                right += least  # at its deepest it would norm single values, which PyTorch refuses
            images = functional.pad(images, (left, right, above, below))
            images, known = images.to(self.device), known.to(self.device)
            images = finish(normalise(images, known), known, settings)
            probable = self._forward(model, images).cpu()
            found[(indices, slice(None), *box)] = probable[..., above : above + height, left : left + width]
        return found.transpose(0, 1)

    def _windows(self, model: Model, images_CDHW: torch.Tensor, known_CD4: torch.Tensor) -> torch.Tensor:
        """Overlapping windows, blended by a Gaussian → (K, D, H, W)."""
        settings, shape = model.preset.normalisation, images_CDHW.shape[1:]
        size = _window_size(model.preset, shape)
        short = [max(0, side - n) for n, side in zip(shape, size, strict=True)]
        images = functional.pad(images_CDHW, (0, short[2], 0, short[1], 0, short[0]))
        nothing = torch.tensor(NOTHING, dtype=known_CD4.dtype).expand(len(known_CD4), short[0], 4)
        known = torch.cat([known_CD4, nothing], dim=1)
        weight = _gaussian(size).to(self.device)
        total = torch.zeros((targets_of(model.preset), *images.shape[1:]), device=self.device)
        weights = torch.zeros(images.shape[1:], device=self.device)
        batch = self.batch or model.preset.inference.batch
        corners = list(_corners(images.shape[1:], size, model.preset.inference.overlap))
        for some in (corners[i : i + batch] for i in range(0, len(corners), batch)):
            boxes = [tuple(slice(a, a + side) for a, side in zip(at, size, strict=True)) for at in some]
            cuts = torch.stack([images[(slice(None), *box)] for box in boxes]).to(self.device)
            deep = torch.stack([known[:, box[0]] for box in boxes]).to(self.device)
            cuts = finish(normalise(cuts, deep), deep, settings)
            for box, found in zip(boxes, self._forward(model, cuts), strict=True):
                total[(slice(None), *box)] += found * weight
                weights[box] += weight
        return (total / weights)[:, : shape[0], : shape[1], : shape[2]].cpu()

    def _forward(self, model: Model, images: torch.Tensor) -> torch.Tensor:
        """Normalised images, each side a multiple of what the network wants → probabilities (B, K, …)."""
        memory = channels_last(images.ndim - 2)
        with autocast(self.device):
            logits = model.network(images.contiguous(memory_format=memory))
            mirrored = model.network(images.flip(-1).contiguous(memory_format=memory)) if self.flips else None
        found = probabilities(logits, model.preset)
        if mirrored is not None:
            found = (found + probabilities(mirrored, model.preset).flip(-1)) / 2
        return found


def kind_of(preset: Preset) -> str:
    """What the probabilities of a model are of, as a message names it: only equal ones can be averaged."""
    return f"{preset.targets} ({preset.output})"


def shared(settings: Sequence[Inference]) -> Inference:
    """How the mean of several models becomes labels: their mean threshold, which is each one's own applied to
    its own share; and what all of them take away or fill."""
    fewest = {name: min(getattr(one, name) for one in settings) for name in LEAST}
    threshold = sum(one.threshold for one in settings) / len(settings)
    filled = all(one.fill_core for one in settings)
    return replace(settings[0], threshold=threshold, fill_core=filled, **fewest)


def pick_modalities(volume, wanted: Sequence[str], allow_missing: Collection[str] = ()) -> tuple:
    """(images (C, D, H, W), mean (C,), std (C,)) of the wanted modalities; one that may be missing is 0.

    Raises CaseError for another missing one.
    """
    missing = [name for name in wanted if name not in volume.modalities]
    if not set(missing) <= set(allow_missing):
        raise CaseError(
            f"lacks {', '.join(missing)}, which the model needs",
            mend="add the missing modality, allow it to be missing (segment --allow-missing), or use a model "
            "trained without it",
            case=getattr(volume, "case_id", ""),
            stage="predict",
        )
    channels = [volume.modalities.index(name) for name in wanted if name not in missing]
    there = np.array([name not in missing for name in wanted])
    images = np.zeros((len(wanted), *np.shape(volume.images)[1:]), volume.images.dtype)
    mean, std = np.zeros(len(wanted), np.float32), np.ones(len(wanted), np.float32)
    for found, of in zip((images, mean, std), (volume.images, volume.mean, volume.std), strict=True):
        found[there] = np.asarray(of)[channels]
    return images, mean, std


def _place(volume, preset: Preset, size: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(row and column of the first pixel, multiples of rows and columns) as `_slices` takes them, for slices
    of that size."""
    multiples = (preset.layers.multiple,) * 2
    # Where nothing was resampled, pooling falls on the same pixels wherever the crop begins.
    place = volume.origin[1:] if tuple(size) == np.shape(volume.images)[2:] else (0, 0)
    if preset.frame is None:
        return place, multiples
    grid = volume.grid
    framed = place_in_frame(preset.frame, size, volume.origin[1:], grid.shape[1:], grid.zooms[1:])
    both = zip(framed, preset.frame, place, multiples, strict=True)
    return tuple(zip(*((old, least) if at is None else (at, n) for at, n, old, least in both), strict=True))


def _at_working_size(images_CDHW: torch.Tensor, volume, preset: Preset) -> torch.Tensor:
    """Voxels as the network wants them: 1 mm, or the whole slice at the preset's own size.

    A 2D network never looks along z, and needs no slices that were not scanned: z stays as it is.
    """
    if preset.resize:
        whole = torch.from_numpy(volume.whole(images_CDHW.numpy())[:, _depth(volume)])
        return resize_images(whole.transpose(0, 1), preset.resize).transpose(0, 1)
    if preset.volumetric:
        return resize_images(images_CDHW[None], working_size(images_CDHW.shape[1:], volume.grid.zooms))[0]
    work = working_size(images_CDHW.shape[2:], volume.grid.zooms[1:])
    return resize_images(images_CDHW.transpose(0, 1), work).transpose(0, 1)


def _at_source_size(found_KDHW: torch.Tensor, volume, preset: Preset) -> torch.Tensor:
    """Probabilities back on the volume's own grid."""
    depth, height, width = np.shape(volume.images)[1:]
    if preset.resize:
        _, y, x = volume.origin
        whole = resize_probabilities(found_KDHW.transpose(0, 1), volume.grid.shape[1:]).transpose(0, 1)
        return whole[:, :, y : y + height, x : x + width]
    if preset.volumetric:
        return resize_probabilities(found_KDHW[None], (depth, height, width))[0]
    return resize_probabilities(found_KDHW.transpose(0, 1), (height, width)).transpose(0, 1)


def _depth(volume) -> slice:
    return slice(volume.origin[0], volume.origin[0] + np.shape(volume.images)[1])


def _with_neighbours(slices: torch.Tensor, indices: torch.Tensor, near: int) -> torch.Tensor:
    """(D, C, …) → (B, C·(2·near + 1), …): each slice of `indices` with those around it, 0 beyond the ends."""
    if not near:
        return slices[indices]
    around = indices[:, None] + torch.arange(-near, near + 1)
    there = (around >= 0) & (around < len(slices))
    found = slices[around.clamp(0, len(slices) - 1)]  # (B, 2·near + 1, C, …)
    found = found * there.reshape(*there.shape, *[1] * (found.ndim - 2))
    return found.transpose(1, 2).flatten(1, 2)


def _extent(images_BCHW: torch.Tensor) -> tuple[slice, slice]:
    """(rows, columns) that hold all that is not 0: slices near the crown have half the brain's extent."""
    lines, box = images_BCHW.any(dim=0).any(dim=0), []
    for axis in (1, 0):
        brain = torch.nonzero(lines.any(dim=axis)).flatten().tolist() or [0]
        box.append(slice(max(0, brain[0] - MARGIN), min(brain[-1] + 1 + MARGIN, lines.shape[1 - axis])))
    return tuple(box)


def _whole(images_BCHW: torch.Tensor) -> tuple[slice, slice]:
    return tuple(slice(0, side) for side in images_BCHW.shape[2:])


def _window_size(preset: Preset, shape: Sequence[int]) -> tuple[int, ...]:
    """The training size, or the largest window allowed, cut down to what holds the whole shape."""
    if preset.inference.window is None:
        return preset.size
    multiple = preset.layers.multiple
    return tuple(
        min(most, -(-side // multiple) * multiple)
        for most, side in zip(preset.inference.window, shape, strict=True)
    )


def _corners(shape, size, overlap: float) -> Iterator[tuple[int, ...]]:
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


def _signed(images: np.ndarray) -> torch.Tensor:
    """Pixels as a contiguous type that torch computes with: uint16 has few operations there."""
    dtype = np.float32 if images.dtype == np.uint16 else images.dtype
    return torch.from_numpy(np.ascontiguousarray(images, dtype=dtype))
