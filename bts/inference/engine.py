"""OpenVINO in PyTorch's place: the same network and the same precision in fewer passes over memory, on CPUs.

An extra (requirements-openvino.txt), loaded where it is asked for alone.
"""

import importlib
import io
import sys
import threading
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import nn

from bts.inference.options import engine_version


class Compiled:
    """A network, called as the network itself: float32 (B, C, …) on the CPU → float32 (B, outputs, …)."""

    def __init__(
        self,
        network: nn.Module,
        example: torch.Tensor | None = None,
        *,
        half: bool = False,
        any_size: bool = False,
    ):
        """example: a small input, by which a network that computes the same whatever the size is followed;
        None: it is followed by the first input of each size, at the cost of a pass by PyTorch.
        half: compute in bfloat16. any_size: compile once, for sizes that change all the time; takes more
        memory, and needs an example.
        Raises UsageError where OpenVINO is not installed.
        """
        self.half, self.any_size, self.openvino = half, any_size, load()
        self.network, self.example = network, example
        self.followed: Any = None
        self.made: dict[torch.Size | None, Any] = {}
        self.turn = threading.Lock()  # a network of OpenVINO is at one input at a time

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        images = images.contiguous()
        size = None if self.any_size else images.shape
        with self.turn:
            if size not in self.made:
                self.made = {}  # one at a time: each has its own memory
                self.made[size] = self._made(images)
            return torch.from_numpy(self.made[size](images.numpy())[0])

    def _made(self, images: torch.Tensor) -> Any:
        if self.example is None:
            model = self._follow(images)
        else:
            self.followed = self.followed or self._follow(self.example)
            model = self.followed.clone()
        if not self.any_size:
            model.reshape(list(images.shape))
        return compiled(self.openvino, model, self.half)

    def _follow(self, example: torch.Tensor) -> Any:
        plain = torch.autocast("cpu", enabled=False)  # precision is a matter of compiling
        with warnings.catch_warnings(), torch.inference_mode(), plain:
            warnings.simplefilter("ignore")  # TracerWarning: sizes become constants, as they may here
            trace = torch.jit.trace(self.network, example, check_trace=False)
            return self.openvino.convert_model(trace, example_input=example)


class CompiledGraph:
    """An ONNX graph, called in the same way."""

    def __init__(self, data: bytes):
        """Raises UsageError where OpenVINO is not installed, and RuntimeError for what it cannot run."""
        openvino = load()
        self.made = compiled(openvino, openvino.Core().read_model(io.BytesIO(data)), half=False)
        self.turn = threading.Lock()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        with self.turn:
            return torch.from_numpy(self.made(images.contiguous().numpy())[0])


def compiled(openvino: ModuleType, model: Any, half: bool) -> Any:
    """A model of OpenVINO, ready, with as many threads as torch was given."""
    how = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # several actors of a machine would be pinned to the same cores
    }
    return openvino.Core().compile_model(model, "CPU", how)


def load() -> ModuleType:
    """The package. Raises UsageError where it is not installed."""
    engine_version("openvino")
    # On being imported it would tell its makers so over the network; a hospital's machine does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")
