"""Network families, built from a preset."""

from torch import nn

from bts.model.nets.attention import AttentionUNet
from bts.model.nets.blocks import glorot
from bts.model.nets.encoder_unet import EncoderUNet
from bts.model.nets.fcn import FCN
from bts.model.nets.isensee import IsenseeUNet
from bts.model.nets.residual import ResidualUNet
from bts.model.nets.segnet import SegNet
from bts.model.nets.unet import UNet
from bts.model.nets.vnet import VNet
from bts.model.targets import outputs
from bts.settings import Preset

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
    network = FAMILIES[preset.network](preset.channels, outputs(preset), dims, preset.layers)
    return network.apply(glorot) if preset.layers.initialisation == "glorot" else network
