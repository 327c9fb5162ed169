"""bts.inference.foreign.onnx_model: a graph and its description are adopted; dangerous graphs are refused."""

import zipfile

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.errors import CaseError, UsageError
from bts.inference import foreign
from bts.inference.foreign.recipe import as_in_file
from bts.inference.foreign.source import Asked, Source
from bts.inference.predictor import How
from bts.inference.segmenter import Segmenter
from bts.model.adopted import load_adopted, save_adopted
from bts.model.targets import LABELS, REGIONAL
from bts.storage import Store
from tests import builders, graphs
from tests.graphs import Small

pytestmark = pytest.mark.filterwarnings("ignore:::(torch|monai|onnxscript)")

HOW = How(device=torch.device("cpu"))
TOML = """
channels = ["T1c", "T1", "T2", "FLAIR"]
outputs = ["TC", "WT", "ET"]

[window]
roi_size = [16, 16, 8]
overlap = 0.5
mode = "gaussian"

[[steps]]
step = "zscore"
nonzero = true
channel_wise = true
"""


def exported(network: torch.nn.Module) -> bytes:
    return graphs.exported(network, 16, 16, 8)


@pytest.fixture(scope="module")
def graph():
    return exported(Small())


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("cases"))
    files = builders.case_files("BraTS-GLI-00001-000", matrix=builders.affine("RAS"), shape=(20, 24, 12))
    builders.put_all(store, files)
    return load_case(find_cases(store.list()).cases[0], store, truth=False)


def written(folder, data: bytes, toml: str = TOML):
    return graphs.write(folder, data, toml)


def adopt(folder, **asked):
    kind, data = foreign.convert(Source(str(folder)), Asked(name="mine", **asked))
    assert kind == "onnx"
    return load_adopted(data, "mine")


def test_probabilities_are_those_of_plain_onnxruntime_over_the_same_windows(tmp_path, graph, case):
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import NormalizeIntensity

    model = adopt(written(tmp_path / "source", graph))
    assert model.card.modalities == ("t1ce", "t1", "t2", "flair") and model.card.predicts == REGIONAL
    ready = foreign.predictor(model, HOW)
    plain = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    images = NormalizeIntensity(nonzero=True, channel_wise=True)(
        as_in_file(case, model.card.modalities).images
    )
    windows = SlidingWindowInferer(roi_size=(16, 16, 8), overlap=0.5, mode="gaussian")
    name = plain.get_inputs()[0].name
    logits = windows(images[None], lambda cut: torch.from_numpy(plain.run(None, {name: cut.numpy()})[0]))[0]
    tc, wt, et = torch.as_tensor(logits).sigmoid().numpy()
    found = ready.probabilities(case).numpy()
    back = [case.grid.to_canonical(one.T) for one in (wt, tc, et)]
    np.testing.assert_array_equal(found, np.stack(back))
    labels = Segmenter([model], "cpu")(case)
    assert set(np.unique(labels)) == {0, 1, 2, 3} and labels.shape == case.grid.shape


def test_labels_are_those_of_the_network_that_was_exported(tmp_path, graph, case):
    """A graph computes in another order than torch: no label differs, probabilities by rounding alone."""
    ready = foreign.predictor(adopt(written(tmp_path / "source", graph)), HOW)
    network = Small().eval()
    with torch.inference_mode():
        expected = ready.recipe.probabilities(case, ready.card.modalities, network, HOW)
    found = ready.probabilities(case)
    assert (found - expected).abs().max() < 1e-5
    assert ((found > 0.5) == (expected > 0.5)).all()


def test_exclusive_labels_and_a_zip(tmp_path, case):
    toml = TOML.replace('["TC", "WT", "ET"]', '["background", "ED", "NCR", "ET"]')
    folder = written(tmp_path / "source", exported(Small(4)), toml)
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as file:
        for path in folder.iterdir():
            file.write(path, f"any/{path.name}")
    model = adopt(tmp_path / "source.zip")
    assert model.card.predicts == LABELS
    found = foreign.predictor(model, HOW).probabilities(case)
    assert found.shape == (3, *case.grid.shape) and (found.sum(dim=0) < 1).all()


def value(name: str, shape: list, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def made(nodes=None, initializer=(), inputs=None, outputs=None, functions=()) -> bytes:
    """A graph that passes three of four channels on, with some of it changed."""
    split = helper.make_node("Slice", ["x", "start", "end", "axis"], ["y"])
    numbers = [
        numpy_helper.from_array(np.array([n], np.int64), name)
        for name, n in (("start", 0), ("end", 3), ("axis", 1))
    ]
    shape = ["n", 4, "a", "b", "c"]
    graph = helper.make_graph(
        nodes or [split],
        "g",
        inputs or [value("x", shape)],
        outputs or [value("y", ["n", 3, "a", "b", "c"])],
        [*numbers, *initializer],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("evil", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions).SerializeToString()


def external(dims=(3,)) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    return tensor


def within_if(tensor: TensorProto):
    """A node whose branch holds a constant."""
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    branch = helper.make_graph([constant], "branch", [], [value("c", [3])])
    return helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)


HOSTILE = {
    "external data": (made(initializer=[external()]), r"w is kept in another file \(external data\)"),
    "external data in a branch": (made(nodes=[within_if(external())]), "external data"),
    "an operator of its own": (
        made(nodes=[helper.make_node("Run", ["x"], ["y"], domain="evil")]), r"operator evil\.Run is none",
    ),
    "a function of its own": (
        made(functions=[helper.make_function("evil", "F", ["x"], ["y"], [], [helper.make_opsetid("", 18)])]),
        "functions of its own",
    ),
    "an absurd size": (
        made(initializer=[TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 40])]),
        "claims 1099511627776 values",
    ),
    "a negative size": (
        made(initializer=[TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[-8, -8])]),
        "claims -8×-8 values",
    ),
    "no graph": (b"\x80\x04\x95", "no ONNX file, or damaged"),
    "two outputs": (
        made(outputs=[value("y", ["n", 3, "a", "b", "c"]), value("x", ["n", 4, "a", "b", "c"])]),
        "has 2 outputs",
    ),
    "slices": (made(inputs=[value("x", ["n", 4, "a", "b"])]), r"float32 \(batch, channel, x, y, z\)"),
    "half precision": (
        made(inputs=[value("x", ["n", 4, "a", "b", "c"], TensorProto.FLOAT16)]), "its input is FLOAT16",
    ),
    "other channels": (made(inputs=[value("x", ["n", 3, "a", "b", "c"])]), "has 3 channels, the description"),
    "another window": (made(inputs=[value("x", [1, 4, 32, 32, 32])]), "fixed at 1×4×32×32×32"),
    "an unknown operator": (made(nodes=[helper.make_node("Nothing", ["x"], ["y"])]), "onnxruntime does not"),
}  # fmt: skip


@pytest.mark.parametrize("which", HOSTILE)
def test_a_graph_that_is_not_run_is_refused_by_name(tmp_path, which):
    data, words = HOSTILE[which]
    foreign.predictor(adopt(written(tmp_path / "good", made())), HOW)
    with pytest.raises(UsageError, match=words) as refused:
        foreign.predictor(adopt(written(tmp_path / "source", data)), HOW)
    assert "\n" not in str(refused.value)


def test_a_model_file_from_anybody_is_looked_at_again(tmp_path):
    """As if somebody had written the file by hand, without jobs.adopt."""
    good = adopt(written(tmp_path / "good", made()))
    for graph, words in (
        (torch.frombuffer(bytearray(HOSTILE["external data"][0]), dtype=torch.uint8), "external data"),
        (torch.zeros(4), "holds no ONNX graph"),
    ):
        data = save_adopted(
            "onnx", "mine", good.card.modalities, REGIONAL, good.description, {"onnx": graph}, {}
        )
        with pytest.raises(UsageError, match=words):
            foreign.predictor(load_adopted(data, "mine"), HOW)


def test_a_graph_that_does_not_keep_its_promise_fails_the_case(tmp_path, case):
    smaller = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    outputs = [value("y", ["n", "k", "a", "b", "c"])]
    model = adopt(written(tmp_path / "source", made(nodes=[smaller], outputs=outputs)))
    with pytest.raises(CaseError, match="its description promises"):
        Segmenter([model], "cpu")(case)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("channels", "chanels"), "'chanels' is not known; known are channels, outputs"),
        (('"FLAIR"', '"PD"'), "its channels are called T1c, T1, T2, PD; say which"),
        (('"ET"', '"EN"'), "neither WT, TC, ET nor background"),
        (("roi_size", "size"), "'size' is not supported; supported are roi_size"),
        (('step = "zscore"', 'step = "os.system"'), "'os.system'} is not known|is not known; known are"),
        (('step = "zscore"', "step = []"), "is not known; known are"),
        (('"ET"', "[]"), "neither WT, TC, ET nor background"),
        (("[window]", "[window"), "no TOML"),
        (("[window]\n", "[window]\nsw_batch_size = 2\n"), "its input is fixed at 1×4×16×16×8"),
    ],
)
def test_a_description_that_makes_no_sense(tmp_path, graph, change, words):
    with pytest.raises(UsageError, match=words):
        adopt(written(tmp_path / "source", graph, TOML.replace(*change)))


class Ending(torch.nn.Module):
    """A network that ends with an activation, which exporters may follow by more."""

    def __init__(self, ending: torch.nn.Module, outputs=3):
        super().__init__()
        self.network, self.ending = Small(outputs), ending

    def forward(self, images):
        return self.ending(self.network(images)).clone()


def test_an_activation_is_not_applied_twice(tmp_path, graph, case):
    """A sigmoid of probabilities is over a half everywhere: every voxel would be tumour."""
    data = exported(Ending(torch.nn.Sigmoid()))
    with pytest.raises(UsageError, match=r'ends with Sigmoid already; .*activation = "none"'):
        adopt(written(tmp_path / "twice", data))
    once = TOML.replace("\n[window]", 'activation = "none"\n\n[window]')
    found = foreign.predictor(adopt(written(tmp_path / "once", data, once)), HOW).probabilities(case)
    plain = foreign.predictor(adopt(written(tmp_path / "plain", graph)), HOW)
    assert (found > 0.5).float().mean() == pytest.approx(
        float((plain.probabilities(case) > 0.5).float().mean()), abs=0.01
    )
    four = once.replace('["TC", "WT", "ET"]', '["background", "ED", "NCR", "ET"]')
    soft = exported(Ending(torch.nn.Softmax(dim=1), 4))
    with pytest.raises(UsageError, match="ends with Softmax already"):
        adopt(written(tmp_path / "soft", soft, four.replace('"none"', '"softmax"')))
    model = adopt(written(tmp_path / "softly", soft, four))
    assert (foreign.predictor(model, HOW).probabilities(case).sum(dim=0) <= 1 + 1e-5).all()


def test_outputs_that_are_no_probabilities_fail_the_case(tmp_path, graph, case):
    """activation "none" of a graph that gives logits, or of one sigmoid a label."""
    none = TOML.replace("\n[window]", 'activation = "none"\n\n[window]')
    with pytest.raises(CaseError, match=r"no probabilities, .*activation"):
        Segmenter([adopt(written(tmp_path / "logits", graph, none))], "cpu")(case)
    four = none.replace('["TC", "WT", "ET"]', '["background", "ED", "NCR", "ET"]')
    data = exported(Ending(torch.nn.Sigmoid(), 4))
    with pytest.raises(CaseError, match=r"no probabilities, .*activation"):
        Segmenter([adopt(written(tmp_path / "four", data, four))], "cpu")(case)


def test_one_graph_and_one_description(tmp_path, graph):
    folder = written(tmp_path / "source", graph)
    (folder / "model.toml").unlink()
    with pytest.raises(
        UsageError, match=r"one \*\.onnx and one \*\.toml that describes it are needed; \*\.toml: none"
    ):
        adopt(folder)
    (folder / "other.onnx").write_bytes(graph)
    with pytest.raises(UsageError, match=r"\*\.onnx: model\.onnx, other\.onnx"):
        adopt(folder)


def test_threads_are_those_that_the_actor_was_given(tmp_path, graph):
    model, before = adopt(written(tmp_path / "source", graph)), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert foreign.predictor(model, HOW).session.get_session_options().intra_op_num_threads == 2
    finally:
        torch.set_num_threads(before)


def test_without_the_packages_it_says_what_to_install(tmp_path, graph, monkeypatch):
    folder = written(tmp_path / "source", graph)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UsageError, match=r"needs onnx .*pip install -r requirements-foreign\.txt"):
        adopt(folder)
