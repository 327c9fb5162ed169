"""Network families, built from a preset."""

from torch import nn

from bts.nets.attention import AttentionUNet
from bts.nets.encoder_unet import EncoderUNet
from bts.nets.fcn import FCN
from bts.nets.isensee import IsenseeUNet
from bts.nets.residual import ResidualUNet
from bts.nets.segnet import SegNet
from bts.nets.unet import UNet
from bts.nets.vnet import VNet
from bts.settings import Preset
from bts.targets import outputs

FAMILIES = {
    "unet": UNet,
    "residual_unet": ResidualUNet,
    "isensee": IsenseeUNet,
    "attention_unet": AttentionUNet,
    "fcn": FCN,
    "segnet": SegNet,
    "vnet": VNet,
    "encoder_unet": EncoderUNet,
}


def build(preset: Preset) -> nn.Module:
    """The preset's network with fresh weights: images (B, C, …) → logits (B, outputs, …)."""
    dims = 3 if preset.volumetric else 2
    return FAMILIES[preset.network](preset.channels, outputs(preset), dims, preset.layers)
