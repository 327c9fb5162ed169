"""The two U-Nets of nnU-Net's plans, with its names of weights.

Isensee et al. 2021, doi:10.1038/s41592-020-01008-z; residual encoders: Isensee et al. 2024, arXiv:2404.09556.
For inference alone: no dropout, no deep supervision.

Axes: B batch, C channel, … space (H, W) or (D, H, W).
"""

from collections.abc import Mapping

import torch
from torch import nn

from bts.inference.foreign.nnunet.plan import Network

CONVOLUTIONS: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOLS: dict[int, type[nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
NORMS = {
    ("instance", 2): nn.InstanceNorm2d,
    ("instance", 3): nn.InstanceNorm3d,
    ("batch", 2): nn.BatchNorm2d,
    ("batch", 3): nn.BatchNorm3d,
}


class UNet(nn.Module):
    """(B, inputs, …) → logits (B, outputs, …)."""

    def __init__(self, of: Network):
        super().__init__()
        self.encoder = (ResidualEncoder if of.family == "residual" else PlainEncoder)(of)
        self.decoder = Decoder(of)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(images))


class Convolution(nn.Module):
    """Convolution, normalisation, activation."""

    def __init__(self, of: Network, inputs: int, outputs: int, kernel, stride, *, active=True, bias=None):
        super().__init__()
        padding = [(side - 1) // 2 for side in kernel]
        bias = of.bias if bias is None else bias
        self.conv = CONVOLUTIONS[of.dims](inputs, outputs, kernel, stride, padding, bias=bias)
        self.norm = _norm(of, outputs)
        self.activation = _activation(of) if active else nn.Identity()
        self.activation_first = of.activation_first and of.norm != "none"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.norm(self.activation(x)) if self.activation_first else self.activation(self.norm(x))


def _one_after_another(
    kind: type[nn.Module], of: Network, count: int, inputs: int, outputs: int, kernel, stride
) -> nn.Sequential:
    """So many of a kind; the first alone has the stride, and changes the width."""
    ones = (1,) * of.dims
    first, rest = (inputs, outputs, kernel, stride), (outputs, outputs, kernel, ones)
    return nn.Sequential(*(kind(of, *(rest if n else first)) for n in range(count)))


class Stack(nn.Module):
    """Several convolutions, the first with a stride."""

    def __init__(self, of: Network, count: int, inputs: int, outputs: int, kernel, stride):
        super().__init__()
        self.convs = _one_after_another(Convolution, of, count, inputs, outputs, kernel, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x)


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which is pooled and projected where the sizes change (ResNet-D)."""

    def __init__(self, of: Network, inputs: int, outputs: int, kernel, stride):
        super().__init__()
        ones = (1,) * of.dims
        self.conv1 = Convolution(of, inputs, outputs, kernel, stride)
        self.conv2 = Convolution(of, outputs, outputs, kernel, ones, active=False)
        shortcut = [POOLS[of.dims](stride, stride)] if max(stride) > 1 else []
        if inputs != outputs:
            shortcut.append(Convolution(of, inputs, outputs, ones, ones, active=False, bias=False))
        self.skip = nn.Sequential(*shortcut)
        self.activation = _activation(of)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.conv2(self.conv1(x)) + self.skip(x))


class Residuals(nn.Module):
    """Several residual blocks, the first with a stride."""

    def __init__(self, of: Network, count: int, inputs: int, outputs: int, kernel, stride):
        super().__init__()
        self.blocks = _one_after_another(Residual, of, count, inputs, outputs, kernel, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


class PlainEncoder(nn.Module):
    """Images → the features of every stage, the finest first."""

    def __init__(self, of: Network):
        super().__init__()
        stages = zip((of.inputs, *of.widths), of.widths, of.blocks, of.kernels, of.strides, strict=False)
        self.stages = nn.Sequential(
            *(nn.Sequential(Stack(of, count, a, b, kernel, stride)) for a, b, count, kernel, stride in stages)
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class ResidualEncoder(PlainEncoder):
    """The same of residual blocks, after a stem."""

    def __init__(self, of: Network):
        nn.Module.__init__(self)
        self.stem = Stack(of, 1, of.inputs, of.stem, of.kernels[0], (1,) * of.dims)
        stages = zip((of.stem, *of.widths), of.widths, of.blocks, of.kernels, of.strides, strict=False)
        self.stages = nn.Sequential(
            *(Residuals(of, count, a, b, kernel, stride) for a, b, count, kernel, stride in stages)
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return super().forward(self.stem(x))


class Decoder(nn.Module):
    """The features of every stage → logits."""

    def __init__(self, of: Network):
        super().__init__()
        steps = list(range(len(of.widths) - 1, 0, -1))  # from the coarsest stage up
        self.transpconvs = nn.ModuleList(
            TRANSPOSED[of.dims](of.widths[n], of.widths[n - 1], of.strides[n], of.strides[n], bias=of.bias)
            for n in steps
        )
        self.stages = nn.ModuleList(
            Stack(of, count, 2 * of.widths[n - 1], of.widths[n - 1], of.kernels[n - 1], (1,) * of.dims)
            for n, count in zip(steps, of.decoder, strict=True)
        )
        self.head = CONVOLUTIONS[of.dims](of.widths[0], of.outputs, 1)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        x = features[-1]
        for enlarge, stage, skip in zip(self.transpconvs, self.stages, features[-2::-1], strict=True):
            x = stage(torch.cat((enlarge(x), skip), dim=1))
        return self.head(x)


def our_weights(theirs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state of nnU-Net's network by the names of `UNet`: each weight once, and of its heads the finest."""
    heads = [key for key in theirs if key.startswith("decoder.seg_layers.")]
    last = max((int(key.split(".")[2]) for key in heads if key.split(".")[2].isdecimal()), default=-1)
    found = {}
    for key, value in theirs.items():
        if ".all_modules." in key or key.startswith("decoder.encoder."):
            continue  # the same weights under a second name
        if key.startswith("decoder.seg_layers."):
            if key.startswith(f"decoder.seg_layers.{last}."):
                found[key.replace(f"seg_layers.{last}", "head")] = value
            continue
        found[key] = value
    return found


def _norm(of: Network, width: int) -> nn.Module:
    if of.norm == "none":
        return nn.Identity()
    return NORMS[of.norm, of.dims](width, eps=of.epsilon, affine=of.affine)


def _activation(of: Network) -> nn.Module:
    return nn.ReLU(inplace=True) if of.activation == "relu" else nn.LeakyReLU(of.slope, inplace=True)
