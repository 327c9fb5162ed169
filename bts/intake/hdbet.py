"""HD-BET's network (Isensee et al. 2019), with the names of its weights: a residual U-Net of five levels.

Instance norm takes its statistics from the image at hand, as HD-BET's own inference does.
"""

import torch
from torch import nn
from torch.nn import functional

WIDTH = 21
SLOPE = 0.1  # of the last layers; 0.01 elsewhere


def _norm(channels: int) -> nn.InstanceNorm3d:
    return nn.InstanceNorm3d(channels, affine=True)


def _bend(x: torch.Tensor, slope: float = 0.01) -> torch.Tensor:
    return functional.leaky_relu(x, slope, inplace=True)


class Context(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, n: int):
        super().__init__()
        self.bn_1, self.conv1 = _norm(n), nn.Conv3d(n, n, 3, padding=1)
        self.bn_2, self.conv2 = _norm(n), nn.Conv3d(n, n, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(_bend(self.bn_2(self.conv1(_bend(self.bn_1(x))))))


class Down(nn.Module):
    """(what goes across to the other side, what goes down)."""

    def __init__(self, n: int):
        super().__init__()
        self.bn, self.downsample = _norm(n), nn.Conv3d(n, 2 * n, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = _bend(self.bn(x))
        return x, self.downsample(x)


class Up(nn.Module):
    def __init__(self, n: int):
        super().__init__()
        self.upsample_conv, self.bn = nn.Conv3d(n, n // 2, 3, padding=1), _norm(n // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)
        return _bend(self.bn(self.upsample_conv(x)))


class Localise(nn.Module):
    def __init__(self, n: int):
        super().__init__()
        self.conv1, self.bn_1 = nn.Conv3d(n, n, 3, padding=1), _norm(n)
        self.conv2, self.bn_2 = nn.Conv3d(n, n // 2, 1), _norm(n // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _bend(self.bn_2(self.conv2(_bend(self.bn_1(self.conv1(x))))))


class Network(nn.Module):
    """(1, 1, D, H, W) of sides that 16 divides → logits (1, 2, D, H, W): background, brain."""

    def __init__(self) -> None:
        super().__init__()
        w = WIDTH
        self.init_conv = nn.Conv3d(1, w, 3, padding=1)
        for level in range(4):
            setattr(self, f"context{level + 1}", Context(w << level))
            setattr(self, f"down{level + 1}", Down(w << level))
            setattr(self, f"up{level + 1}", Up(w << (4 - level)))
            if level < 3:
                setattr(self, f"loc{level + 1}", Localise(w << (4 - level)))
        self.context5, self.bn_after_context5 = Context(w << 4), _norm(w << 4)
        # Heads of deep supervision: trained, and not used here.
        self.loc2_seg = nn.Conv3d(4 * w, 2, 1, bias=False)
        self.loc3_seg = nn.Conv3d(2 * w, 2, 1, bias=False)
        self.end_conv_1, self.end_conv_1_bn = nn.Conv3d(2 * w, 2 * w, 3, padding=1), _norm(2 * w)
        self.end_conv_2, self.end_conv_2_bn = nn.Conv3d(2 * w, 2 * w, 3, padding=1), _norm(2 * w)
        self.seg_layer = nn.Conv3d(2 * w, 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.init_conv(x)
        across = []
        for level in (1, 2, 3, 4):
            skip, x = getattr(self, f"down{level}")(getattr(self, f"context{level}")(x))
            across.append(skip)
        x = _bend(self.bn_after_context5(self.context5(x)), SLOPE)
        for level in (1, 2, 3, 4):
            x = torch.cat((across.pop(), getattr(self, f"up{level}")(x)), 1)
            if level < 4:
                x = getattr(self, f"loc{level}")(x)
        x = _bend(self.end_conv_1_bn(self.end_conv_1(x)), SLOPE)
        return self.seg_layer(_bend(self.end_conv_2_bn(self.end_conv_2(x)), SLOPE))
