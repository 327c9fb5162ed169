"""Steps that foreign models put before their networks, and the way back from their grid to the case's.

Each is what MONAI's transform of the same purpose does, voxel by voxel; which one, its docstring says.
Axes: C channel, X Y Z the volume's own axes in the order of the file, or as `Orient` leaves them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from nibabel import orientations

from bts.errors import UsageError
from bts.inference.foreign.checks import shown
from bts.inference.foreign.fields import read_fields
from bts.inference.foreign.resampling import at_spacing, sampled

SAME = 1e-3  # of a voxel: a grid this near is taken as it is


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Voxels and where they lie."""

    images: torch.Tensor
    """(C, X, Y, Z) float32."""
    affine: np.ndarray
    """4×4, voxel indices → mm in RAS+."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])


class Step(Protocol):
    """One step. Its fields are JSON values and are checked when it is made (ValueError)."""

    def apply(self, placed: Placed) -> Placed:
        """On the way to the network."""

    def undo(self, found_KXYZ: torch.Tensor, affine: np.ndarray, shape: Sequence[int]) -> torch.Tensor:
        """On the way back: what was found on the grid after this step → on that before it, of this affine and
        shape."""


class Intensities:
    """A step that leaves the grid as it is."""

    def undo(self, found_KXYZ: torch.Tensor, affine: np.ndarray, shape: Sequence[int]) -> torch.Tensor:
        return found_KXYZ


@dataclass(frozen=True, slots=True)
class Orient:
    """Orientation: axes permuted and flipped so that they run to `axes`, such as RAS."""

    axes: str

    def __post_init__(self):
        pairs = sorted("LRPAIS".index(axis) // 2 for axis in self.axes if axis in "LRPAIS")
        if len(self.axes) != 3 or pairs != [0, 1, 2]:
            raise ValueError(f"axes {self.axes!r} are none such as RAS or LPS")

    def _turn(self, affine: np.ndarray) -> np.ndarray:
        there = orientations.io_orientation(affine)
        return orientations.ornt_transform(there, orientations.axcodes2ornt(self.axes))

    def apply(self, placed: Placed) -> Placed:
        turn = self._turn(placed.affine)
        affine = placed.affine @ orientations.inv_ornt_aff(turn, placed.shape)
        return Placed(_turned(placed.images, turn), affine)

    def undo(self, found_KXYZ: torch.Tensor, affine: np.ndarray, shape: Sequence[int]) -> torch.Tensor:
        turn = self._turn(affine)
        order = np.argsort(turn[:, 0])
        return _turned(found_KXYZ, np.stack([order, turn[order, 1]], axis=1))


@dataclass(frozen=True, slots=True)
class Resample:
    """Spacing: voxels of `mm` along each axis, linearly; back linearly too, or the nearest with `nearest`."""

    mm: tuple[float, float, float]
    nearest: bool = False

    def __post_init__(self):
        if not all(0.1 <= side <= 20 for side in self.mm):
            raise ValueError(f"spacing {list(self.mm)} is not three numbers of 0.1 to 20 mm")

    def apply(self, placed: Placed) -> Placed:
        to_old, shape = at_spacing(placed.affine, placed.shape, self.mm)
        if np.allclose(to_old, np.eye(4), atol=SAME) and shape == placed.shape:
            return placed
        return Placed(sampled(placed.images, to_old, shape), placed.affine @ to_old)

    def undo(self, found_KXYZ: torch.Tensor, affine: np.ndarray, shape: Sequence[int]) -> torch.Tensor:
        to_old, resampled = at_spacing(affine, shape, self.mm)
        if np.allclose(to_old, np.eye(4), atol=SAME) and resampled == tuple(shape):
            return found_KXYZ
        return sampled(found_KXYZ, np.linalg.solve(affine @ to_old, affine), shape, self.nearest)


@dataclass(frozen=True, slots=True)
class ZScore(Intensities):
    """NormalizeIntensity: minus the mean, over the standard deviation, of all voxels or of those not 0."""

    nonzero: bool = False
    channel_wise: bool = False

    def apply(self, placed: Placed) -> Placed:
        images = placed.images.clone()
        for group in images if self.channel_wise else (images,):
            there = group != 0 if self.nonzero else torch.ones_like(group, dtype=torch.bool)
            values = group[there]
            if values.numel():
                std = values.std(unbiased=False).item() or 1.0
                group[there] = (values - values.mean().item()) / std
        return Placed(images, placed.affine)


@dataclass(frozen=True, slots=True)
class Rescale(Intensities):
    """ScaleIntensityRange: `low`…`high` becomes `to_low`…`to_high`; `clip` cuts off what lies outside."""

    low: float
    high: float
    to_low: float = 0.0
    to_high: float = 1.0
    clip: bool = False

    def __post_init__(self):
        if not self.low < self.high or not self.to_low < self.to_high:
            raise ValueError(f"the range {self.low:g} to {self.high:g} is empty")

    def apply(self, placed: Placed) -> Placed:
        images = (placed.images - self.low) / (self.high - self.low)
        images = images * (self.to_high - self.to_low) + self.to_low
        return Placed(images.clip(self.to_low, self.to_high) if self.clip else images, placed.affine)


STEPS: dict[str, type] = {"orient": Orient, "resample": Resample, "zscore": ZScore, "rescale": Rescale}


def read_step(told: object, name: str) -> Step:
    """{"step": one of STEPS, its fields} → the step. Raises UsageError; `name` is for its message."""
    if not isinstance(told, dict) or str(told.get("step")) not in STEPS:
        raise UsageError(f"{name}: the step {shown(told)} is not known; known are {', '.join(STEPS)}")
    step = told["step"]
    fields = {key: told[key] for key in told if key != "step"}
    return read_fields(STEPS[step], fields, f"{name}: step {step}")


def _turned(images: torch.Tensor, turn: np.ndarray) -> torch.Tensor:
    """Axes of (C, X, Y, Z) permuted and flipped as nibabel's transform of orientations tells; contiguous."""
    flipped = images.flip([1 + axis for axis, way in enumerate(turn[:, 1]) if way < 0])
    order = np.argsort(turn[:, 0])
    return flipped.permute(0, *(1 + int(axis) for axis in order)).contiguous()
