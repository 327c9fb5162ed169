"""Overlapping windows over a volume, blended, as MONAI's SlidingWindowInferer lays and blends them.

The sums are made in its order, so that a window's network gives MONAI's numbers to the last bit.
Axes: B batch, C channel, K output, X Y Z space.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

LARGEST = 512  # voxels a side, 240 × 240 × 160 being the largest that is in use
PADDING = ("constant", "reflect", "replicate", "circular")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Settings of a sliding window, under MONAI's names and with its defaults."""

    roi_size: tuple[int, int, int]
    """Voxels along X, Y, Z; 0 or less is the whole side."""
    overlap: tuple[float, float, float] = (0.25, 0.25, 0.25)
    sw_batch_size: int = 1
    mode: str = "constant"
    sigma_scale: float = 0.125
    padding_mode: str = "constant"
    cval: float = 0.0

    def __post_init__(self):
        if len(self.roi_size) != 3 or max(self.roi_size) > LARGEST:
            raise ValueError(f"roi_size {list(self.roi_size)} is not three sides of at most {LARGEST} voxels")
        if len(self.overlap) != 3 or not all(0 <= share < 0.95 for share in self.overlap):
            raise ValueError(f"overlap {list(self.overlap)} is not from 0 to below 0.95")
        if self.mode not in ("constant", "gaussian"):
            raise ValueError(f"mode {self.mode!r} is neither constant nor gaussian")
        if self.padding_mode not in PADDING:
            raise ValueError(f"padding_mode {self.padding_mode!r} is none of {', '.join(PADDING)}")
        if not 1 <= self.sw_batch_size <= 64:
            raise ValueError(f"sw_batch_size {self.sw_batch_size} is not from 1 to 64")
        if not 0.01 <= self.sigma_scale <= 10:
            raise ValueError(f"sigma_scale {self.sigma_scale} is not from 0.01 to 10")


def slide(
    images_CXYZ: torch.Tensor,
    window: Window,
    forward: Callable[[torch.Tensor], torch.Tensor],
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """The network's outputs over the volume, float32 (K, X, Y, Z) on the CPU.

    forward: (B, C, x, y, z) on `device` → (B, K, x, y, z) there.
    """
    shape = images_CXYZ.shape[1:]
    size = [side if side > 0 else n for side, n in zip(window.roi_size, shape, strict=True)]
    short = [max(side - n, 0) for side, n in zip(size, shape, strict=True)]
    before = [n // 2 for n in short]
    images = images_CXYZ[None]
    if any(short):
        ends = [(first, n - first) for first, n in zip(before, short, strict=True)]
        pad = [n for end in reversed(ends) for n in end]
        fill = {"value": window.cval} if window.padding_mode == "constant" else {}
        images = functional.pad(images, pad, mode=window.padding_mode, **fill)
    weight = _weights(size, window).to(device)
    corners = list(_corners(images.shape[2:], size, window.overlap))
    boxes = [tuple(slice(a, a + n) for a, n in zip(at, size, strict=True)) for at in corners]
    weights = torch.zeros(images.shape[2:], device=device)
    for box in boxes:
        weights[box] += weight
    total = None
    for some in (boxes[i : i + window.sw_batch_size] for i in range(0, len(boxes), window.sw_batch_size)):
        views = [images[(slice(None), slice(None), *box)] for box in some]
        cuts = (views[0] if len(views) == 1 else torch.cat(views)).to(device)  # no copy of the one window
        found = forward(cuts).float() * weight
        if total is None:
            total = torch.zeros((found.shape[1], *images.shape[2:]), device=device)
        for box, one in zip(some, found, strict=True):
            total[(slice(None), *box)] += one
    assert total is not None, "there is a window"
    total /= weights
    inner = (slice(a, a + n) for a, n in zip(before, shape, strict=True))
    return total[(slice(None), *inner)].cpu()


def _corners(
    shape: Sequence[int], size: Sequence[int], overlap: Sequence[float]
) -> Iterator[tuple[int, ...]]:
    """First voxels of the windows: in steps of the share that does not overlap, the last at the far end."""
    axes = []
    for n, side, share in zip(shape, size, overlap, strict=True):
        step = max(int(side * (1 - share)), 1)
        count = 1 + max(0, -(-(n - side) // step))
        axes.append([min(i * step, n - side) for i in range(count)])
    return itertools.product(*axes)


def _weights(size: Sequence[int], window: Window) -> torch.Tensor:
    """Of a window's voxels: all 1, or a Gaussian that is never 0."""
    if window.mode == "constant":
        return torch.ones(tuple(size))
    found = torch.ones(())
    for axis, side in enumerate(size):
        x = torch.arange(-(side - 1) / 2.0, (side - 1) / 2.0 + 1, dtype=torch.float)
        line = torch.exp(x**2 / (-2 * (side * window.sigma_scale) ** 2))
        found = found.unsqueeze(-1) * line[(None,) * axis] if axis else line
    return found.clamp(min=max(found.min().item(), 1e-3))
