"""Network families, built from a preset."""

from torch import nn

from bts.metrics import REGIONS
from bts.nets.unet import UNet
from bts.presets import Preset


def build(preset: Preset) -> nn.Module:
    """The preset's network with fresh weights: images (B, C, H, W) → logits (B, regions, H, W)."""
    return UNet(len(preset.modalities), len(REGIONS), preset.network)
