"""bts.inference.foreign.program: a trusted program becomes a graph; without --trust nothing of it is read."""

import os
import warnings

import pytest
import torch

from bts.errors import UsageError
from bts.inference import foreign
from bts.inference.foreign.source import Asked, Source
from bts.inference.predictor import How
from bts.model.adopted import load_adopted
from tests.graphs import Small

pytestmark = pytest.mark.filterwarnings("ignore:::(torch|onnxscript)")

SHAPE = (1, 4, 16, 16, 8)
TOML = """
channels = ["t1", "t1ce", "t2", "flair"]
outputs = ["WT", "TC", "ET"]
[window]
roi_size = [16, 16, 8]
"""
ENDINGS = [".pt2", ".ts"]


class Random(torch.nn.Module):
    """Never twice the same."""

    def forward(self, images):
        return images[:, :3] + torch.rand_like(images[:, :3])


class Trap:
    """What pickle would call on loading."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def save(network: torch.nn.Module, place, ending: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if ending == ".pt2":
            torch.export.save(torch.export.export(network, (torch.zeros(SHAPE),)), place)
        else:
            torch.jit.trace(network, torch.zeros(SHAPE), check_trace=False).save(place)


def adopt(folder, **asked):
    kind, data = foreign.convert(Source(str(folder)), Asked(name="program", **asked))
    assert kind == "onnx"
    return load_adopted(data, "program")


@pytest.fixture(params=ENDINGS)
def program(request, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    save(Small().eval(), folder / f"model{request.param}", request.param)
    (folder / "model.toml").write_text(TOML)
    return folder


def test_a_trusted_program_becomes_a_graph_that_computes_the_same(program):
    model = adopt(program, trust=True)
    ready = foreign.predictor(model, How(device=torch.device("cpu")))
    images = torch.randn(SHAPE)
    with torch.inference_mode():
        expected = Small().eval()(images)
    torch.testing.assert_close(ready.forward(images), expected, atol=1e-4, rtol=1e-4)
    assert list(model.weights) == ["onnx"], "the program itself is not kept"


def test_without_trust_it_is_refused_and_why_is_said(program):
    with pytest.raises(UsageError, match=r"is a program .* export the network to ONNX, or give --trust"):
        adopt(program)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_trap_is_not_even_read(tmp_path, ending):
    trace, folder = tmp_path / "ran", tmp_path / "source"
    folder.mkdir()
    torch.save(Trap(trace), folder / f"model{ending}")
    (folder / "model.toml").write_text(TOML)
    with pytest.raises(UsageError, match="is a program"):
        adopt(folder)
    assert not trace.exists()
    torch.load(folder / f"model{ending}", weights_only=False)
    assert trace.exists(), "the trap works"


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("data", "toml", "words"),
    [
        (b"PK", TOML, "cannot be exported to ONNX"),
        (None, TOML.replace("[16, 16, 8]", "[16, 16, 0]"), "give each side of its window in voxels"),
        (None, TOML.replace("channels", "chanels"), "'chanels' is not known"),
    ],
)
def test_what_makes_no_graph_is_refused_in_one_line(tmp_path, ending, data, toml, words):
    place = tmp_path / f"model{ending}"
    save(Small().eval(), place, ending)
    if data is not None:
        place.write_bytes(data)
    (tmp_path / "model.toml").write_text(toml)
    with pytest.raises(UsageError, match=words) as refused:
        adopt(tmp_path, trust=True)
    assert "\n" not in str(refused.value)


def test_a_program_that_its_graph_does_not_follow_is_refused(tmp_path):
    save(Random(), tmp_path / "model.pt2", ".pt2")
    (tmp_path / "model.toml").write_text(TOML)
    with pytest.raises(UsageError, match="its ONNX graph computes something else"):
        adopt(tmp_path, trust=True)


def test_a_graph_beside_a_program_is_taken_and_the_program_left(program):
    (program / "model.onnx").write_bytes(b"none")
    with pytest.raises(UsageError, match=r"model\.onnx: no ONNX file"):
        adopt(program)
