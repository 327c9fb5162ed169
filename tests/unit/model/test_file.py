"""a model file carries all that running it needs; any other file is refused with its reason."""

import copy
import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from bts.errors import UsageError
from bts.model.file import load_model, save_model
from bts.model.header import digest, read_header
from bts.model.load import read_card
from bts.model.nets import build
from bts.settings import Budget, Layers, Loss, Preset

PRESET = Preset(
    name="tiny",
    modalities=("flair", "t2"),
    size=(16, 16),
    layers=Layers(widths=(4, 8), norm="batch"),
    loss=Loss(bce=1),
    budget=Budget(epochs=1),
)
META = {"patients": ["A", "B"], "commit": "abc123", "metrics": {"dice_WT": 0.9}}


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build(PRESET).to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def data(network) -> bytes:
    return save_model(network, PRESET, META)


def with_header(data: bytes, change) -> bytes:
    """The same file with another header; `change` edits the JSON in place."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def test_the_same_network_comes_back(network, data):
    model = load_model(data, "m")
    assert model.preset == PRESET and model.meta == META and model.digest == digest(data)
    assert len(model.digest) == 12
    x = torch.randn(1, 2, 16, 16)
    assert torch.equal(model.network(x), network.eval()(x))


@pytest.mark.parametrize(
    ("more", "chose"), [({"epochs": 1}, ()), ({"epochs": 2}, ("C",)), ({"epochs": 1, "sweep": "s"}, ("C",))]
)
def test_the_card_has_what_the_training_left(network, more, chose):
    """The held-out patients chose the weights where there was more than one validation to choose from."""
    told = {"validation": {"dice/WT": 0.8}, "inputs": {"t2": [[-1.5, -1.0], [2.0, 2.5]]}}
    meta = {**told, "training_patients": ["A", "B"], "held_out_patients": ["C"], **more}
    card = read_card(save_model(network, PRESET, meta), "m")
    assert {"validation": card.validation, "inputs": card.inputs} == told
    assert (card.training_patients, card.validation_patients) == (("A", "B"), chose)
    assert card.modalities == ("flair", "t2") and card.predicts == ("regions", "sigmoid")


def test_equal_models_are_equal_bytes(network, data):
    assert save_model(network, PRESET, META) == data
    assert digest(save_model(network, PRESET, {})) != digest(data)


def test_the_header_is_readable_without_this_project(data, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with safetensors.safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["bts"])
    assert header["modalities"] == ["flair", "t2"]
    assert header["targets"]["TC"] == [1, 3]
    assert header["normalisation"]["kind"] == "brain_zscore"
    assert header["preset"]["layers"]["widths"] == [4, 8]
    assert header == json.loads(json.dumps(read_header(data, "m")))


def newer(header: dict) -> None:
    metadata = json.loads(header["__metadata__"]["bts"])
    header["__metadata__"]["bts"] = json.dumps({**metadata, "format": 99})


def older(header: dict) -> None:
    metadata = json.loads(header["__metadata__"]["bts"])
    header["__metadata__"]["bts"] = json.dumps({**metadata, "format": 1})


def of_unknown_setting(header: dict) -> None:
    metadata = json.loads(header["__metadata__"]["bts"])
    metadata["preset"]["layers"]["magic"] = 1
    header["__metadata__"]["bts"] = json.dumps(metadata)


def with_value(path: str, value):
    """A change of the header: the project's own part has `value` at group.group.field."""

    def change(header: dict) -> None:
        ours = group = json.loads(header["__metadata__"]["bts"])
        *groups, field = path.split(".")
        for name in groups:
            group = group[name]
        group[field] = value
        header["__metadata__"]["bts"] = json.dumps(ours)

    return lambda data: with_header(data, change)


def nested(data: bytes) -> bytes:
    """A header that is JSON, and too deep for any reader of it."""
    text = b'{"__metadata__": ' + b'{"a": ' * 200_000 + b"1" + b"}" * 200_001
    return len(text).to_bytes(8, "little") + text


def nested_within(header: dict) -> None:
    header["__metadata__"]["bts"] = "[" * 200_000 + "]" * 200_000


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (nested, "no .safetensors file, or damaged"),
        (lambda data: with_header(data, nested_within), "not by jobs.train"),
        (lambda data: with_header(data, lambda it: it.update(__metadata__=None)), "not by jobs.train"),
        (with_value("format", float("inf")), "not by jobs.train"),
        (with_value("preset", []), "header lacks what jobs.train writes"),
        (with_value("provenance.training_patients", [3]), "header lacks what jobs.train writes"),
        (with_value("provenance.training_patients", 0), "header lacks what jobs.train writes"),
        (with_value("preset.name", {}), "name is '{}'"),
        (with_value("preset.modalities", 4), "modalities is '4'"),
        (with_value("provenance", "mine"), "header lacks what jobs.train writes"),
        (with_value("provenance.inputs", {"t1": [3]}), "header lacks what jobs.train writes"),
        (with_value("provenance.validation", {"dice/WT": "good"}), "header lacks what jobs.train writes"),
        (with_value("preset.normalisation.kind", "magic"), "normalisation.kind is 'magic'"),
        (with_value("preset.network", "gpt"), "network is 'gpt'"),
        (with_value("preset.layers", ""), "layers is ''"),
        (with_value("preset.layers.widths", "abc"), "layers.widths is 'abc'"),
        (with_value("preset.layers.widths", [10**5, 10**5]), "is to have the shape"),
        (with_value("preset.layers.widths", [10**12, 10**12]), "do not match"),
        (with_value("preset.layers.widths", [10**300, 8]), "do not match"),
        (with_value("preset.layers.widths", [4] * 4000), "multiples"),
        (with_value("preset.layers.stem", 10**40), "multiples"),
        (with_value("preset.size", [2**40, 2**40]), "sides are of 1 to 4096 voxels"),
        (with_value("preset.resize", [10**9, 10**9]), "sides are of 1 to 4096 voxels"),
        (with_value("preset.inference.batch", 10**12), "inference.batch from 1 to 4096"),
        (with_value("preset.inference.batch", 1.5), "inference.batch is '1.5'"),
        (with_value("preset.inference.overlap", float("nan")), "inference.overlap is 'nan'"),
        (with_value("preset.inference.threshold", True), "inference.threshold is 'True'"),
        (lambda data: b"", "no .safetensors file"),
        (lambda data: b"\x80\x04pickled rubbish of some length", "no .safetensors file"),
        (lambda data: b'PK\x03\x04\x00\x00\x00\x00{"a": 1}', "truncated"),
        (lambda data: (9).to_bytes(8, "little") + b"{not json", "no .safetensors file"),
        (lambda data: (2).to_bytes(8, "little") + b"{}", "not by jobs.train"),
        (lambda data: data[:40], "truncated"),
        (lambda data: data[:-10], "truncated"),
        (lambda data: safetensors.torch.save({"w": torch.zeros(2)}), "not by jobs.train"),
        (lambda data: safetensors.torch.save({"w": torch.zeros(2)}, {"bts": "1"}), "not by jobs.train"),
        (lambda data: with_header(data, newer), "newer"),
        (lambda data: with_header(data, older), "older than 2; train it again"),
        (lambda data: with_header(data, of_unknown_setting), "magic"),
    ],
)
def test_other_files_are_refused_by_name_and_reason(data, damage, words):
    with pytest.raises(UsageError, match="models/broken") as error:
        load_model(damage(data), "models/broken.safetensors")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


HOSTILE = (None, True, 10**40, float("nan"), "magic", [[]], {"a": 1})


def paths(values: dict, above: str = "") -> list[str]:
    """Of every value in a header, those of groups too."""
    inner = [paths(v, f"{above}{k}.") for k, v in values.items() if isinstance(v, dict) and v]
    return [f"{above}{key}" for key in values] + [path for within in inner for path in within]


def test_no_value_of_a_header_gives_anything_but_a_model_or_one_line(data):
    for path in paths(read_header(data, "m")):
        for value in HOSTILE:
            hostile = with_value(path, value)(data)
            try:
                read_card(hostile, "models/m.safetensors")
                load_model(hostile, "models/m.safetensors")
            except UsageError as error:
                said = str(error)
                assert said.startswith("models/m.safetensors: ") and "\n" not in said, (path, value)


def test_weights_that_are_no_numbers_are_refused(network):
    """A network that says NaN finds no tumour, and nothing else would show it."""
    broken = copy.deepcopy(network)
    with torch.no_grad():
        next(broken.parameters())[0, 0, 0, 0] = torch.nan
    with pytest.raises(UsageError, match=r"models/m\.safetensors: .* no numbers"):
        load_model(save_model(broken, PRESET, {}), "models/m.safetensors")


def test_weights_of_another_shape_are_refused(network):
    other = replace(PRESET, modalities=("t1",))
    with pytest.raises(UsageError, match="m: weights and preset do not match") as error:
        load_model(save_model(network, other, {}), "m")
    assert "\n" not in str(error.value)
