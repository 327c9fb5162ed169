"""Segmenter: voxels of one case → labelmap, by one model or the mean of several.

Axes: B batch, C channel (modality), R region (WT, TC, ET), D z slices, H rows (y), W columns (x).
"""

import numpy as np
import torch
from torch.nn import functional

from bts.device import autocast, pick_device
from bts.errors import CaseError
from bts.metrics import REGIONS
from bts.model import Model
from bts.normalise import zscore

SPACING_TOLERANCE = 0.05
"""In-plane spacing this far from 1 mm (as a share) is predicted as it is."""

LABELS = {"WT": 2, "TC": 1, "ET": 3}
"""Label that each region paints, in this order: tumour that is not core is oedema, core that does not enhance
is necrosis. A later region overrides, so enhancing pixels outside the predicted core stay enhancing."""


class Segmenter:
    """Predicts labels of whole cases; the same case gives the same bytes on the same machine."""

    def __init__(self, models: list[Model], device=None, flips: bool = False, batch: int | None = None):
        """models: their probabilities are averaged, the first one's inference settings count.

        flips: average also over the left-right mirror image, at twice the time.
        batch: slices predicted at once, None for the preset's.
        """
        if not models:
            raise ValueError("a Segmenter needs at least one model")
        self.device, self.flips = pick_device(device), flips
        self.models = models
        self.settings = models[0].preset.inference
        self.batch = batch or self.settings.batch
        for model in models:
            model.network.to(self.device, memory_format=torch.channels_last).eval()

    def __call__(self, volume) -> np.ndarray:
        """volume: a CaseVolume → uint8 (D, H, W) internal labels on its own grid.

        Raises CaseError when the case lacks a modality that a model needs.
        """
        probabilities = self.probabilities(volume)
        brain = torch.from_numpy((np.asarray(volume.images) != 0).any(axis=0))
        labels = region_labels(probabilities, self.settings.threshold)
        labels = torch.where(brain, labels, 0).numpy()
        return drop_small_et(labels, self.settings.min_et_ml, float(np.prod(volume.grid.zooms)))

    def probabilities(self, volume) -> torch.Tensor:
        """volume: a CaseVolume → float32 (R, D, H, W) probabilities of the regions, mean of all models."""
        total = sum(self._predict(model, volume) for model in self.models)
        return total / len(self.models)

    @torch.inference_mode()
    def _predict(self, model: Model, volume) -> torch.Tensor:
        channels = pick_modalities(volume, model.preset.modalities)
        images_DCHW = torch.from_numpy(_signed(np.asarray(volume.images)[channels])).transpose(0, 1)
        mean, std = (torch.tensor(v, device=self.device)[None, channels] for v in (volume.mean, volume.std))
        source = tuple(images_DCHW.shape[-2:])
        work = working_size(source, tuple(volume.grid.zooms)[-2:])
        parts = []
        for images_BCHW in images_DCHW.split(self.batch):
            images = resize_images(images_BCHW.to(self.device), work)
            probabilities = self._forward(model, zscore(images, mean, std))
            if work != source:
                probabilities = functional.interpolate(probabilities, source, mode="bilinear")
            parts.append(probabilities.cpu())
        return torch.cat(parts).transpose(0, 1)

    def _forward(self, model: Model, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalised slices → probabilities (B, R, H, W), padded for the network and cut back."""
        height, width = images_BCHW.shape[-2:]
        multiple = model.preset.network.multiple
        padded = functional.pad(images_BCHW, (0, -width % multiple, 0, -height % multiple))
        with autocast(self.device):
            logits = model.network(padded.contiguous(memory_format=torch.channels_last))
            mirrored = model.network(padded.flip(-1)).flip(-1) if self.flips else None
        probabilities = logits.float().sigmoid()
        if mirrored is not None:
            probabilities = (probabilities + mirrored.float().sigmoid()) / 2
        return probabilities[..., :height, :width]


def pick_modalities(volume, wanted: tuple[str, ...]) -> list[int]:
    """Indices of the wanted modalities in the volume's channels. Raises CaseError for a missing one."""
    missing = [name for name in wanted if name not in volume.modalities]
    if missing:
        raise CaseError(
            f"lacks {', '.join(missing)}, which the model needs",
            mend="add the missing modality or use a model trained without it",
            case=getattr(volume, "case_id", ""),
            stage="predict",
        )
    return [volume.modalities.index(name) for name in wanted]


def working_size(size: tuple[int, int], zooms: tuple[float, float]) -> tuple[int, int]:
    """(H, W) in pixels at which to predict: 1 mm in-plane where the spacing (y, x in mm) is clearly another.

    Slices stay as they are: a 2D network never looks along z, and needs no slices that were not scanned.
    """
    if all(abs(zoom - 1) <= SPACING_TOLERANCE for zoom in zooms):
        return size
    return tuple(max(1, round(side * zoom)) for side, zoom in zip(size, zooms, strict=True))


def resize_images(images_BCHW: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Raw pixels resampled linearly to (H, W), float32; a pixel that is background at its nearest stays 0."""
    images = images_BCHW.float()
    if tuple(images.shape[-2:]) == size:
        return images
    brain = functional.interpolate((images != 0).float(), size, mode="nearest-exact")
    return functional.interpolate(images, size, mode="bilinear", antialias=True) * brain


def region_labels(probabilities_RDHW: torch.Tensor, threshold: float) -> torch.Tensor:
    """Probabilities of overlapping regions → uint8 (D, H, W) labels, painted in the order of LABELS."""
    labels = torch.zeros(probabilities_RDHW.shape[1:], dtype=torch.uint8)
    order = list(REGIONS)
    for region, label in LABELS.items():
        labels[probabilities_RDHW[order.index(region)] > threshold] = label
    return labels


def drop_small_et(labels_DHW: np.ndarray, min_ml: float, voxel_mm3: float) -> np.ndarray:
    """Enhancing tumour of fewer than `min_ml` millilitres in all becomes necrosis, which keeps TC and WT."""
    enhancing = labels_DHW == 3
    if enhancing.sum() * voxel_mm3 / 1000 >= min_ml:
        return labels_DHW
    return np.where(enhancing, np.uint8(1), labels_DHW)


def _signed(images: np.ndarray) -> np.ndarray:
    """Pixels as a contiguous type that torch computes with: uint16 has few operations there."""
    return np.ascontiguousarray(images, dtype=np.float32 if images.dtype == np.uint16 else images.dtype)
