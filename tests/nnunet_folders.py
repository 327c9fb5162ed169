"""Trained folders as nnU-Net v2 leaves them, with random weights; nnU-Net reads them, and is not needed."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

from bts.inference.foreign.nnunet.network import UNet
from bts.inference.foreign.nnunet.plan import Network

CHANNELS = ("T1", "T1ce", "T2", "FLAIR")
LABELS = {"background": 0, "edema": 1, "non-enhancing and necrosis": 2, "enhancing tumor": 3}
REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
ORDER = [1, 2, 3]  # regions_class_order: as BraTS 2021 has them, 1 oedema, 2 necrosis
WIDTHS = [4, 6, 8]


def plans(name: str, dims: int, family: str = "plain", **changes) -> dict:
    """A plans.json with one configuration of this name; changes: keys of it, or of the whole."""
    residual = family == "residual"
    resampling = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"nnUNetPlans_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [32, 24, 40][-dims:],
        "spacing": [1.0] * dims,
        "normalization_schemes": ["ZScoreNormalization"] * 4,
        "use_mask_for_norm": [True] * 4,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**resampling, "order": 3},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet."
            + ("ResidualEncoderUNet" if residual else "PlainConvUNet"),
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": WIDTHS,
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": [[3] * dims] * 3,
                "strides": [[1] * dims, [2] * dims, [2] * dims],
                ("n_blocks_per_stage" if residual else "n_conv_per_stage"): [1, 2, 2],
                "n_conv_per_stage_decoder": [1, 2],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }
    configuration |= {key: value for key, value in changes.items() if key in configuration}
    properties = {"mean": 500.0, "std": 200.0, "percentile_00_5": 20.0, "percentile_99_5": 1500.0}
    whole = {
        "dataset_name": "Dataset001_Tumours",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(n): properties for n in range(4)},
        "configurations": {name: configuration},
    }
    return whole | {key: value for key, value in changes.items() if key in whole}


def dataset(regions: bool, **changes) -> dict:
    """A dataset.json."""
    found = {
        "channel_names": {str(n): name for n, name in enumerate(CHANNELS)},
        "labels": REGIONS if regions else LABELS,
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    return (found | {"regions_class_order": ORDER} if regions else found) | changes


def checkpoint(
    name: str,
    dims: int,
    family: str,
    outputs: int,
    seed: int,
    mirror: tuple[int, ...] | None,
    inputs: int = 4,
) -> dict:
    """A checkpoint with weights under all of the names that nnU-Net gives them, and figures of a training."""
    torch.manual_seed(seed)
    ones, twos, threes = ((n,) * dims for n in (1, 2, 3))
    network = UNet(
        Network(
            family=family, dims=dims, inputs=inputs, outputs=outputs, widths=tuple(WIDTHS),
            kernels=(threes,) * 3, strides=(ones, twos, twos), blocks=(1, 2, 2), decoder=(1, 2), bias=True,
            norm="instance", affine=True, epsilon=1e-5, activation="leaky_relu", slope=0.01,
            activation_first=False, stem=WIDTHS[0],
        )
    )  # fmt: skip
    return {
        "network_weights": _their_names(network.state_dict(), dims, outputs),
        "optimizer_state": {"state": {}, "param_groups": []},
        "logging": {"dice": [np.float32(0.5), np.float64(0.25)]},
        "_best_ema": np.float64(0.4),
        "current_epoch": 1,
        "init_args": {"configuration": name, "fold": 0},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": mirror,
    }


def write(
    folder: Path,
    name: str = "3d_fullres",
    *,
    regions: bool = False,
    family: str = "plain",
    folds: int = 1,
    mirror: tuple[int, ...] = (),
    plan: dict | None = None,
    described: dict | None = None,
    outputs: int | None = None,
) -> Path:
    """A trained folder, at `folder`; `plan`, `described`: changes to its two JSON files."""
    dims = 2 if name == "2d" else 3
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans(name, dims, family, **(plan or {}))))
    (folder / "dataset.json").write_text(json.dumps(dataset(regions, **(described or {}))))
    for fold in range(folds):
        (folder / f"fold_{fold}").mkdir()
        found = checkpoint(name, dims, family, outputs or (3 if regions else 4), fold, mirror or None)
        torch.save(found, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def changed(folder: Path, file: str, *path: str, to: object) -> None:
    """Put another value into one of its JSON files."""
    found = whole = json.loads((folder / file).read_text())
    for key in path[:-1]:
        found = found[key]
    found[path[-1]] = deepcopy(to)
    (folder / file).write_text(json.dumps(whole))


def _their_names(ours: dict[str, torch.Tensor], dims: int, outputs: int) -> dict[str, torch.Tensor]:
    found = {}
    for key, value in ours.items():
        theirs = key.replace("decoder.head.", f"decoder.seg_layers.{len(WIDTHS) - 2}.")
        found[theirs] = value
        for kind, place in ((".conv.", 0), (".norm.", 1)):  # each module twice: by its name and in order
            if kind in theirs:
                found[theirs.replace(kind, f".all_modules.{place}.")] = value
    found |= {f"decoder.{key}": value for key, value in found.items() if key.startswith("encoder.")}
    for n, width in enumerate(WIDTHS[1:-1][::-1]):  # of deep supervision
        found[f"decoder.seg_layers.{n}.weight"] = torch.zeros(outputs, width, *(1,) * dims)
        found[f"decoder.seg_layers.{n}.bias"] = torch.zeros(outputs)
    return found
