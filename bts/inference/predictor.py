"""What segment needs to know of a model of any kind: its card, and the probabilities of a case."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from bts.cases.case import CaseVolume
from bts.errors import CaseError
from bts.inference.options import Engine, check_engine
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
    engine: Engine = "torch"
    """What runs the networks."""

    def __post_init__(self):
        check_engine(self.engine, self.device.type != "cpu")


class Around(Protocol):
    """What stands around a model's networks and needs none of its weights: for processors beside a GPU, which
    would wait for it otherwise. Travels to other processes.
    """

    @property
    def card(self) -> ModelCard:
        """Of the model."""

    def before(self, volume: CaseVolume) -> Any:
        """A case → what `Predictor.answered` takes. Raises CaseError."""

    def after(self, answer: Any, volume: CaseVolume) -> torch.Tensor:
        """What it gives → `Predictor.probabilities`; of the volume's voxels none is looked at."""


class Predictor(ABC):
    """One model, ready on its device. Axes: K target, D z slices, H rows (y), W columns (x)."""

    card: ModelCard
    around: Around | None = None
    """What `probabilities` does around `answered`, where that is worth doing elsewhere."""
    whole: bool = False
    """Whether its probabilities are of the whole canonical grid, not of the crop alone."""

    @abstractmethod
    def probabilities(self, volume: CaseVolume) -> torch.Tensor:
        """A case → float32 (K, D, H, W) on its crop (see `whole`), on any device: what card.predicts says. It
        is the caller's to change.

        Raises CaseError for a case that it cannot predict.
        """

    def answered(self, seen: Any) -> Any:
        """What the networks say of `around.before`, for `around.after`; both on the CPU."""
        raise ValueError(f"{self.card.name}: all of it is done at once")


def pick_modalities(
    volume: CaseVolume, wanted: Sequence[str], allow_missing: Collection[str] = ()
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(images (C, D, H, W), mean (C,), std (C,)) of the wanted modalities; one that may be missing is 0.

    Raises CaseError for another missing one.
    """
    missing = missing_of(volume, wanted, allow_missing)
    images = np.zeros((len(wanted), *volume.images.shape[1:]), volume.images.dtype)
    mean, std = np.zeros(len(wanted), np.float32), np.ones(len(wanted), np.float32)
    for n, name in enumerate(wanted):
        if name not in missing:
            at = volume.modalities.index(name)
            images[n], mean[n], std[n] = volume.images[at], volume.mean[at], volume.std[at]
    return images, mean, std


def missing_of(volume: CaseVolume, wanted: Sequence[str], allow_missing: Collection[str] = ()) -> list[str]:
    """The wanted modalities that a case lacks. Raises CaseError for one that may not be missing."""
    missing = [name for name in wanted if name not in volume.modalities]
    if set(missing) <= set(allow_missing):
        return missing
    raise CaseError(
        f"lacks {', '.join(missing)}, which the model needs",
        mend="add the missing modality, allow it to be missing (segment --allow-missing), or use a model "
        "trained without it",
        case=volume.case_id,
        stage="predict",
    )
