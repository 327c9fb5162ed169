"""What is known of a model without running it, whatever its kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bts.settings import Inference


class Predicts(NamedTuple):
    """What a model's probabilities are of."""

    targets: str
    """A key of bts.labels.TARGETS."""
    output: str
    """sigmoid: each target by itself. softmax: exclusive targets, and background is what is left of 1."""

    def __str__(self) -> str:
        return f"{self.targets} ({self.output})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """All that planning, predicting, quality warnings, promote and provenance ask of a model."""

    name: str
    digest: str
    """Of its file, bts.model.header.digest: its identity."""
    modalities: tuple[str, ...]
    """In the order of its channels."""
    predicts: Predicts
    inference: Inference = field(default_factory=Inference)
    """How its probabilities become labels."""
    brain_only: bool = True
    """Labels outside the brain are taken away. Not of models of other tools: their labelmaps stay theirs."""
    validation: Mapping[str, float] = field(default_factory=dict)
    """Figures of held-out cases, such as dice/WT and agreement/WT; empty where nobody knows."""
    inputs: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    """bts.inference.quality.Ranges of the training cases."""
    training_patients: tuple[str, ...] | None = None
    """None: not told."""
    validation_patients: tuple[str, ...] = ()
    """Those whose scores chose what was kept: one of several epochs, or one of a sweep's trials."""
