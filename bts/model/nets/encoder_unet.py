"""U-Net, 2D, whose encoder is a network for photographs by its timm name, for transfer learning."""

import difflib
import math
import re
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from bts.errors import UsageError
from bts.model.nets.blocks import Parts, he
from bts.settings import Layers


class EncoderUNet(nn.Module):
    """Images (B, inputs, H, W) → logits (B, outputs, H, W); H and W multiples of `layers.multiple`.

    `layers.widths` are the decoder's, from full resolution down to the encoder's coarsest features: one more
    than the encoder has halvings, 6 for most.
    """

    def __init__(self, inputs: int, outputs: int, dims: int, layers: Layers):
        super().__init__()
        assert dims == 2, "Preset refuses volumes"
        parts, widths, self.name = Parts(dims, layers), layers.widths, layers.encoder
        self.encoder = _create(layers.encoder, inputs)
        info: Any = self.encoder.feature_info  # timm's
        # Level l has 1 / 2^l of the image's height and width; an encoder may begin at 1 or 2.
        self.levels = [int(math.log2(reduction)) for reduction in info.reduction()]
        deepest, channels = self.levels[-1], dict(zip(self.levels, info.channels(), strict=True))
        if deepest != len(widths) - 1:
            raise UsageError(
                f"layers.widths {widths} and layers.encoder {self.name} do not go together: it halves its "
                f"input {deepest} times, so give {deepest + 1} widths"
            )
        self.bottom = nn.Sequential(*parts.two_convs(channels[deepest], widths[-1], deepest))
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths) - 1)):
            width = widths[level]
            self.up.append(parts.transposed(widths[level + 1], width, layers.up))
            both = width + channels.get(level, 0)
            self.decoder.append(nn.Sequential(*parts.two_convs(both, width, level)))
        if layers.norm == "none":
            self.bottom.apply(he)
            self.decoder.apply(he)
        self.head = parts.conv(widths[0], outputs, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = dict(zip(self.levels, self.encoder(x), strict=True))
        deepest = self.levels[-1]
        x = self.bottom(skips[deepest])
        for level, up, block in zip(reversed(range(deepest)), self.up, self.decoder, strict=True):
            x = up(x)
            x = block(torch.cat([x, skips[level]], dim=1) if level in skips else x)
        return self.head(x)


def load_encoder(network: EncoderUNet, data: bytes) -> None:
    """Fill the encoder with pretrained weights: the bytes of timm's .safetensors file of that encoder.

    The first convolution's weights of red, green and blue are repeated over the inputs (added up for one);
    the head that names photographs is left out. Raises UsageError for a damaged file, or another encoder's.
    """
    try:
        weights = safetensors.torch.load(data)
    except SafetensorError as error:
        raise UsageError(f"layers.weights: no .safetensors file, or damaged ({error})") from None
    ours, theirs = network.encoder.state_dict(), {_plain(key): value for key, value in weights.items()}
    fitted = {key: _adapt(theirs.get(_plain(key)), value) for key, value in ours.items()}
    misfits = [key for key, value in ours.items() if getattr(fitted[key], "shape", None) != value.shape]
    parts, known = {_part(key) for key in ours}, {_plain(key) for key in ours}
    misfits += [key for key in weights if _part(key) in parts and _plain(key) not in known]
    if misfits:
        raise UsageError(
            f"layers.weights do not fit layers.encoder {network.name}: {len(misfits)} tensors missing, too "
            f"many or of another shape, {misfits[0]} for one; give the .safetensors of timm/{network.name}"
        )
    network.encoder.load_state_dict(fitted)


def _create(name: str, inputs: int) -> nn.Module:
    """timm's network of that name, cut down to its features, with random weights."""
    timm = import_timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UsageError(f"layers.encoder {name}: timm {timm.__version__} has no such network{hint}")
    try:
        encoder = timm.create_model(name, features_only=True, in_chans=inputs, pretrained=False)
        steps = encoder.feature_info.reduction()
        pyramid = steps == sorted(set(steps)) and getattr(encoder, "output_fmt", "NCHW") == "NCHW"
    except RuntimeError:  # timm's word for networks without features
        pyramid = False
    if not pyramid:
        raise UsageError(
            f"layers.encoder {name}: it gives no features of several resolutions; choose a convolutional "
            "network, for example resnet34"
        )
    return encoder


def import_timm():
    """The module timm, which this file alone needs."""
    try:
        try:
            import timm
        except RuntimeError:
            # PyPI's torchvision beside a CPU-only torch: its operators fail to load, and timm calls none.
            for name in ("nms", "qnms"):
                torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
            import timm
    except ImportError:
        raise UsageError(
            "network encoder_unet needs timm: pip install -r requirements-encoders.txt"
        ) from None
    return timm


def _plain(key: str) -> str:
    """A weight's name, alike in timm's files (stages.0.…) and in networks of features alone (stages_0.…)."""
    return key.replace("_", ".")


def _part(key: str) -> str:
    """The part of the network that a weight belongs to: stages of stages.0.… and stages_0.…"""
    return re.sub(r"_\d+$", "", key.split(".")[0])


def _adapt(found: torch.Tensor | None, wanted: torch.Tensor) -> torch.Tensor | None:
    """The weight found for `wanted`, one of red, green and blue fitted to the inputs; a count of batches,
    which some files lack, stays as it is.
    """
    if found is None:
        return wanted if wanted.ndim == 0 else None
    if found.ndim == 4 and found.shape[1] == 3 != wanted.shape[1]:
        return import_timm().models.adapt_input_conv(wanted.shape[1], found)
    return found
