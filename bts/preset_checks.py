"""Settings of a preset that do not go together, each in one line for the person who gave the flags."""

import math
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

from bts.labels import TARGETS

if TYPE_CHECKING:
    from bts.settings import Preset

LARGEST = 4096
"""Voxels of a side, or samples of a batch: more is a mistake, or a model file made to fill the memory."""
TAKERS = {
    "place": ("unet", "attention_unet", "fcn"),
    "down": ("unet", "attention_unet", "fcn", "residual_unet", "isensee", "vnet"),
    "up": ("unet", "attention_unet", "encoder_unet"),
    "first": ("residual_unet",),
    "hypercolumns": ("unet",),
    "encoder": ("encoder_unet",),
    "weights": ("encoder_unet",),
}
"""Fields of Layers that not every network takes, and the networks that do."""


def problem_of(preset: "Preset") -> str:
    """The first that is found, with what to give; empty for a preset that can be trained."""
    checks = (_check_numbers, _check_size, _check_frame, _check_network, _check_window, _check_output)
    return next(filter(None, (check(preset) for check in (*checks, _check_counts, _check_sampling))), "")


def _check_numbers(preset: "Preset") -> str:
    """What is no number, or has no end, would be trained with, and its model then be refused."""
    for group in fields(preset):
        settings = getattr(preset, group.name)
        for one in fields(settings) if is_dataclass(settings) else ():
            value = getattr(settings, one.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
                return f"{group.name}.{one.name} {value}: give a finite number"
    return ""


def _check_size(preset: "Preset") -> str:
    sides = 3 if preset.volumetric else 2
    for name in ("size", "resize", "frame"):
        if any(not 0 < side <= LARGEST for side in getattr(preset, name) or ()):
            return f"{name} {getattr(preset, name)}: sides are of 1 to {LARGEST} voxels"
    if len(preset.size) != sides:
        shown = "×".join(map(str, preset.size))
        return (
            f"size {shown} and sampling.kind {preset.sampling.kind} do not go together: "
            f"give {'slices, height and width' if sides == 3 else 'height and width'}"
        )
    if any(side % preset.layers.multiple for side in preset.size):
        return (
            f"size {preset.size} and layers.widths, layers.stem do not go together: this network needs "
            f"multiples of {preset.layers.multiple}"
        )
    return ""


def _check_frame(preset: "Preset") -> str:
    frame, of_frame = preset.frame, preset.normalisation.percentiles == "frame"
    if of_frame and (frame is None or preset.normalisation.kind != "slice_zscore"):
        return (
            f"normalisation.percentiles frame, kind {preset.normalisation.kind} and frame {frame} do not go "
            "together: it is of slice_zscore in a frame; give --normalisation.percentiles brain"
        )
    if frame is None:
        return ""
    if preset.volumetric or preset.resize:
        return (
            f"frame {frame} and sampling.kind {preset.sampling.kind}, resize {preset.resize} do not go "
            "together: it is of slices as they are; give --frame None"
        )
    multiple = preset.layers.multiple
    if any(side < cut or side % multiple for side, cut in zip(frame, preset.size, strict=True)):
        return (
            f"frame {frame} and size {preset.size}, layers.widths do not go together: a frame is at least as "
            f"large as size, its sides multiples of {multiple}"
        )
    return ""


def _check_network(preset: "Preset") -> str:
    layers, network = preset.layers, preset.network
    if layers.stem > 1 and network != "unet":
        return (
            f"layers.stem {layers.stem} and network {network} do not go together: only a unet has a stem; "
            "give --layers.stem 1"
        )
    for field, takers in TAKERS.items():
        if network not in takers and getattr(layers, field) != getattr(type(layers)(), field):
            shown = f"layers.{field} {getattr(layers, field)}"
            return f"{shown} and network {network} do not go together: it is of {', '.join(takers)}"
    if network == "encoder_unet" and (preset.volumetric or not layers.encoder):
        return (
            f"network encoder_unet, layers.encoder {layers.encoder or 'none'} and sampling.kind "
            f"{preset.sampling.kind} do not go together: it is 2D and needs a timm name, for example resnet34"
        )
    return ""


def _check_window(preset: "Preset") -> str:
    window, multiple = preset.inference.window, preset.layers.multiple
    if window and not preset.volumetric:
        return f"inference.window and sampling.kind {preset.sampling.kind} do not go together: it is of 3D"
    if window and any(not 0 < side <= LARGEST or side % multiple for side in window):
        return f"inference.window {window}: this network needs multiples of {multiple}, up to {LARGEST}"
    return ""


def _check_output(preset: "Preset") -> str:
    if preset.output == "softmax" and preset.targets == "regions":
        return "output softmax and targets regions do not go together: regions overlap; use targets labels"
    if preset.loss.ce and preset.output == "sigmoid":
        return "loss.ce and output sigmoid do not go together; use loss.bce"
    if preset.loss.bce and preset.output == "softmax":
        return "loss.bce and output softmax do not go together; use loss.ce"
    return ""


def _check_counts(preset: "Preset") -> str:
    """A value a channel, where a setting has one for each."""
    weights, outputs = preset.loss.class_weights, len(TARGETS[preset.targets]) + (preset.output == "softmax")
    if weights and len(weights) != outputs:
        return (
            f"loss.class_weights {weights} and targets {preset.targets}, output {preset.output} do not go "
            f"together: give {outputs}, one for each output channel"
        )
    known, inputs = preset.normalisation, len(preset.modalities)
    if known.kind == "global_zscore" and {len(known.mean), len(known.std)} not in ({0}, {inputs}):
        return (
            f"normalisation.mean {known.mean}, normalisation.std {known.std} and modalities do not go "
            f"together: give {inputs} of both, one for each modality, or none"
        )
    return ""


def _check_sampling(preset: "Preset") -> str:
    if preset.sampling.kind == "patches" and preset.resize:
        return "sampling.kind patches and resize do not go together: patches are cut from slices as they are"
    if preset.augmentation.flip_slices and preset.sampling.kind in ("slices", "patches"):
        return f"augmentation.flip_slices and sampling.kind {preset.sampling.kind} do not go together"
    fading = preset.augmentation.fade or preset.augmentation.dim
    brats = {"t1", "t1ce"} <= set(preset.modalities) and preset.normalisation.kind == "brain_zscore"
    if fading and not brats:
        return (
            "augmentation.fade, augmentation.dim, modalities and normalisation.kind do not go together: they "
            "are of BraTS's cases, T1 and T1ce among them, by brain_zscore"
        )
    if preset.split == "leaking_by_slice" and preset.sampling.kind not in ("slices", "patches"):
        return f"split leaking_by_slice and sampling.kind {preset.sampling.kind} do not go together"
    return ""
