"""Segmenter: voxels of one case → labelmap, by one model or the mean of several.

Axes: B batch, C channel (modality), K target, D z slices, H rows (y), W columns (x).
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import torch

from bts.cases.case import CaseVolume
from bts.errors import CaseError
from bts.inference import foreign
from bts.inference.confidence import agreement, expected_dice
from bts.inference.own import OwnPredictor
from bts.inference.postprocess import tidy
from bts.inference.predictor import How, Predictor
from bts.model.adopted import Adopted
from bts.model.device import pick_device
from bts.model.file import Model
from bts.model.targets import common, converted, decode
from bts.settings import Inference

LEAST = ("min_et_ml", "min_et_share", "min_tumour_ml", "min_core_ml", "min_et_piece_ml")


class Segmenter:
    """Predicts labels of whole cases; the same case gives the same bytes on the same machine."""

    def __init__(
        self,
        models: Sequence[Model | Adopted],
        device=None,
        flips: bool = False,
        batch: int | None = None,
        allow_missing: Collection[str] = (),
    ):
        """models: their probabilities are averaged, each by its own settings; their order changes nothing.

        flips: average also over the left-right mirror image, at twice the time.
        batch: slices (or volumes) predicted at once, None for each preset's.
        allow_missing: modalities that a case may lack; the networks see 0 in their place.
        Raises UsageError for models whose probabilities are not of one kind, nor can be brought to one.
        """
        if not models:
            raise ValueError("a Segmenter needs at least one model")
        self.allow_missing = frozenset(allow_missing)
        how = How(device=pick_device(device), flips=flips, batch=batch, allow_missing=self.allow_missing)
        self.predicts = common([model.card.predicts for model in models])
        self.models = [predictor_of(model, how) for model in models]
        cards = [model.card for model in self.models]
        self.settings = shared([card.inference for card in cards])
        self.brain_only = any(card.brain_only for card in cards)
        self.whole = not self.brain_only and any(model.whole for model in self.models)

    def __call__(self, volume: CaseVolume) -> np.ndarray:
        """A case → uint8 (D, H, W) labels of the project on the grid of `seen`.

        Raises CaseError when the case lacks a modality that a model needs.
        """
        return self.tidied(self.seen(volume), self.decoded(self.probabilities(volume)))

    def seen(self, volume: CaseVolume) -> CaseVolume:
        """The case on the grid of its results: the crop to the brain, or the whole where a model of another
        tool labels what lies around the brain too."""
        return volume.uncropped() if self.whole else volume

    def tidied(self, volume: CaseVolume, labels_DHW: np.ndarray) -> np.ndarray:
        """What `decoded` labels amount to, seen as a whole, as uint8 (D, H, W)."""
        if not self.within_brain(volume):
            return labels_DHW
        brain = volume.brain
        return tidy(labels_DHW * brain, self.settings, float(np.prod(volume.grid.zooms))) * brain

    def within_brain(self, volume: CaseVolume) -> bool:
        """Whether labels and probabilities outside the brain are taken away."""
        return self.brain_only and volume.traits.stripped

    def decoded(self, probabilities_KDHW: torch.Tensor) -> np.ndarray:
        """The likeliest labels voxel by voxel, before anything is known of the whole, as uint8 (D, H, W)."""
        return decode(probabilities_KDHW, self.predicts, self.settings.threshold).numpy()

    def as_bytes(self, volume: CaseVolume, probabilities_KDHW: torch.Tensor) -> np.ndarray:
        """Probabilities as uint8 (K, D, H, W): 255 is 1, from 128 on it is over 0.5; 0 outside the brain,
        where no tumour is looked for. What `tidied` changes stays as the network sees it."""
        found = torch.ceil(probabilities_KDHW * 255 - 0.5).to(torch.uint8).numpy()
        return found * volume.brain if self.within_brain(volume) else found

    def agreement(
        self, volume: CaseVolume, probabilities_KDHW: torch.Tensor, labels_DHW: np.ndarray
    ) -> dict[str, float]:
        """Soft Dice of the probabilities and the labels, by region (see `confidence`), within the brain."""
        if self.within_brain(volume):
            probabilities_KDHW = probabilities_KDHW * torch.from_numpy(volume.brain)
        return agreement(probabilities_KDHW, labels_DHW, self.predicts.targets)

    def expected_dice(
        self, volume: CaseVolume, probabilities_KDHW: torch.Tensor, labels_DHW: np.ndarray
    ) -> dict[str, float]:
        """Dice to expect of the labels, by region, from what each model's held-out cases got: their mean."""
        agreed = self.agreement(volume, probabilities_KDHW, labels_DHW)
        each = [expected_dice(agreed, model.card.validation) for model in self.models]
        known = [region for region in each[0] if all(region in of for of in each)]
        return {region: sum(of[region] for of in each) / len(each) for region in known}

    def probabilities(self, volume: CaseVolume) -> torch.Tensor:
        """A case → float32 (K, D, H, W) probabilities of the targets as `seen`, mean of all models."""
        return sum(self.each(volume)) / len(self.models)

    @torch.inference_mode()
    def each(self, volume: CaseVolume) -> list[torch.Tensor]:
        """The probabilities of every model by itself."""
        return [self._predict(model, volume) for model in self.models]

    def _predict(self, model: Predictor, volume: CaseVolume) -> torch.Tensor:
        found = model.probabilities(volume)
        if not torch.isfinite(found).all():
            problem = f"the network {model.card.name} ({model.card.digest}) gives no numbers"
            mend = "look at the images, and at the GPU"
            raise CaseError(problem, mend=mend, case=volume.case_id, stage="predict")
        if model.whole and not self.whole:
            found = found[(slice(None), *volume.box)]
        elif self.whole and not model.whole:
            found = torch.from_numpy(volume.whole(found.numpy()))
        return converted(found, model.card.predicts, self.predicts)


def predictor_of(model: Model | Adopted, how: How) -> Predictor:
    """A model as `Segmenter` runs it. Raises UsageError for an adopted one that this version cannot run."""
    return foreign.predictor(model, how) if isinstance(model, Adopted) else OwnPredictor(model, how)


def shared(settings: Sequence[Inference]) -> Inference:
    """How the mean of several models becomes labels: their mean threshold, which is each one's own applied to
    its own share; and what all of them take away or fill."""
    fewest = {name: min(getattr(one, name) for one in settings) for name in LEAST}
    threshold = sum(one.threshold for one in settings) / len(settings)
    filled = all(one.fill_core for one in settings)
    return replace(settings[0], threshold=threshold, fill_core=filled, **fewest)
