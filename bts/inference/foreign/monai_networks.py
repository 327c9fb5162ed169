"""Networks of MONAI by their names: which there are, which arguments they take, and how they are built."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bts.errors import UsageError
from bts.inference.foreign.packages import load

SHARED = ("spatial_dims", "in_channels", "out_channels")
NETWORKS: dict[str, tuple[str, ...]] = {
    "SegResNet": (
        *SHARED, "init_filters", "dropout_prob", "act", "norm", "norm_name", "num_groups", "use_conv_final",
        "blocks_down", "blocks_up", "upsample_mode",
    ),
    "UNet": (
        *SHARED, "channels", "strides", "kernel_size", "up_kernel_size", "num_res_units", "act", "norm",
        "dropout", "bias", "adn_ordering",
    ),
    "DynUNet": (
        *SHARED, "kernel_size", "strides", "upsample_kernel_size", "filters", "dropout", "norm_name",
        "act_name", "deep_supervision", "deep_supr_num", "res_block", "trans_bias",
    ),
    "SwinUNETR": (
        *SHARED, "patch_size", "depths", "num_heads", "window_size", "qkv_bias", "mlp_ratio", "feature_size",
        "norm_name", "drop_rate", "attn_drop_rate", "dropout_path_rate", "normalize", "downsample",
        "patch_norm", "use_v2",
    ),
}  # fmt: skip
"""Arguments of each that change what it computes."""
FORGOTTEN = ("use_checkpoint", "img_size")
"""Arguments that do not: of training, and of older versions."""
LARGEST, LONGEST, WIDEST = 4096, 64, 16
"""The largest number, longest list and window among the arguments, so that what is built is bounded."""


class WithoutMemory(TorchFunctionMode):
    """Weights are made as shapes alone; other than under torch.device("meta"), numbers stay numbers."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def check_network(name: object, arguments: object, where: str) -> None:
    """Raise UsageError for a network that is not on the list, or arguments that it does not take."""
    if str(name) not in NETWORKS:
        raise UsageError(f"{where}: the network {name} is not supported; supported are {', '.join(NETWORKS)}")
    if not isinstance(arguments, dict):
        raise UsageError(f"{where}: {name} without arguments")
    if odd := [key for key in arguments if key not in NETWORKS[str(name)]]:
        raise UsageError(f"{where}: {name}'s argument {odd[0]} is not supported")
    if arguments.get("spatial_dims", 3) != 3:
        raise UsageError(
            f"{where}: {name} with spatial_dims {arguments['spatial_dims']}; only 3 is supported"
        )
    for key, value in arguments.items():
        if not _is_small(value) or (key == "window_size" and not _is_small(value, most=WIDEST)):
            raise UsageError(f"{where}: {name}'s {key} is {value!r}, more than any network has")


def _is_small(value: object, depth: int = 0, most: int = LARGEST) -> bool:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return depth < 4 and len(value) <= LONGEST and all(_is_small(one, depth + 1, most) for one in inner)
    if isinstance(value, str):
        return len(value) <= LONGEST
    return value is None or (isinstance(value, int | float) and abs(value) <= most)


def build(name: str, arguments: Mapping, weights: Mapping[str, torch.Tensor], where: str) -> torch.nn.Module:
    """The network with its weights, in eval mode. Raises UsageError where they do not belong together.

    First without memory, so that no more is ever allocated than the weights themselves take.
    """
    check_network(name, arguments, where)
    kind = getattr(load("monai.networks.nets"), name)
    try:
        with WithoutMemory():
            shapes = {key: value.shape for key, value in kind(**arguments).state_dict().items()}
        if odd := [
            key for key in {*shapes, *weights} if shapes.get(key) != getattr(weights.get(key), "shape", None)
        ]:
            raise ValueError(f"{sorted(odd)[0]} differs")
        network = kind(**arguments)
        network.load_state_dict(weights)
    except UsageError:
        raise
    except Exception as error:  # whatever a constructor makes of arguments that do not fit
        raise UsageError(f"{where}: {name} and its weights do not match ({error})") from None
    if name == "SegResNet":
        network.decode = partial(_decode, network)
    return network.eval()


def _decode(network: Any, images: torch.Tensor, skips: list) -> torch.Tensor:
    """What SegResNet.decode computes, to the bit; added in place, and each skip let go once it was added.

    MONAI keeps both to the end, which at the finest level are most of what a case takes.
    """
    for level, (up, blocks) in enumerate(zip(network.up_samples, network.up_layers, strict=True), 1):
        images = up(images)
        images += skips[level]
        skips[level] = None
        images = blocks(images)
    return network.conv_final(images) if network.use_conv_final else images
