"""ONNX models: a graph, and a TOML file beside it that tells what stands around it.

The TOML file is the recipe of an adopted model: `channels`, `outputs`, `activation`, `window`, `steps`. The
graph travels as bytes within the model file and is run by onnxruntime. Of a trusted program (`program`) the
graph is made first.
"""

import tomllib
from collections.abc import Callable

import numpy as np
import torch

from bts.errors import CaseError, UsageError
from bts.inference.engine import CompiledGraph
from bts.inference.foreign import program
from bts.inference.foreign.bundle_prepare import triple
from bts.inference.foreign.onnx_check import check_onnx
from bts.inference.foreign.packages import load
from bts.inference.foreign.recipe import BACKGROUND, Recipe, RecipePredictor, check_outputs, read_recipe
from bts.inference.foreign.source import Asked, Source
from bts.inference.foreign.words import modalities_of
from bts.inference.predictor import How, Predictor
from bts.model.adopted import Adopted, save_adopted

GRAPH = "onnx"
"""The tensor that holds the bytes of the graph."""
KEYS = ("channels", "outputs", "activation", "window", "steps")


def recognises(source: Source) -> bool:
    """Whether there is an ONNX file, or a program."""
    return any(name.endswith((".onnx", *program.ENDINGS)) for name in source.names)


def convert(source: Source, asked: Asked) -> bytes:
    """Graph and description as one model file. Raises UsageError for what it refuses, naming it."""
    ending = ending_of(source)
    if ending in program.ENDINGS:
        program.check_trusted(source, asked.trust)
    graph, description = only(source, ending), only(source, ".toml")
    told = read_description(source.read(description), description)
    named = told.get("channels")
    modalities = modalities_of(list(map(str, named)) if isinstance(named, list) else (), asked)
    outputs = check_outputs(told.get("outputs"), description)
    window = told.get("window")
    if isinstance(window, dict):
        window = window | {key: triple(window[key]) for key in ("roi_size", "overlap") if key in window}
    recipe = {
        "steps": told.get("steps", []),
        "window": window,
        "outputs": list(outputs),
        "activation": told.get("activation", "softmax" if BACKGROUND in outputs else "sigmoid"),
        "half_counts": False,
    }
    data = source.read(graph)
    checked = read_recipe(recipe, description)
    if ending in program.ENDINGS:
        data = program.graph_of(data, graph, (1, len(modalities), *checked.window.roi_size))
    check(data, checked, len(modalities), graph)
    weights = {GRAPH: torch.from_numpy(np.frombuffer(data, np.uint8).copy())}
    made = {"source": source.uri, "graph": graph}
    return save_adopted("onnx", asked.name, modalities, checked.predicts, {"recipe": recipe}, weights, made)


def ending_of(source: Source) -> str:
    """Of the file that holds the network: .onnx, or a program's where there is none."""
    for ending in (".onnx", *program.ENDINGS):
        if any(name.endswith(ending) for name in source.names):
            return ending
    return ".onnx"


def only(source: Source, ending: str) -> str:
    """The one file with that ending. Raises UsageError where there is none, or several."""
    found = [name for name in source.names if name.endswith(ending)]
    if len(found) != 1:
        there = ", ".join(found) or "none"
        raise UsageError(
            f"{source.uri}: one *.onnx and one *.toml that describes it are needed; *{ending}: {there}"
        )
    return found[0]


def read_description(data: bytes, name: str) -> dict:
    """The TOML file. Raises UsageError."""
    try:
        told = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: no TOML ({error})") from None
    if odd := [key for key in told if key not in KEYS]:
        raise UsageError(f"{name}: {odd[0]!r} is not known; known are {', '.join(KEYS)}")
    return told


def check(data: bytes, recipe: Recipe, inputs: int, name: str) -> None:
    """Raise UsageError for a graph that is not run within this recipe."""
    window, outputs = recipe.window, len(recipe.outputs)
    check_onnx(data, inputs, outputs, window.roi_size, window.sw_batch_size, recipe.activation, name)


def predictor(model: Adopted, how: How) -> Predictor:
    """The adopted graph, ready. Raises UsageError where it or its description makes no sense."""
    return OnnxPredictor(model, how)


class OnnxPredictor(RecipePredictor):
    """A graph in onnxruntime (or OpenVINO), with as many threads as torch was given."""

    def __init__(self, model: Adopted, how: How):
        super().__init__(model, how)
        self.recipe.check(model.card, len(model.card.modalities), len(self.recipe.outputs))
        graph = model.weights.get(GRAPH)
        if graph is None or graph.dtype != torch.uint8 or graph.ndim != 1:
            raise UsageError(f"{model.card.name}: holds no ONNX graph; adopt it again")
        data = graph.numpy().tobytes()
        check(data, self.recipe, len(model.card.modalities), model.card.name)
        self.network: Callable[[torch.Tensor], torch.Tensor]
        if how.engine == "openvino":
            self.network = open_compiled(data, model.card.name)
        else:
            self.session = open_session(data, how.device, model.card.name)
            self.input = self.session.get_inputs()[0].name
            self.network = self._by_session

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.network(images.cpu())
        due = (len(images), len(self.recipe.outputs), *images.shape[2:])
        if found.shape != due:
            problem = f"the graph {self.card.name} gives {tuple(found.shape)}, its description promises {due}"
            raise CaseError(problem, mend="export it so that its output is as large as its input")
        return found.to(images.device)

    def _by_session(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.session.run(None, {self.input: np.ascontiguousarray(images.numpy())})[0])


def open_compiled(data: bytes, name: str) -> CompiledGraph:
    """A checked graph in OpenVINO. Raises UsageError."""
    try:
        return CompiledGraph(data)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UsageError(f"{name}: OpenVINO does not run it ({reason}); give --engine torch") from None


def open_session(data: bytes, device: torch.device, name: str):
    """onnxruntime's session of a checked graph; on a GPU if it was installed for one. Raises UsageError."""
    runtime = load("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    # Both keep a case's memory for the next.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 3  # errors
    there = runtime.get_available_providers()
    gpu = ["CUDAExecutionProvider"] if device.type == "cuda" and "CUDAExecutionProvider" in there else []
    try:
        return runtime.InferenceSession(data, options, providers=[*gpu, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes differ from version to version
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{name}: onnxruntime does not run it ({reason})") from None
