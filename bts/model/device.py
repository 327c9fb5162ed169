"""Which processor to compute on, and in which precision."""

import contextlib

import numpy as np
import torch
from torch import nn

from bts.errors import UsageError

SAFE_SIDE = 8
"""oneDNN's bfloat16 gradients of 3D kernels are wrong, NaN at times, where a side is shorter than the kernel
(torch 2.13; kernels here have 5 at most), and at a single voxel a slice up to a depth of 6."""


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for; with None the GPU where there is one, else the CPU. Raises UsageError for one
    that is not here."""
    if not device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # of a name that is none, and of a torch without CUDA
        mend = "give 'cpu', or 'cuda' where there is a GPU, or leave it out"
        raise UsageError(f"device={str(device)!r}: torch cannot compute there; {mend}") from error


def autocast(device: torch.device, *, learned_side: int | None = None) -> contextlib.AbstractContextManager:
    """bfloat16 arithmetic where the hardware has it (a third of the time on avx512_bf16), else float32.

    learned_side: shortest side, in voxels, of what 3D convolutions see whose gradients are wanted.
    """
    if device.type == "cpu" and learned_side is not None and learned_side < SAFE_SIDE:
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware computes in it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def as_autocast(x: torch.Tensor) -> torch.Tensor:
    """What a convolution makes of its input where `autocast` is on; otherwise the input itself."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def channels_last(dims: int) -> torch.memory_format:
    """The memory format in which convolutions of `dims` dimensions are fastest."""
    return torch.channels_last if dims == 2 else torch.channels_last_3d


def in_channels_last(network: nn.Module, dims: int) -> nn.Module:
    """The network itself, its weights in that order."""
    return network.to(memory_format=channels_last(dims))  # type: ignore[call-overload]  # torch's types lack it


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array there; a GPU takes it from pinned memory while the CPU goes on."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def off_device(*tensors: torch.Tensor) -> list[np.ndarray]:
    """Tensors of one device as arrays; off a GPU all at once, into pinned memory."""
    if tensors[0].device.type != "cuda":
        return [tensor.contiguous().numpy() for tensor in tensors]
    pinned = [torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for one in tensors]
    for place, tensor in zip(pinned, tensors, strict=True):
        place.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return [place.numpy() for place in pinned]
