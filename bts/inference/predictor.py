"""What segment needs to know of a model of any kind: its card, and the probabilities of a case."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bts.cases.case import CaseVolume
from bts.errors import CaseError
from bts.model.card import ModelCard


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How a model is run, whatever its kind."""

    device: torch.device
    flips: bool = False
    """Average also over the left-right mirror image; a model of another tool mirrors as it was trained to."""
    batch: int | None = None
    """Slices (or volumes) predicted at once; None: the model's own."""
    allow_missing: frozenset[str] = frozenset()
    """Modalities that a case may lack; the network sees 0 in their place."""


class Predictor(ABC):
    """One model, ready on its device. Axes: K target, D z slices, H rows (y), W columns (x)."""

    card: ModelCard
    whole: bool = False
    """Whether its probabilities are of the whole canonical grid, not of the crop alone."""

    @abstractmethod
    def probabilities(self, volume: CaseVolume) -> torch.Tensor:
        """A case → float32 (K, D, H, W) on its crop (see `whole`), on the CPU: what card.predicts says.

        Raises CaseError for a case that it cannot predict.
        """


def pick_modalities(volume, wanted: Sequence[str], allow_missing: Collection[str] = ()) -> tuple:
    """(images (C, D, H, W), mean (C,), std (C,)) of the wanted modalities; one that may be missing is 0.

    Raises CaseError for another missing one.
    """
    there = ~np.isin(wanted, missing_of(volume, wanted, allow_missing))
    channels = [volume.modalities.index(name) for name in np.array(wanted)[there]]
    images = np.zeros((len(wanted), *np.shape(volume.images)[1:]), volume.images.dtype)
    mean, std = np.zeros(len(wanted), np.float32), np.ones(len(wanted), np.float32)
    for found, of in zip((images, mean, std), (volume.images, volume.mean, volume.std), strict=True):
        found[there] = np.asarray(of)[channels]
    return images, mean, std


def missing_of(volume, wanted: Sequence[str], allow_missing: Collection[str] = ()) -> list[str]:
    """The wanted modalities that a case lacks. Raises CaseError for one that may not be missing."""
    missing = [name for name in wanted if name not in volume.modalities]
    if set(missing) <= set(allow_missing):
        return missing
    raise CaseError(
        f"lacks {', '.join(missing)}, which the model needs",
        mend="add the missing modality, allow it to be missing (segment --allow-missing), or use a model "
        "trained without it",
        case=getattr(volume, "case_id", ""),
        stage="predict",
    )
