"""An adopted nnU-Net at work: windows blended by a Gaussian, mirrored, averaged over folds.

Sums run in half precision on purpose: nnU-Net's do, and its labels are to be these labels, voxel by voxel.
Axes: C channel, K output; x, y, z of the plan.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from bts.cases.case import CaseVolume
from bts.errors import UsageError
from bts.inference.engine import Compiled
from bts.inference.foreign.nnunet.around import Around
from bts.inference.foreign.nnunet.images import Prepared
from bts.inference.foreign.nnunet.network import UNet
from bts.inference.foreign.nnunet.plan import read_plan
from bts.inference.predictor import How, Predictor
from bts.model.adopted import Adopted

Network = Callable[[torch.Tensor], torch.Tensor]

STEP = 0.5  # of a window's side
SIGMA, HIGHEST = 1 / 8, 10  # of a window's Gaussian: share of its side, value in its middle


class NnunetPredictor(Predictor):
    """An adopted nnU-Net, all its folds."""

    around: Around

    def __init__(self, model: Adopted, how: How):
        """Raises UsageError where description and weights make no sense together."""
        self.card, self.how = model.card, how
        try:
            self.plan = read_plan(model.description, len(model.card.modalities))
            self.around = Around(model.card, self.plan, how.allow_missing)
            networks = [self._network(model, fold) for fold in range(self.plan.folds)]
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"{model.card.name}: no nnU-Net that can be run ({reason}); adopt it again"
            ) from None
        self.networks: list[Network] = [*networks]
        if how.engine == "openvino":
            sides = (math.prod(strides) for strides in zip(*self.plan.network.strides, strict=True))
            example = torch.zeros(1, self.plan.network.inputs, *(2 * side for side in sides))
            self.networks = [Compiled(one, example) for one in networks]
        self.gaussian = _gaussian(self.plan.patch).to(how.device)

    def _network(self, model: Adopted, fold: int) -> UNet:
        start = f"{fold}."
        weights = {k.removeprefix(start): value for k, value in model.weights.items() if k.startswith(start)}
        with torch.device("meta"):
            network = UNet(self.plan.network)
        network.load_state_dict(weights, assign=True)
        return network.requires_grad_(False).eval().to(self.how.device)

    def probabilities(self, volume: CaseVolume) -> torch.Tensor:
        return self.around.after(self.answered(self.around.before(volume)), volume)

    def answered(self, seen: Prepared) -> Prepared:
        """The logits in the place of the images."""
        return replace(
            seen, images=self._logits(torch.from_numpy(np.require(seen.images, requirements="W"))).numpy()
        )

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        """float32 (C, x, y, z) → float16 (K, x, y, z) on the CPU, mean of all folds."""
        patch = self.plan.patch
        sides = [
            (0, n) if k is None else (k, n) for k, n in zip(_leading(patch), images.shape[1:], strict=True)
        ]
        short = [max(0, side - n) for side, n in sides]
        pads = [(few // 2, few - few // 2) for few in short]
        padded = functional.pad(images, [side for pair in reversed(pads) for side in pair])
        first, *others = self.networks
        total = self._windows(first, padded).cpu()
        for network in others:
            total.add_(self._windows(network, padded).cpu())
        if others:
            total /= len(self.networks)
        inner = (slice(before, before + n) for (before, _), n in zip(pads, images.shape[1:], strict=True))
        total[~torch.isfinite(total)] = torch.nan  # half precision overflowed: `Segmenter` fails the case
        return total[(slice(None), *inner)]

    def _windows(self, network: Network, images: torch.Tensor) -> torch.Tensor:
        device = self.how.device
        images = images.to(device)
        total = torch.zeros((self.plan.network.outputs, *images.shape[1:]), dtype=torch.half, device=device)
        weights = torch.zeros(images.shape[1:], dtype=torch.half, device=device)
        with torch.autocast("cuda", enabled=device.type == "cuda"):
            for place in _places(images.shape[1:], self.plan.patch):
                cut = images[(slice(None), *place)][None].contiguous()
                total[(slice(None), *place)] += self._mirrored(network, cut)[0].mul_(self.gaussian)
                weights[place] += self.gaussian
        return total.div_(weights)

    def _mirrored(self, network: Network, images: torch.Tensor) -> torch.Tensor:
        """Logits (1, K, …), mean over every combination of mirrored axes."""
        axes = [axis + 2 for axis in self.plan.mirror]
        turns = [some for n in range(len(axes)) for some in itertools.combinations(axes, n + 1)]
        found = network(images)
        for turn in turns:
            found += network(images.flip(turn)).flip(turn)
        return found.div_(len(turns) + 1) if turns else found


def _leading(patch: Sequence[int]) -> tuple[int | None, ...]:
    """Sides of a window along x, y, z: none along the slices of a 2D network."""
    return (None,) * (3 - len(patch)) + tuple(patch)


def _places(shape: Sequence[int], patch: Sequence[int]) -> Iterator[tuple]:
    """Where windows lie: in steps of at most half a side, evenly spread; of a 2D network on every slice."""
    axes = [_starts(n, side) for n, side in zip(shape[-len(patch) :], patch, strict=True)]
    slices = [()] if len(patch) == 3 else [(z,) for z in range(shape[0])]
    for before in slices:
        for starts in itertools.product(*axes):
            yield (*before, *(slice(at, at + side) for at, side in zip(starts, patch, strict=True)))


def _starts(length: int, side: int) -> list[int]:
    count = math.ceil((length - side) / (side * STEP)) + 1
    step = (length - side) / max(1, count - 1)
    return [int(np.round(step * n)) for n in range(count)]


def _gaussian(patch: tuple[int, ...]) -> torch.Tensor:
    """Weights of a window, float16, never 0."""
    peak = np.zeros(patch)
    peak[tuple(side // 2 for side in patch)] = 1
    blurred = gaussian_filter(peak, [side * SIGMA for side in patch], 0, mode="constant", cval=0)
    weight = torch.from_numpy(blurred / (blurred.max() / HIGHEST)).half()
    weight[weight == 0] = weight[weight != 0].min()
    return weight
