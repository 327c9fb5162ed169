"""2D U-Net (Ronneberger et al. 2015, arXiv 1505.04597), with strided convolutions on the way down.

It may work at a fraction of the input's resolution: `stem` folds neighbouring pixels into channels
(Shi et al. 2016, arXiv 1609.05158), and the head unfolds its channels into pixels again.
"""

import torch
from torch import nn
from torch.nn import functional

from bts.presets import Network

NORMS = {"batch": nn.BatchNorm2d, "instance": lambda width: nn.InstanceNorm2d(width, affine=True)}


class UNet(nn.Module):
    """images (B, inputs, H, W) → logits (B, outputs, H, W); H and W multiples of `settings.multiple`."""

    def __init__(self, inputs: int, outputs: int, settings: Network):
        super().__init__()
        self.stem, widths, norm = settings.stem, settings.widths, settings.norm
        fold = self.stem**2
        self.encoder = nn.ModuleList()
        for level, (before, width) in enumerate(zip((inputs * fold, *widths), widths, strict=False)):
            self.encoder.append(_two_convs(before, width, norm, stride=1 if level == 0 else 2))
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.up.append(nn.ConvTranspose2d(below, width, kernel_size=2, stride=2))
            self.decoder.append(_two_convs(2 * width, width, norm))
        self.head = nn.Conv2d(widths[0], outputs * fold, kernel_size=1)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x = functional.pixel_unshuffle(x_BCHW, self.stem).contiguous(memory_format=torch.channels_last)
        skips = []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        for up, level, skip in zip(self.up, self.decoder, skips[-2::-1], strict=True):
            x = level(torch.cat([up(x), skip], dim=1))
        return functional.pixel_shuffle(self.head(x), self.stem)


def _two_convs(inputs: int, width: int, norm: str, stride: int = 1) -> nn.Sequential:
    """Twice 3×3 convolution, normalisation and leaky ReLU; the first may halve height and width."""
    layers = []
    for before, step in ((inputs, stride), (width, 1)):
        layers += [
            nn.Conv2d(before, width, kernel_size=3, stride=step, padding=1, bias=False),
            NORMS[norm](width),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)
