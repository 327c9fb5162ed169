"""Networks by OpenVINO, and as they run without it: `python -m benchmarks.engines [NAME …]`.

One forward pass on one core, in turn: CPU seconds, largest difference of the logits, share of the answers
(above 0 or not, voxel by voxel and output by output) that differ. Inputs are smooth noise.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from benchmarks.adopted import NETWORK
from bts.inference.engine import Compiled
from bts.inference.foreign.monai_networks import build
from bts.inference.foreign.nnunet.network import UNet
from bts.inference.foreign.nnunet.plan import Network
from bts.inference.own import OwnPredictor
from bts.inference.predictor import How
from bts.model.device import autocast
from bts.model.file import BOX, load_model
from tests import bundles

RUNS = 3
CPU = torch.device("cpu")
WIDTHS = (32, 64, 128, 256, 320, 320)

Forward = Callable[[torch.Tensor], torch.Tensor]


def smooth(*shape: int) -> torch.Tensor:
    """(B, C, …), of sides that are multiples of 8."""
    mode = "bilinear" if len(shape) == 4 else "trilinear"
    small = torch.randn(*shape[:2], *(side // 8 for side in shape[2:]))
    return 2 * functional.interpolate(small, size=shape[2:], mode=mode)


def ours(file: Path, shape: tuple[int, ...]) -> tuple[Forward, Forward, torch.Tensor]:
    """A file of the bundled model, as `segment` runs it."""
    model = load_model(file.read_bytes(), file.name)
    plain, other = (OwnPredictor(model, How(device=CPU, engine=engine)) for engine in ("torch", "openvino"))
    memory = plain.memory

    def forward(images: torch.Tensor) -> torch.Tensor:
        with autocast(CPU):
            return plain.network(images.contiguous(memory_format=memory)).float()

    return forward, other.network, smooth(*shape)


def theirs(network: nn.Module, shape: tuple[int, ...]) -> tuple[Forward, Forward, torch.Tensor]:
    """A network of another tool, in float32."""
    return network, Compiled(network), smooth(*shape)


def segresnet(side: int) -> tuple[Forward, Forward, torch.Tensor]:
    """Of MONAI's brats_mri_segmentation, untrained."""
    arguments = {key: value for key, value in NETWORK.items() if key != "_target_"}
    weights = bundles.untrained(NETWORK).state_dict()
    return theirs(build("SegResNet", arguments, weights, "SegResNet"), (1, 4, side, side, side))


def nnunet() -> tuple[Forward, Forward, torch.Tensor]:
    """The plain U-Net that nnU-Net plans for BraTS, untrained, on an eighth of its window of 128³."""
    stages, threes = len(WIDTHS), (3, 3, 3)
    plan = Network(
        family="plain", dims=3, inputs=4, outputs=3, widths=WIDTHS, kernels=(threes,) * stages,
        strides=((1, 1, 1), *((2, 2, 2),) * (stages - 1)), blocks=(2,) * stages, decoder=(2,) * (stages - 1),
        bias=True, norm="instance", affine=True, epsilon=1e-5, activation="leaky_relu", slope=0.01,
        activation_first=False, stem=WIDTHS[0],
    )  # fmt: skip
    return theirs(UNet(plan).requires_grad_(False).eval(), (1, 4, 64, 64, 64))


MADE = {
    "fast": lambda: ours(BOX[0], (16, 12, 160, 128)),
    "fast3d": lambda: ours(BOX[1], (1, 4, 144, 176, 144)),
    "SegResNet": lambda: segresnet(96),
    "nnU-Net": nnunet,
}


@torch.inference_mode()
def compare(name: str) -> Iterator[str]:
    torch.manual_seed(0)
    *engines, images = MADE[name]()
    expected, found = (engine(images) for engine in engines)  # warms up
    took: list[list[float]] = [[], []]
    for _ in range(RUNS):
        for engine, seconds in zip(engines, took, strict=True):
            before = time.process_time()
            engine(images)
            seconds.append(time.process_time() - before)
    torchs, openvinos = map(statistics.median, took)
    size, largest = expected.abs().max(), (found - expected).abs().max()
    differ = ((found > 0) != (expected > 0)).float().mean()
    yield f"{name:12}{torchs:8.2f} s{openvinos:8.2f} s{torchs / openvinos:7.2f} times"
    yield f"   logits to {largest:.4f} of {size:.1f}, {differ:.1e} of the answers differ"


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"{'network':12}{'PyTorch':>10}{'OpenVINO':>10}")
    for one in sys.argv[1:] or MADE:
        print("".join(compare(one)), flush=True)
