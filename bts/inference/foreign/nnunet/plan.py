"""What an adopted nnU-Net is: its plan, read from the description in a model file and checked.

Nothing is imported by a name that the file gives: every name is in a table here, every size has a bound.
Axes of a plan are nnU-Net's after `transpose`; 2D networks see the last two.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bts.inference.foreign.checks import mapping, number, one_of, several, truth, whole

ORDERS = ("file", "RAS")
NORMALISATIONS = ("zscore", "ct", "none", "rescale", "rgb")
RESAMPLINGS = ("spline", "torch", "none")
INTENSITIES = ("mean", "std", "percentile_00_5", "percentile_99_5")
MOST_VOXELS = 1 << 25  # of a patch: 320³
MOST_STAGES, MOST_BLOCKS, MOST_WIDTH = 12, 32, 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A U-Net of nnU-Net; all lists are a stage each, the finest first."""

    family: Literal["plain", "residual"]
    dims: int
    inputs: int
    outputs: int
    widths: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    blocks: tuple[int, ...]
    """Convolutions, or residual blocks, of the encoder."""
    decoder: tuple[int, ...]
    """Convolutions of the decoder, the coarsest stage first."""
    bias: bool
    norm: Literal["instance", "batch", "none"]
    affine: bool
    epsilon: float
    activation: Literal["leaky_relu", "relu"]
    slope: float
    activation_first: bool
    """Activation before normalisation."""
    stem: int
    """Filters of the residual encoder's first convolution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How images, or logits, go from one spacing to another."""

    kind: Literal["spline", "torch", "none"]
    order: int
    separate: bool | None
    """Slice by slice along the coarsest axis; None: where spacings differ by more than three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that inference needs."""

    order: Literal["file", "RAS"]
    transpose: tuple[int, int, int]
    spacing: tuple[float, ...]
    """mm; of a 2D network in plane alone."""
    patch: tuple[int, ...]
    normalisation: tuple[str, ...]
    """Of each channel, of NORMALISATIONS."""
    masked: tuple[bool, ...]
    """Whether zscore is over voxels that are not background alone."""
    intensities: tuple[Mapping[str, float], ...]
    """INTENSITIES of each channel over the training cases' foreground; empty where no channel is `ct`."""
    images: Resampling
    logits: Resampling
    mirror: tuple[int, ...]
    """Axes of a patch along which predictions are mirrored and averaged, in every combination."""
    regions: tuple[int, ...]
    """Channels of WT, TC, ET; empty of exclusive labels."""
    labels: tuple[int, ...]
    """Label of the project of each channel, the background's 0 first; empty of regions."""
    folds: int
    network: Network


def read_plan(found: object, channels: int) -> Plan:
    """The plan that a description holds, of a model with so many channels. Raises ValueError."""
    said = mapping(found, "description", Plan.__dataclass_fields__)
    patch = several(said.get("patch"), "patch", range(2, 4), lambda v, n: whole(v, n, 1, 1024))
    dims = len(patch)
    if math.prod(patch) > MOST_VOXELS:
        raise ValueError(f"patch {patch} is larger than any that nnU-Net plans")
    order = several(said.get("transpose"), "transpose", 3, lambda v, n: whole(v, n, 0, 2))
    if sorted(order) != [0, 1, 2]:
        raise ValueError(f"transpose {order} does not name each axis once")
    mirror = several(said.get("mirror"), "mirror", range(0, 4), lambda v, n: whole(v, n, 0, dims - 1))
    normalisation = several(
        said.get("normalisation"), "normalisation", channels, lambda v, n: one_of(v, n, NORMALISATIONS)
    )
    regions = several(said.get("regions"), "regions", (0, 3), lambda v, n: whole(v, n, 0, 2))
    labels = several(said.get("labels"), "labels", range(0, 9), lambda v, n: whole(v, n, 0, 3))
    if regions and (labels or sorted(regions) != [0, 1, 2]):
        raise ValueError(f"regions {regions}, labels {labels}: not each of WT, TC and ET once")
    if not regions and (labels[:1] != (0,) or set(labels[1:]) != {1, 2, 3}):
        raise ValueError(f"labels {labels} are not the background, then NCR, ED and ET")
    intensities = several(said.get("intensities"), "intensities", range(0, 9), _intensities)
    if "ct" in normalisation and len(intensities) != channels:
        raise ValueError("intensities: ct normalisation needs those of each channel")
    return Plan(
        order=one_of(said.get("order"), "order", ORDERS),
        transpose=order,
        spacing=several(said.get("spacing"), "spacing", dims, lambda v, n: number(v, n, 0.1, 50)),
        patch=patch,
        normalisation=normalisation,
        masked=several(said.get("masked"), "masked", channels, truth),
        intensities=intensities,
        images=_resampling(said.get("images"), "images"),
        logits=_resampling(said.get("logits"), "logits"),
        mirror=tuple(sorted(set(mirror))),
        regions=regions,
        labels=labels,
        folds=whole(said.get("folds"), "folds", 1, 20),
        network=_network(said.get("network"), patch, channels, len(regions or labels)),
    )


def _intensities(found: object, name: str) -> dict[str, float]:
    said = mapping(found, name, INTENSITIES)
    return {key: number(said.get(key), f"{name}.{key}", -1e7, 1e7) for key in INTENSITIES}


def _resampling(found: object, name: str) -> Resampling:
    said = mapping(found, name, Resampling.__dataclass_fields__)
    separate = said.get("separate")
    return Resampling(
        kind=one_of(said.get("kind"), f"{name}.kind", RESAMPLINGS),
        order=whole(said.get("order"), f"{name}.order", 0, 5),
        separate=None if separate is None else truth(separate, f"{name}.separate"),
    )


def _network(found: object, patch: tuple[int, ...], inputs: int, outputs: int) -> Network:
    said = mapping(found, "network", Network.__dataclass_fields__)
    dims = len(patch)

    def sides(most: int):
        return lambda value, name: several(value, name, dims, lambda v, n: whole(v, n, 1, most))

    def counts(key: str, length: int, most: int) -> tuple[int, ...]:
        return several(said.get(key), f"network.{key}", length, lambda v, n: whole(v, n, 1, most))

    widths = several(
        said.get("widths"),
        "network.widths",
        range(2, MOST_STAGES + 1),
        lambda v, n: whole(v, n, 1, MOST_WIDTH),
    )
    stages = len(widths)
    kernels = several(said.get("kernels"), "network.kernels", stages, sides(11))
    strides = several(said.get("strides"), "network.strides", stages, sides(8))
    if any(side % 2 == 0 for kernel in kernels for side in kernel):
        raise ValueError(f"network.kernels {kernels}: an even one")
    for axis, side in enumerate(patch):
        if side % math.prod(stride[axis] for stride in strides):
            raise ValueError(f"patch {patch} does not go through strides {strides}")
    return Network(
        family=one_of(said.get("family"), "network.family", ("plain", "residual")),
        dims=whole(said.get("dims"), "network.dims", dims, dims),
        inputs=whole(said.get("inputs"), "network.inputs", inputs, inputs),
        outputs=whole(said.get("outputs"), "network.outputs", outputs, outputs),
        widths=widths,
        kernels=kernels,
        strides=strides,
        blocks=counts("blocks", stages, MOST_BLOCKS),
        decoder=counts("decoder", stages - 1, MOST_BLOCKS),
        bias=truth(said.get("bias"), "network.bias"),
        norm=one_of(said.get("norm"), "network.norm", ("instance", "batch", "none")),
        affine=truth(said.get("affine"), "network.affine"),
        epsilon=number(said.get("epsilon"), "network.epsilon", 0, 1),
        activation=one_of(said.get("activation"), "network.activation", ("leaky_relu", "relu")),
        slope=number(said.get("slope"), "network.slope", 0, 1),
        activation_first=truth(said.get("activation_first"), "network.activation_first"),
        stem=whole(said.get("stem"), "network.stem", 1, MOST_WIDTH),
    )
