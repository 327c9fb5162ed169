"""What plans.json and dataset.json of nnU-Net say → the description of an adopted model.

plans.json names classes and functions, which nnU-Net imports; here each name is looked up in a table. Wrong
values raise ValueError, KeyError or TypeError, which the converter puts into words.
"""

import re
from collections.abc import Mapping
from typing import Any

from bts.errors import UsageError
from bts.inference.foreign.checks import mapping, shown, whole
from bts.inference.foreign.nnunet.plan import INTENSITIES, MOST_STAGES
from bts.inference.foreign.source import Asked
from bts.inference.foreign.words import labels_of, regions_of

ARCHITECTURES = {"PlainConvUNet": "plain", "ResidualEncoderUNet": "residual"}
READERS = {"SimpleITKIO": "file", "NibabelIO": "file", "NibabelIOWithReorient": "RAS"}
READERS |= {"SimpleITKIOWithReorient": "RAS"}
NORMALISATIONS = {
    "ZScoreNormalization": "zscore", "CTNormalization": "ct", "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale", "RGBTo01Normalization": "rgb",
}  # fmt: skip
RESAMPLINGS = {
    "resample_data_or_seg_to_shape": "spline", "resample_torch_fornnunet": "torch",
    "no_resampling_hack": "none",
}  # fmt: skip
NORMS = {f"torch.nn.modules.instancenorm.InstanceNorm{n}d": "instance" for n in (2, 3)}
NORMS |= {f"torch.nn.modules.batchnorm.BatchNorm{n}d": "batch" for n in (2, 3)}
NORMS |= {f"torch.nn.{kind}Norm{n}d": kind.lower() for kind in ("Instance", "Batch") for n in (2, 3)}
ACTIVATIONS = {f"torch.nn.{place}LeakyReLU": "leaky_relu" for place in ("", "modules.activation.")}
ACTIVATIONS |= {f"torch.nn.{place}ReLU": "relu" for place in ("", "modules.activation.")}
CONVOLUTIONS = {f"torch.nn.{place}Conv{n}d": n for place in ("", "modules.conv.") for n in (2, 3)}
IGNORED = {"dropout_op", "dropout_op_kwargs", "deep_supervision"}  # of training alone


def describe(plans: Mapping, configuration: Mapping, first: Mapping, channels: int, outputs: int) -> dict:
    """The parts of a description that plans.json and a checkpoint tell."""
    for key, known in (("preprocessor_name", "DefaultPreprocessor"), ("label_manager", "LabelManager")):
        said = configuration.get(key, plans.get(key, known))
        if said != known:
            raise ValueError(f"{key} {shown(said)} is not known here, only {known}")
    properties = plans.get("foreground_intensity_properties_per_channel") or plans.get(
        "foreground_intensity_properties_by_modality", {}
    )
    schemes = [
        _known(NORMALISATIONS, scheme, "normalization_schemes")
        for scheme in configuration["normalization_schemes"]
    ]
    of = [properties[str(n)] for n in range(channels)] if "ct" in schemes else []
    return {
        "order": _known(READERS, plans["image_reader_writer"], "image_reader_writer"),
        "transpose": plans["transpose_forward"],
        "spacing": configuration["spacing"],
        "patch": configuration["patch_size"],
        "normalisation": schemes,
        "masked": configuration["use_mask_for_norm"],
        "intensities": [{key: one[key] for key in INTENSITIES} for one in of],
        "images": _resampling(configuration, "resampling_fn_data"),
        "logits": _resampling(configuration, "resampling_fn_probabilities"),
        "mirror": list(first.get("inference_allowed_mirroring_axes") or ()),
        "network": _network(configuration, str(first.get("trainer_name")), channels, outputs),
    }


def _network(configuration: Mapping, trainer: str, channels: int, outputs: int) -> dict:
    """The network that a configuration describes, in today's words or those of before 2024."""
    dims = len(configuration["patch_size"])
    if "architecture" not in configuration:
        return _older_network(configuration, dims, channels, outputs)
    architecture = mapping(configuration["architecture"], "architecture")
    family = _known(ARCHITECTURES, _last(architecture["network_class_name"]), "network_class_name")
    if not re.fullmatch(
        r"dynamic_network_architectures\.architectures\.\w+\.\w+", architecture["network_class_name"]
    ):
        raise ValueError(f"network_class_name {shown(architecture['network_class_name'])} is not known here")
    said = dict(mapping(architecture["arch_kwargs"], "arch_kwargs"))
    stages = whole(said.pop("n_stages"), "n_stages", 2, MOST_STAGES)
    if _known(CONVOLUTIONS, said.pop("conv_op"), "conv_op") != dims:
        raise ValueError(f"conv_op and patch_size {shown(configuration['patch_size'])} do not go together")
    norm = said.pop("norm_op")
    of_norm = dict(mapping(said.pop("norm_op_kwargs", None) or {}, "norm_op_kwargs"))
    slope = dict(mapping(said.pop("nonlin_kwargs", None) or {}, "nonlin_kwargs"))
    slope.pop("inplace", None)
    blocks = said.pop("n_blocks_per_stage" if family == "residual" else "n_conv_per_stage")
    widths = _each(said.pop("features_per_stage"), stages)
    norm = "none" if norm is None else _known(NORMS, norm, "norm_op")
    if trainer == "nnUNetTrainerBN":  # which puts it in place of what the plan says
        norm, of_norm = "batch", {"eps": 1e-5, "affine": True}
    found = {
        "family": family, "dims": dims, "inputs": channels, "outputs": outputs, "widths": widths,
        "kernels": [_each(one, dims) for one in _each(said.pop("kernel_sizes"), stages)],
        "strides": [_each(one, dims) for one in _each(said.pop("strides"), stages)],
        "blocks": _each(blocks, stages),
        "decoder": _each(said.pop("n_conv_per_stage_decoder"), stages - 1),
        "bias": said.pop("conv_bias", False),
        "norm": norm,
        "affine": of_norm.pop("affine", norm == "batch"),
        "epsilon": of_norm.pop("eps", 1e-5),
        "activation": _known(ACTIVATIONS, said.pop("nonlin"), "nonlin"),
        "slope": slope.pop("negative_slope", 0.01),
        "activation_first": said.pop("nonlin_first", False),
        "stem": said.pop("stem_channels", None) or widths[0],
    }  # fmt: skip
    of_norm.pop("momentum", None)  # of training alone
    if unknown := [
        *(key for key, value in said.items() if key not in IGNORED and value is not None),
        *of_norm,
        *slope,
    ]:
        raise ValueError(f"architecture: {unknown[0]} is not known here")
    return found


def _older_network(configuration: Mapping, dims: int, channels: int, outputs: int) -> dict:
    family = _known(ARCHITECTURES, configuration["UNet_class_name"], "UNet_class_name")
    blocks = configuration["n_conv_per_stage_encoder"]
    base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    widths = [min(base * 2**n, most) for n in range(len(blocks))]
    return {
        "family": family, "dims": dims, "inputs": channels, "outputs": outputs, "widths": widths,
        "kernels": configuration["conv_kernel_sizes"], "strides": configuration["pool_op_kernel_sizes"],
        "blocks": blocks, "decoder": configuration["n_conv_per_stage_decoder"], "bias": True,
        "norm": "instance", "affine": True, "epsilon": 1e-5, "activation": "leaky_relu", "slope": 0.01,
        "activation_first": False, "stem": widths[0],
    }  # fmt: skip


def _resampling(configuration: Mapping, key: str) -> dict:
    kind = _known(RESAMPLINGS, configuration[key], key)
    said = dict(mapping(configuration.get(f"{key}_kwargs", {}), f"{key}_kwargs"))
    harmless = {"is_seg": False, "order_z": 0, "memefficient_seg_resampling": False, "mode": "linear"}
    harmless |= {"aniso_axis_mode": "nearest-exact", "separate_z_anisotropy_threshold": 3}
    found = {"kind": kind, "order": said.pop("order", 3), "separate": said.pop("force_separate_z", None)}
    for one, value in said.items():
        if harmless.get(one, ...) != value:
            raise ValueError(f"{key}_kwargs.{one} {shown(value)} is not known here")
    return found


def outputs_of(dataset: Mapping, asked: Asked) -> dict[str, list[int]]:
    """Which channel is which region, or which label of ours."""
    said = {
        str(name): value for name, value in mapping(dataset["labels"], "labels").items() if name != "ignore"
    }
    values = {name: [value] if isinstance(value, int) else list(value) for name, value in said.items()}
    foreground = {name: found for name, found in values.items() if set(found) != {0}}
    if any(len(found) > 1 for found in foreground.values()):
        painted = [int(value) for value in dataset["regions_class_order"]]
        return {
            "regions": list(regions_of({name: frozenset(f) for name, f in foreground.items()}, painted)),
            "labels": [],
        }
    label_of = labels_of({name: int(found[0]) for name, found in foreground.items()}, asked)
    if sorted(label_of) != list(range(1, len(label_of) + 1)):
        raise ValueError(f"labels {shown(said)} are not numbered from 0 without a gap")
    return {"regions": [], "labels": [0, *(label_of[value] for value in sorted(label_of))]}


def configuration_of(plans: Mapping, name: str | None) -> dict:
    """A configuration with all that it inherits. Raises UsageError for a cascade."""
    known, seen = mapping(plans["configurations"], "configurations"), []
    found: dict[str, Any] = {}
    while name is not None:
        if name in seen or name not in known:
            raise ValueError(f"configurations: {shown(name)} is not there, or inherits from itself")
        seen.append(name)
        found = {**mapping(known[name], name), **found}
        name = known[name].get("inherits_from")
    if found.get("previous_stage"):
        raise UsageError(
            f"{seen[0]} is the second stage of a cascade, after {found['previous_stage']}; adopt 3d_fullres "
            "or 3d_lowres instead"
        )
    return found


def _each(value: Any, count: int) -> list:
    """nnU-Net writes one number where all are alike."""
    return [value] * count if isinstance(value, int) else list(value)


def _known(table: Mapping, name: object, key: str):
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"{key} {shown(name)} is not known here")
    return table[name]


def _last(name: object) -> object:
    return name.rpartition(".")[2] if isinstance(name, str) else name
