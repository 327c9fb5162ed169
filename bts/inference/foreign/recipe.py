"""What stands around a foreign network: from a case's volume to its input, from its output to probabilities.

The description of an adopted MONAI or ONNX model has it as JSON under `recipe`, read and checked here.
Axes: C channel (modality), K target, X Y Z of the file or of the network, D H W canonical.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from bts.cases.case import CaseVolume
from bts.errors import CaseError, UsageError
from bts.inference.foreign.checks import shown
from bts.inference.foreign.fields import read_fields
from bts.inference.foreign.steps import Placed, Step, read_step
from bts.inference.foreign.voxels import whole_images
from bts.inference.foreign.windows import Window, slide
from bts.inference.predictor import How, Predictor
from bts.labels import TARGETS
from bts.model.adopted import Adopted
from bts.model.card import ModelCard, Predicts
from bts.model.targets import LABELS, REGIONAL

BACKGROUND = "background"
OVER_HALF = float(np.nextafter(np.float32(0.5), np.float32(1)))
MOST_STEPS = 16
NEAR = 0.02  # of a probability, or of their sum, in half precision
RECIPE = ("steps", "window", "outputs", "activation", "half_counts")

Forward = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a network sees of a whole case, or its answer to that, and what brings it back."""

    voxels: np.ndarray
    """float32 (C, X, Y, Z); of an answer (outputs, X, Y, Z)."""
    grids: tuple[tuple[np.ndarray, tuple[int, ...]], ...]
    """Affine and shape before each step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Steps before the network, its window, and what its outputs mean."""

    steps: tuple[Step, ...]
    window: Window
    outputs: tuple[str, ...]
    """What each output channel is: WT, TC and ET, or background, NCR, ED and ET, in any order."""
    activation: str
    """sigmoid for regions, softmax for labels; none where the network itself gives probabilities."""
    half_counts: bool
    """Whether a region's probability of 0.5 itself is tumour, as for MONAI's AsDiscrete; here it is not."""

    @property
    def predicts(self) -> Predicts:
        """What the probabilities are of: regions through a sigmoid, or labels through a softmax."""
        return LABELS if BACKGROUND in self.outputs else REGIONAL

    def probabilities(
        self, volume: CaseVolume, modalities: Sequence[str], forward: Forward, how: How
    ) -> torch.Tensor:
        """A case → float32 (K, D, H, W) over the whole canonical grid, in the order of bts.labels.TARGETS.

        forward: (B, C, x, y, z) float32 → (B, outputs, x, y, z), on the device. Raises CaseError for a case
        that lacks a modality.
        """
        seen = self.before(volume, modalities, how.allow_missing)
        return self.after(self.answered(seen, forward, how.device), volume)

    def before(
        self, volume: CaseVolume, modalities: Sequence[str], allow_missing: Collection[str] = ()
    ) -> Seen:
        """A case → what the windows are cut from. Raises CaseError for a case that lacks a modality."""
        placed, grids = as_in_file(volume, modalities, allow_missing), []
        for step in self.steps:
            grids.append((placed.affine, placed.shape))
            placed = step.apply(placed)
        return Seen(placed.images.numpy(), tuple(grids))

    def answered(self, seen: Seen, forward: Forward, device: torch.device) -> Seen:
        """The network's outputs in the place of its images."""
        images = torch.from_numpy(np.require(seen.voxels, requirements="W"))  # from another process it is not
        return replace(seen, voxels=slide(images, self.window, forward, device).numpy())

    def after(self, answer: Seen, volume: CaseVolume) -> torch.Tensor:
        """Outputs → probabilities; of the volume's voxels none is looked at."""
        found = self._activated(torch.from_numpy(np.require(answer.voxels, requirements="W")))
        for step, (affine, shape) in zip(reversed(self.steps), reversed(answer.grids), strict=True):
            found = step.undo(found, affine, shape)
        return as_canonical(found, volume)

    def _activated(self, logits_KXYZ: torch.Tensor) -> torch.Tensor:
        if self.activation == "none":
            _check_probabilities(logits_KXYZ, self.predicts)
        wanted = [self.outputs.index(name) for name in TARGETS[self.predicts.targets]]
        if self.activation == "softmax":
            logits_KXYZ = logits_KXYZ.softmax(dim=0)
        found = logits_KXYZ[wanted]
        if self.predicts == LABELS:
            return found
        if self.activation == "sigmoid":
            found = found.sigmoid()
        if self.half_counts:
            found[found == 0.5] = OVER_HALF
        return found

    def check(self, card: ModelCard, inputs: object, outputs: object) -> None:
        """Raise UsageError where a network's channels are not those that the model's file tells of."""
        if self.predicts != card.predicts:
            raise UsageError(f"{card.name}: its outputs {', '.join(self.outputs)} are not {card.predicts}")
        if inputs != len(card.modalities) or outputs != len(self.outputs):
            raise UsageError(
                f"{card.name}: the network has {inputs} input and {outputs} output channels, the description "
                f"{len(card.modalities)} ({', '.join(card.modalities)}) and {len(self.outputs)}"
            )


@dataclass(frozen=True, slots=True)
class AroundRecipe:
    """As bts.inference.predictor.Around has it."""

    card: ModelCard
    recipe: Recipe
    allow_missing: frozenset[str] = frozenset()

    def before(self, volume: CaseVolume) -> Seen:
        return self.recipe.before(volume, self.card.modalities, self.allow_missing)

    def after(self, answer: Seen, volume: CaseVolume) -> torch.Tensor:
        return self.recipe.after(answer, volume)


class RecipePredictor(Predictor):
    """A network within a recipe; a kind builds the network, and has its `forward`."""

    whole = True

    def __init__(self, model: Adopted, how: How):
        """Raises UsageError where the description makes no sense."""
        self.card, self.how = model.card, how
        self.recipe = read_recipe(model.description.get("recipe"), model.card.name)
        self.around = AroundRecipe(self.card, self.recipe, how.allow_missing)

    def probabilities(self, volume: CaseVolume) -> torch.Tensor:
        return self.recipe.probabilities(volume, self.card.modalities, self.forward, self.how)

    def answered(self, seen: Seen) -> Seen:
        return self.recipe.answered(seen, self.forward, self.how.device)

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float32 (B, C, x, y, z) → (B, outputs, x, y, z), on the device."""


def read_recipe(told: object, name: str) -> Recipe:
    """The `recipe` of a description, checked; `name` is for messages. Raises UsageError."""
    if not isinstance(told, dict) or set(told) != {*RECIPE}:
        raise UsageError(f"{name}: its recipe has other parts than {', '.join(RECIPE)}; adopt it again")
    steps, outputs = told["steps"], check_outputs(told["outputs"], name)
    if not isinstance(steps, list) or len(steps) > MOST_STEPS:
        raise UsageError(f"{name}: steps are not a list of at most {MOST_STEPS}")
    activation, due = told["activation"], "softmax" if BACKGROUND in outputs else "sigmoid"
    if activation not in (due, "none"):
        raise UsageError(f"{name}: activation {activation!r} with {', '.join(outputs)}; give {due} or none")
    return Recipe(
        steps=tuple(read_step(step, name) for step in steps),
        window=read_fields(Window, told["window"], f"{name}: window"),
        outputs=outputs,
        activation=activation,
        half_counts=told["half_counts"] is True,
    )


def _check_probabilities(found_KXYZ: torch.Tensor, predicts: Predicts) -> None:
    """Raise CaseError where outputs are not what a sigmoid, or for labels a softmax, gives."""
    least, most = found_KXYZ.aminmax()
    total = found_KXYZ.sum(dim=0) if predicts == LABELS else torch.ones(1)
    if least < -NEAR or most > 1 + NEAR or (total - 1).abs().max() > NEAR:
        sums = f", their sums {total.min():.4g} to {total.max():.4g}" if predicts == LABELS else ""
        raise CaseError(
            f"the outputs of the network, from {least:.4g} to {most:.4g}{sums}, are no probabilities, which "
            'activation = "none" promises',
            mend=f'give activation = "{predicts.output}", or end the graph with it; then adopt it again',
            stage="predict",
        )


def check_outputs(outputs: object, name: str) -> tuple[str, ...]:
    """What each output channel is. Raises UsageError for others than are known, or some that are missing."""
    for known in (tuple(TARGETS["regions"]), (BACKGROUND, *TARGETS["labels"])):
        if isinstance(outputs, list | tuple) and sorted(known) == sorted(map(str, outputs)):
            return tuple(map(str, outputs))
    raise UsageError(f"{name}: outputs {shown(outputs)} are neither WT, TC, ET nor background, NCR, ED, ET")


def as_in_file(volume: CaseVolume, modalities: Sequence[str], allow_missing: Collection[str] = ()) -> Placed:
    """The modalities as another tool reads the case's files. Raises CaseError for a missing one."""
    images = whole_images(volume, modalities, "file", allow_missing).transpose(0, 3, 2, 1)  # C, x, y, z
    return Placed(torch.from_numpy(np.ascontiguousarray(images)), volume.grid.source_affine)


def as_canonical(found_KXYZ: torch.Tensor, volume: CaseVolume) -> torch.Tensor:
    """(K, X, Y, Z) over the file's axes → (K, D, H, W) over the whole canonical grid."""
    return torch.from_numpy(np.stack([volume.grid.to_canonical(one.T) for one in found_KXYZ.numpy()]))
