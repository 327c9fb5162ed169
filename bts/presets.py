"""Every system as one dataclass value: what goes in, which network, how it is trained, how it segments.

A preset is data: it travels as JSON inside each model file, and each field is a flag (`--field.subfield`).
Axes: B batch, C channel (modality), H rows (front to back), W columns (the patient's right to left).
"""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The U-Net's shape."""

    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Filters a level, finest first; each level below halves height and width."""
    stem: int = 2
    """Rows and columns folded into channels before the first level, unfolded by the head: with 2, a step on a
    CPU takes a quarter of the time."""
    norm: Literal["batch", "instance"] = "batch"
    """Normalisation after each convolution; batch is twice as fast on a CPU."""

    def __post_init__(self):
        if not self.widths or min(self.widths) < 1 or self.stem < 1:
            raise ValueError("network.widths and network.stem must be positive")

    @property
    def multiple(self) -> int:
        """Height and width must be a multiple of this many pixels."""
        return self.stem * 2 ** (len(self.widths) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which slices an epoch draws."""

    empty_slices: float = 0.33
    """Share of the slices without tumour drawn in an epoch, at random; slices with tumour are all drawn."""

    def __post_init__(self):
        if not 0 <= self.empty_slices <= 1:
            raise ValueError("sampling.empty_slices is a share between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Random changes to each training slice, made on the device after normalisation."""

    flip: float = 0.5
    """Probability of a left-right mirror, the only symmetry that a brain has."""
    rotate: float = 15.0
    """Slices are turned by up to ± this many degrees."""
    zoom: float = 0.15
    """Slices are enlarged by 1 ± up to this much."""
    scale: float = 0.2
    """Each modality's z-scores are multiplied by 1 ± up to this much (contrast)."""
    shift: float = 0.2
    """Each modality is shifted by up to ± this many standard deviations (brightness)."""
    noise: float = 0.05
    """Standard deviation of Gaussian noise inside the brain, in z-score units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Weighted sum of soft Dice over the whole batch and binary cross-entropy, both a mean over regions."""

    dice: float = 1.0
    """Weight of soft Dice."""
    bce: float = 1.0
    """Weight of binary cross-entropy."""

    def __post_init__(self):
        if min(self.dice, self.bce) < 0 or self.dice + self.bce == 0:
            raise ValueError("loss.dice and loss.bce must not be negative, nor both zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimiser:
    """AdamW; the learning rate falls as (1 - progress)^poly, progress being the share of the budget spent."""

    lr: float = 3e-3
    """Learning rate at its highest."""
    warmup: int = 50
    """Steps over which the learning rate rises linearly from zero."""
    poly: float = 0.9
    """Exponent of the decay (nnU-Net's)."""
    weight_decay: float = 1e-2
    """Decoupled weight decay, as a factor of the learning rate."""
    clip: float = 1.0
    """Largest norm of the gradient; longer ones are scaled down."""
    ema: float = 0.995
    """Decay a step of the running average of the weights, which is validated and saved; 0: no average."""

    def __post_init__(self):
        if not (self.lr > 0 and 0 <= self.ema < 1 and self.clip > 0):
            raise ValueError("optimiser.lr and optimiser.clip must be positive, optimiser.ema in [0, 1)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long to train: the run ends at whichever bound is met first."""

    epochs: int | None = None
    """Passes over the drawn slices; None: no bound."""
    minutes: float | None = 10.0
    """Wall-clock minutes of training, validation included, over all resumes together; None: no bound."""
    validate_every: int = 10
    """Epochs between validations (about 5 % of the time on two CPU cores); always after the last."""

    def __post_init__(self):
        if self.epochs is None and self.minutes is None:
            raise ValueError("budget.epochs and budget.minutes are both None: no end; set one")
        if (self.epochs is not None and self.epochs < 1) or (self.minutes is not None and self.minutes <= 0):
            raise ValueError("budget.epochs and budget.minutes must be positive where they are set")
        if self.validate_every < 1:
            raise ValueError("budget.validate_every must be at least 1 epoch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """From probabilities to labels."""

    batch: int = 16
    """Slices predicted at once."""
    threshold: float = 0.5
    """Probability above which a pixel belongs to a region."""
    min_et_ml: float = 0.05
    """Enhancing tumour of fewer millilitres in a whole case becomes necrosis: specks in a case that has none
    would score Dice 0 instead of 1 (the BraTS rule for empty truths)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One segmentation system, whole."""

    name: str
    """Name of the preset, kept in the models it makes."""
    summary: str = ""
    """One line for tables and --help."""
    modalities: tuple[str, ...] = ("t1", "t1ce", "t2", "flair")
    """Input channels, in the network's order."""
    size: tuple[int, int] = (160, 128)
    """Height and width in pixels (1 mm) of a training crop."""
    batch: int = 16
    """Slices a step and worker."""
    seed: int = 0
    """Seed of the weights, the augmentation, the order of slices and the split."""
    network: Network = Network()
    sampling: Sampling = Sampling()
    augmentation: Augmentation = Augmentation()
    loss: Loss = Loss()
    optimiser: Optimiser = Optimiser()
    budget: Budget = Budget()
    inference: Inference = Inference()

    def __post_init__(self):
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError("modalities must name each input once, at least one")
        if self.batch < 1:
            raise ValueError("batch must be at least 1")
        if any(side % self.network.multiple or side < 1 for side in self.size):
            raise ValueError(
                f"size {self.size} does not go with network.widths and network.stem: this network needs "
                f"multiples of {self.network.multiple}"
            )


def to_dict(preset: Preset) -> dict:
    """The preset as plain JSON values."""
    return dataclasses.asdict(preset)


def from_dict(values: dict) -> Preset:
    """The preset that `to_dict` wrote. Raises ValueError for a field that this version does not know."""
    return _build(Preset, values)


def _build(kind, values):
    """Rebuild a value of type `kind` from JSON, which knows neither dataclasses nor tuples."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        unknown = set(values) - set(hints)
        if unknown:
            raise ValueError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
        return kind(**{key: _build(hints[key], value) for key, value in values.items()})
    return tuple(values) if typing.get_origin(kind) is tuple else values


PRESETS: dict[str, Preset] = {
    "fast": Preset(
        name="fast",
        summary="2D U-Net on four modalities, trained in ten minutes on two CPU cores",
    ),
}
