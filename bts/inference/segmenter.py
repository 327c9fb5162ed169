"""Segmenter: voxels of one case → labelmap, by one model or the mean of several.

Axes: B batch, C channel (modality), K target, D z slices, H rows (y), W columns (x).
"""

import operator
from collections.abc import Collection, Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch

from bts.cases.case import CaseVolume
from bts.errors import CaseError
from bts.inference import foreign
from bts.inference.confidence import agreement
from bts.inference.finish import Finish
from bts.inference.options import Engine
from bts.inference.own import OwnPredictor
from bts.inference.prediction import CERTAIN, Box, Prediction
from bts.inference.predictor import Around, How, Predictor
from bts.model.adopted import Adopted
from bts.model.card import ModelCard
from bts.model.device import off_device, pick_device, to_device
from bts.model.file import Model
from bts.model.targets import common, converted, decode


class Segmenter:
    """Predicts labels of whole cases; the same case gives the same bytes on the same machine."""

    def __init__(
        self,
        models: Sequence[Model | Adopted],
        device=None,
        flips: bool = False,
        batch: int | None = None,
        allow_missing: Collection[str] = (),
        engine: Engine = "torch",
    ):
        """models: their probabilities are averaged, each by its own settings; their order changes nothing.

        flips: average also over the left-right mirror image, at twice the time.
        batch: slices (or volumes) predicted at once, None for each preset's.
        allow_missing: modalities that a case may lack; the networks see 0 in their place.
        engine: what runs the networks; openvino on CPUs alone.
        Raises UsageError for models whose probabilities are not of one kind, nor can be brought to one, and
        for an engine that is not there.
        """
        if not models:
            raise ValueError("a Segmenter needs at least one model")
        self.allow_missing = frozenset(allow_missing)
        self.device = pick_device(device)
        how = How(
            device=self.device, flips=flips, batch=batch, allow_missing=self.allow_missing, engine=engine
        )
        self.predicts = common([model.card.predicts for model in models])
        self.models = [predictor_of(model, how) for model in models]
        cards = tuple(model.card for model in self.models)
        whole = not any(card.brain_only for card in cards) and any(model.whole for model in self.models)
        self.finish = Finish(cards, self.predicts, whole)
        """What is left to do of a prediction, without the networks."""
        self.settings = self.finish.settings

    def __call__(self, volume: CaseVolume) -> np.ndarray:
        """A case → uint8 (D, H, W) labels of the project on the grid of `seen`.

        Raises CaseError when the case lacks a modality that a model needs.
        """
        return self.labels(self.seen(volume), self.probabilities(volume))

    def seen(self, volume: CaseVolume) -> CaseVolume:
        """The case on the grid of its results: the crop to the brain, or the whole where a model of another
        tool labels what lies around the brain too."""
        return self.finish.seen(volume)

    def labels(self, volume: CaseVolume, probabilities_KDHW: torch.Tensor) -> np.ndarray:
        """Probabilities of a case as `seen` → its labels, postprocessed, as uint8 (D, H, W)."""
        return self.finish.postprocessed(volume, self.decoded(probabilities_KDHW))

    def decoded(self, probabilities_KDHW: torch.Tensor) -> np.ndarray:
        """The likeliest labels voxel by voxel, before anything is known of the whole, as uint8 (D, H, W)."""
        return self._decoded(probabilities_KDHW).cpu().numpy()

    def agreement(
        self, volume: CaseVolume, probabilities_KDHW: torch.Tensor, labels_DHW: np.ndarray
    ) -> dict[str, float]:
        """Soft Dice of the probabilities and the labels, by region (see `confidence`), within the brain."""
        found = probabilities_KDHW.cpu()
        if self.finish.within_brain(volume):
            found = found * torch.from_numpy(volume.brain)
        return agreement(found.numpy(), labels_DHW, found.sum(dim=(1, 2, 3)).tolist(), self.predicts.targets)

    def probabilities(self, volume: CaseVolume) -> torch.Tensor:
        """A case → float32 (K, D, H, W) probabilities of the targets as `seen`, mean of all models, on the
        CPU."""
        each = [found.cpu() for found in self.each(volume)]
        return reduce(operator.add, each) / len(each)

    @torch.inference_mode()
    def predict(self, volume: CaseVolume, brain_DHW: np.ndarray, probabilities: bool = False) -> Prediction:
        """What the models say of a case, all of it made on the device; `finish` makes a result of it.

        brain_DHW: `brain` of the case as `seen`. probabilities: give those of all voxels too.
        Raises CaseError as `__call__` does.
        """
        mean, members = self._mean(volume)
        if self.finish.within_brain(volume):
            mean.mul_(to_device(brain_DHW, self.device))
        return said(mean, members, self.finish, probabilities)

    @property
    def around(self) -> Around | None:
        """What of `predict` may be done beside the GPU: of a single model alone."""
        return self.models[0].around if len(self.models) == 1 else None

    @torch.inference_mode()
    def answered(self, seen: Any) -> Any:
        """The rest of it: what the networks say of `around.before`, for `said_after`."""
        return self.models[0].answered(seen)

    def _mean(self, volume: CaseVolume) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(mean of all models' probabilities, the labels of each where they are several)."""
        first, *others = self.models
        mean = self._predict(first, volume)
        if not others:
            return mean, []
        members = [self._decoded(mean)]
        for model in others:
            found = self._predict(model, volume)
            members.append(self._decoded(found))
            mean += found
        return mean.div_(len(self.models)), members

    @torch.inference_mode()
    def each(self, volume: CaseVolume) -> Iterator[torch.Tensor]:
        """The probabilities of every model by itself, on the device; the caller may change them."""
        for model in self.models:
            yield self._predict(model, volume)

    def _decoded(self, probabilities_KDHW: torch.Tensor) -> torch.Tensor:
        return decode(probabilities_KDHW, self.predicts, self.settings.threshold)

    def _predict(self, model: Predictor, volume: CaseVolume) -> torch.Tensor:
        found = checked(model.probabilities(volume).to(self.device), model.card, volume)
        if model.whole and not self.finish.whole:
            found = found[(slice(None), *volume.box)]
        elif self.finish.whole and not model.whole:
            around = torch.zeros((len(found), *volume.grid.shape), device=found.device)
            around[(slice(None), *volume.box)] = found
            found = around
        # PyTorch sums contiguous float32 pair by pair; any other volume's sum is off in its 5th digit.
        return converted(found, model.card.predicts, self.predicts).contiguous()


@torch.inference_mode()
def said_after(
    around: Around, answer: Any, finish: Finish, volume: CaseVolume, probabilities: bool = False
) -> Prediction:
    """`Segmenter.predict` from `Segmenter.answered` on, on the CPU. Raises CaseError."""
    found = checked(around.after(answer, volume), around.card, volume)
    return said(found.contiguous(), [], finish, probabilities)


def checked(found: torch.Tensor, card: ModelCard, volume: CaseVolume) -> torch.Tensor:
    """What a network gave. Raises CaseError where that is no numbers."""
    if not torch.isfinite(found.sum()):
        problem = f"the network {card.name} ({card.digest}) gives no numbers"
        mend = "look at the images, and at the GPU"
        raise CaseError(problem, mend=mend, case=volume.case_id, stage="predict")
    return found


def said(
    mean: torch.Tensor, members: Sequence[torch.Tensor], finish: Finish, probabilities: bool
) -> Prediction:
    """float32 (K, D, H, W), which is changed, and the labels of each of several models → a Prediction."""
    labels = decode(mean, finish.predicts, finish.settings.threshold)
    box = box_of(reduce(torch.bitwise_or, members, labels))
    sure = (mean[(slice(None), *box)] * CERTAIN).round_().to(torch.uint16)
    totals = mean.sum(dim=(1, 2, 3))
    whole = [mean.mul_(255).sub_(0.5).ceil_().to(torch.uint8)] if probabilities else []
    found = off_device(sure, totals, labels[box], *(one[box] for one in members), *whole)
    return Prediction(
        box=box,
        probabilities=found[0],
        totals=tuple(found[1].tolist()),
        labels=found[2],
        members=tuple(found[3 : 3 + len(members)]),
        whole=found[-1] if probabilities else None,
    )


def box_of(labels_DHW: torch.Tensor) -> Box:
    """The smallest box that holds every label (uint8) that is not 0, of one voxel at least."""
    rows, columns = labels_DHW.amax(dim=2), labels_DHW.amax(dim=0).amax(dim=0)
    lines = (rows.amax(dim=1), rows.amax(dim=0), columns)
    ends = [np.flatnonzero(line)[[0, -1]] if line.any() else (0, 0) for line in off_device(*lines)]
    z, y, x = (slice(int(first), int(last) + 1) for first, last in ends)
    return z, y, x


def predictor_of(model: Model | Adopted, how: How) -> Predictor:
    """A model as `Segmenter` runs it. Raises UsageError for an adopted one that this version cannot run."""
    return foreign.predictor(model, how) if isinstance(model, Adopted) else OwnPredictor(model, how)
