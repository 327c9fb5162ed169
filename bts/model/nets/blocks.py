"""The parts that the networks are built of, in 2D and in 3D from one definition.

Axes: B batch, C channel, … space: (H, W) for `dims` 2, (D, H, W) for `dims` 3.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from bts.model.nets.instance_norm import InstanceNorm2d, InstanceNorm3d
from bts.settings import Layers

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
PAD: dict[int, type[nn.Module]] = {2: nn.ZeroPad2d, 3: nn.ZeroPad3d}
POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
INSTANCE = {2: InstanceNorm2d, 3: InstanceNorm3d}


@dataclass(frozen=True, slots=True)
class Parts:
    """Makes the layers of a network of `dims` dimensions as its settings say; lists go into nn.Sequential."""

    dims: int
    layers: Layers

    def conv(self, inputs: int, width: int, kernel: int = 3, stride: int = 1, bias: bool = True) -> nn.Module:
        """Convolution; an odd kernel keeps the size."""
        padding = (kernel - 1) // 2
        return CONVOLUTION[self.dims](inputs, width, kernel, stride, padding=padding, bias=bias)

    def even_conv(self, inputs: int, width: int) -> list[nn.Module]:
        """Convolution over 2 pixels a side that keeps the size: zeros on the far sides, as Keras' "same"."""
        return [PAD[self.dims]((0, 1) * self.dims), self.conv(inputs, width, kernel=2)]

    def transposed(self, inputs: int, width: int, kernel: int = 2, bias: bool = True) -> nn.Module:
        """Transposed convolution that doubles the size."""
        odd = kernel % 2
        return TRANSPOSED[self.dims](inputs, width, kernel, 2, padding=odd, output_padding=odd, bias=bias)

    def norm(self, width: int) -> nn.Module:
        match self.layers.norm:
            case "batch":
                return BATCH[self.dims](width, eps=self.layers.epsilon, momentum=self.layers.momentum)
            case "instance":
                return INSTANCE[self.dims](width, affine=True)
        return nn.Identity()

    def activation(self, width: int, inplace: bool = True) -> nn.Module:
        """`inplace` overwrites its input: half the memory, where nothing else reads that input."""
        match self.layers.activation:
            case "prelu":
                return nn.PReLU(width)
            case "leaky_relu":
                return nn.LeakyReLU(0.01, inplace)
        return nn.ReLU(inplace)

    def dropout(self, level: int) -> list[nn.Module]:
        """Dropout of single values with the level's share; an empty list where it is 0."""
        share = self.layers.dropout[level] if self.layers.dropout else 0
        return [nn.Dropout(share)] if share else []

    def pool(self, width: int, level: int) -> list[nn.Module]:
        """Max-pooling on the way into `level`, with its normalisation and dropout (under `place` level)."""
        after = [self.norm(width), *self.dropout(level)] if self.layers.place == "level" else []
        return [POOL[self.dims](2), *after]

    def unit(self, inputs: int, width: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
        """Convolution, normalisation (under `place` convolution) and activation."""
        normed = self.layers.norm != "none" and self.layers.place == "convolution"
        norm = [self.norm(width)] if normed else []
        # A bias would be subtracted again by the normalisation.
        conv = self.conv(inputs, width, kernel, stride, bias=not normed)
        return [conv, *norm, self.activation(width)]

    def two_convs(self, inputs: int, width: int, level: int, stride: int = 1) -> list[nn.Module]:
        """U-Net's block: two units, with the level's dropout between them (under `place` convolution)."""
        between = self.dropout(level) if self.layers.place == "convolution" else []
        return [*self.unit(inputs, width, stride=stride), *between, *self.unit(width, width)]


class PreActivation(nn.Module):
    """Residual unit (He et al. 2016, arXiv 1603.05027): (B, inputs, …) → (B, width, …).

    Twice normalisation, activation and convolution, added to the input, by way of a 1×1 convolution where the
    width changes.
    """

    def __init__(self, parts: Parts, inputs: int, width: int, between: list[nn.Module]):
        super().__init__()
        normed = parts.layers.norm != "none"
        self.body = nn.Sequential(
            parts.norm(inputs),
            parts.activation(inputs, inplace=normed),  # without a norm it would overwrite the shortcut
            parts.conv(inputs, width, bias=not normed),
            *between,
            parts.norm(width),
            parts.activation(width),
            parts.conv(width, width),
        )
        same = inputs == width
        self.shortcut = nn.Identity() if same else parts.conv(inputs, width, kernel=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.body(x)


def enlarge(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """(B, C, …) → (B, C, *size) by linear interpolation."""
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return functional.interpolate(x, size=size, mode=mode, align_corners=False)


def add_up(maps: list[torch.Tensor]) -> torch.Tensor:
    """Maps (B, C, …) of several levels, coarsest first → their sum at the finest's size."""
    total, *finer = maps
    for each in finer:
        total = enlarge(total, each.shape[2:]) + each
    return total


def he(module: nn.Module) -> None:
    """For `network.apply`: scale that keeps a signal's variance through rectifiers (He et al. 2015, arXiv
    1502.01852). 1×1 convolutions, heads and shortcuts, are followed by none and keep PyTorch's.
    """
    if not isinstance(module, nn.Conv2d | nn.Conv3d) or max(module.kernel_size) == 1:
        return
    # A network of shapes alone: to draw nothing PyTorch would import its compiler, for more than a second.
    if module.weight.is_meta:
        return
    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def glorot(module: nn.Module) -> None:
    """For `network.apply`: fresh weights as Keras has them (Glorot and Bengio 2010), biases and slopes 0."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, nn.PReLU):
        nn.init.zeros_(module.weight)
