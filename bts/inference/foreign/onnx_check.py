"""What an ONNX file may hold: one graph of standard operators from volume to volume, its weights inside.

It is looked at before onnxruntime sees it, for a model file may come from anybody's bucket: a graph may name
other files to read (external data), or operators that a library would have to bring.
"""

import math
from collections.abc import Iterator, Sequence

from bts.errors import UsageError
from bts.inference.foreign.packages import load

STANDARD = ("", "ai.onnx")
DEEPEST = 16  # graphs within graphs
ACTIVATIONS = ("Sigmoid", "HardSigmoid", "Softmax")
PASSING = ("Identity", "Cast", "Reshape", "Transpose", "Clip")  # that leave probabilities what they are


def check_onnx(
    data: bytes, inputs: int, outputs: int, size: Sequence[int], batch: int, activation: str, name: str
) -> None:
    """Raise UsageError, in one line that begins with `name`, for a graph that is not run.

    inputs, outputs: channels that the description tells of. size: of its window, 0 or less a whole side.
    batch: windows at once; a graph that fixes it takes one, for the last batch may be smaller. activation:
    what follows the graph, "none" where it ends with it.
    """
    onnx = load("onnx")
    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # protobuf has no class of its own for what cannot be parsed
        raise UsageError(f"{name}: no ONNX file, or damaged; export it again") from None
    if len(model.functions):
        raise UsageError(f"{name}: has functions of its own ({model.functions[0].name}); inline them")
    for graph in _graphs(model.graph, name):
        _check_nodes(graph, name)
        for tensor in _tensors(graph):
            _check_tensor(onnx, tensor, len(data), name)
    held = {tensor.name for tensor in model.graph.initializer}
    given = [one for one in model.graph.input if one.name not in held]
    for what, values, channels in (("input", given, inputs), ("output", model.graph.output, outputs)):
        if len(values) != 1:
            raise UsageError(f"{name}: has {len(values)} {what}s; export it with one")
        _check_value(onnx, values[0], what, channels, (batch, size), name)
    if activation != "none" and (end := _end_of(model.graph)) in ACTIVATIONS:
        raise UsageError(
            f"{name}: ends with {end} already; {activation} again would make tumour of all that is no "
            'tumour: give activation = "none"'
        )


def _end_of(graph) -> str:
    """The last operator that makes other numbers."""
    made_by = {output: node for node in graph.node for output in node.output}
    wanted, seen = graph.output[0].name, set()
    while (node := made_by.get(wanted)) and node.op_type in PASSING and node.input and wanted not in seen:
        seen.add(wanted)
        wanted = node.input[0]
    return node.op_type if node else ""


def _graphs(graph, name: str, depth: int = 0) -> Iterator:
    """A graph and all those within its nodes."""
    if depth > DEEPEST:
        raise UsageError(f"{name}: graphs within graphs, more than {DEEPEST} deep")
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if len(inner.node):
                    yield from _graphs(inner, name, depth + 1)


def _tensors(graph) -> Iterator:
    """All that hold numbers, or say where numbers are."""
    yield from graph.initializer
    sparse = list(graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
    for one in sparse:
        yield from (one.values, one.indices)


def _check_nodes(graph, name: str) -> None:
    for node in graph.node:
        if node.domain not in STANDARD:
            raise UsageError(f"{name}: the operator {node.domain}.{node.op_type} is none of ONNX's own")


def _check_tensor(onnx, tensor, most: int, name: str) -> None:
    if len(tensor.external_data) or tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise UsageError(
            f"{name}: {tensor.name or 'a constant'} is kept in another file (external data); export it as one"
        )
    # Two values a byte is the densest type there is.
    if min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) > 2 * most:
        shape = "×".join(map(str, tensor.dims))
        raise UsageError(
            f"{name}: {tensor.name or 'a constant'} claims {shape} values, more than the file has"
        )


def _check_value(onnx, value, what: str, channels: int, window: tuple[int, Sequence[int]], name: str) -> None:
    """Raise UsageError for an input or output that is not float32 (batch, channel, x, y, z) of the window."""
    told = value.type.tensor_type
    sides = [one.dim_value if one.HasField("dim_value") else 0 for one in told.shape.dim]
    shown = "×".join(str(side or "?") for side in sides)
    if told.elem_type != onnx.TensorProto.FLOAT or len(sides) != 5:
        kind = onnx.TensorProto.DataType.Name(told.elem_type)
        raise UsageError(
            f"{name}: its {what} is {kind} {shown}; float32 (batch, channel, x, y, z) is supported"
        )
    if sides[1] and sides[1] != channels:
        raise UsageError(f"{name}: its {what} has {sides[1]} channels, the description names {channels}")
    batch, size = window
    fixed = zip((sides[0], *sides[2:]), (1 if batch == 1 else 0, *size), strict=True)
    if any(side and side != wanted for side, wanted in fixed):
        wanted = "×".join(map(str, (batch, channels, *size)))
        raise UsageError(f"{name}: its {what} is fixed at {shown}, the description's window is {wanted}")
