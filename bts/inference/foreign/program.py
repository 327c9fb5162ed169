"""Programs (torch.export, TorchScript) → the ONNX graph of what they compute; only of a trusted source.

A program may do anything on loading, and no list can check it. It is run here once, by whoever trusts it;
what goes into the model file is the graph, which is data like any other.
"""

import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from bts.errors import UsageError
from bts.inference.foreign.packages import load
from bts.inference.foreign.source import Source

EXPORTED, SCRIPTED = (".pt2",), (".ts", ".jit", ".torchscript")
ENDINGS = EXPORTED + SCRIPTED
NEAR = 1e-3  # of the largest value: both sum in float32, in another order

Run = Callable[[torch.Tensor], torch.Tensor]


def check_trusted(source: Source, trust: bool) -> None:
    """Raise UsageError, with nothing read, for the program that a source holds where nobody trusts it."""
    if trust:
        return
    name = next(name for name in source.names if name.endswith(ENDINGS))
    raise UsageError(
        f"{source.uri}: {name} is a program (TorchScript, torch.export), which no list can check; export the "
        "network to ONNX, or give --trust if you trust its maker: it is run once, here, to make a graph of it"
    )


def graph_of(data: bytes, name: str, shape: Sequence[int]) -> bytes:
    """The ONNX graph of a program, which is run. shape: (batch, channel, x, y, z) of its input.

    Raises UsageError for a program that cannot be loaded or exported, or whose graph computes something else.
    """
    if min(shape) < 1:
        raise UsageError(f"{name}: give each side of its window in voxels, for it is run to be exported")
    load("onnxscript")
    images = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    try:
        with warnings.catch_warnings(), torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # of exporters, to those who wrote the network
            file = Path(folder) / "model.onnx"
            expected = _export(data, name, images, file)(images)
            graph = file.read_bytes()
        session = load("onnxruntime").InferenceSession(graph, providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    except UsageError:
        raise
    except Exception as error:  # a program may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        problem = f"{name}: cannot be exported to ONNX ({reason})"
        raise UsageError(f"{problem}; export it where it was made") from None
    wanted = np.asarray(expected)
    if found.shape != wanted.shape or np.abs(found - wanted).max() > NEAR * np.abs(wanted).max():
        raise UsageError(f"{name}: its ONNX graph computes something else; export it where it was made")
    return graph


def _export(data: bytes, name: str, images: torch.Tensor, file: Path) -> Run:
    """The graph into `file`; the program itself, to compare."""
    if name.lower().endswith(EXPORTED):
        program = torch.export.load(io.BytesIO(data))
        made = torch.onnx.export(program, (), dynamo=True, verbose=False)
        assert made is not None, "it is given where no file is"
        made.save(file)
        return program.module()
    script = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
    torch.onnx.export(script, (images,), file, dynamo=False, verbose=False)
    return script
