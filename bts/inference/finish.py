"""What the networks say of a case → its labels, quality warnings, and the Dice to expect. No torch.

Axes: K target, D z slices, H rows (y), W columns (x).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bts.cases.case import CaseVolume
from bts.inference import confidence, quality
from bts.inference.prediction import CERTAIN, Prediction
from bts.model.card import ModelCard, Predicts
from bts.settings import Inference

LEAST = ("min_et_ml", "min_et_share", "min_tumour_ml", "min_core_ml", "min_et_piece_ml")


@dataclass(frozen=True)
class Finish:
    """How the mean of one model or of several becomes a result: all of them but the networks."""

    cards: tuple[ModelCard, ...]
    predicts: Predicts
    """What their mean is of."""
    whole: bool = False
    """Whether results lie on the whole canonical grid, for a model that labels what lies around the brain
    too; otherwise on the crop to the brain."""

    @cached_property
    def settings(self) -> Inference:
        return shared([card.inference for card in self.cards])

    @property
    def brain_only(self) -> bool:
        return any(card.brain_only for card in self.cards)

    def seen(self, volume: CaseVolume) -> CaseVolume:
        """The case on the grid of its results."""
        return volume.uncropped() if self.whole else volume

    def within_brain(self, volume: CaseVolume) -> bool:
        """Whether labels and probabilities outside the brain are taken away."""
        return self.brain_only and volume.traits.stripped

    def postprocessed(self, volume: CaseVolume, labels_DHW: np.ndarray) -> np.ndarray:
        """What labels voxel by voxel amount to, seen as a whole, as uint8 (D, H, W)."""
        from bts.inference.postprocess import postprocess  # SciPy, which planning does without

        if not self.within_brain(volume):
            return labels_DHW
        brain = volume.brain
        return postprocess(labels_DHW * brain, self.settings, float(np.prod(volume.grid.zooms))) * brain

    def expected_dice(
        self, probabilities_KDHW: np.ndarray, labels_DHW: np.ndarray, totals: Sequence[float]
    ) -> dict[str, float]:
        """Dice to expect of the labels, by region, from what each model's held-out cases got: their mean.

        As `confidence.agreement` takes them, within the brain.
        """
        agreed = confidence.agreement(probabilities_KDHW, labels_DHW, totals, self.predicts.targets)
        each = [confidence.expected_dice(agreed, card.validation) for card in self.cards]
        known = [region for region in each[0] if all(region in of for of in each)]
        return {region: sum(of[region] for of in each) / len(each) for region in known}

    def __call__(
        self, volume: CaseVolume, said: Prediction, noise: Sequence[str] = ()
    ) -> tuple[np.ndarray, list[str], dict[str, float]]:
        """(labels uint8 (D, H, W) on the grid of `seen`, quality warnings, expected Dice by region).

        volume: as `seen`, of whose voxels only its brain is looked at. noise: its `quality.of_noise`.
        """
        inside = volume.cut(said.box)
        within = self.postprocessed(inside, said.labels)
        labels = np.zeros(volume.images.shape[1:], np.uint8)
        labels[said.box] = within
        found = quality.of_labels(labels, volume)
        if volume.traits.stripped:
            found += quality.of_doubt(said.labels, within, inside)
        found += quality.of_ensemble([self.postprocessed(inside, one) for one in said.members])
        found += [*noise, *quality.of_place(volume)]
        for card in self.cards:
            found += quality.of_missing(volume, card.modalities) + quality.of_input(volume, card.inputs)
        sure = said.probabilities / np.float32(CERTAIN)
        expected = self.expected_dice(sure, within, said.totals)
        found += confidence.flag(expected)
        return labels, list(dict.fromkeys(found)), expected


def shared(settings: Sequence[Inference]) -> Inference:
    """How the mean of several models becomes labels: their mean threshold, which is each one's own applied to
    its own share; and what all of them take away or fill."""
    fewest = {name: min(getattr(one, name) for one in settings) for name in LEAST}
    threshold = sum(one.threshold for one in settings) / len(settings)
    filled = all(one.fill_core for one in settings)
    return replace(settings[0], threshold=threshold, fill_core=filled, **fewest)
