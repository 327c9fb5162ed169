"""bts.inference.foreign and bts.model.adopted: models of other tools behind the face of ours."""

import json
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bts.errors import UsageError
from bts.inference import foreign
from bts.inference.foreign.source import Asked, Source
from bts.inference.predictor import Predictor, pick_modalities
from bts.inference.segmenter import Segmenter
from bts.model.adopted import load_adopted, save_adopted
from bts.model.file import load_model
from bts.model.header import digest
from bts.model.load import describe, load, read_card
from bts.model.targets import LABELS, REGIONAL
from bts.notebook import read_case
from jobs import adopt
from tests import builders

CASE = "BraTS-GLI-00001-000"


class Brightness(Predictor):
    """Each target is as likely as its channel is bright; weights: the brightest."""

    def __init__(self, model, how):
        self.card, self.how, self.most = model.card, how, model.weights["most"]

    def probabilities(self, volume):
        images, _, _ = pick_modalities(volume, self.card.modalities, self.how.allow_missing)
        return torch.from_numpy(images.astype(np.float32)) / self.most / 4


def of_brightness(predicts=LABELS, name="bright", modalities=("t1", "t1ce", "t2"), **weights) -> bytes:
    weights = weights or {"most": torch.tensor(1000.0)}
    return save_adopted("brightness", name, modalities, predicts, {"any": 1}, weights, {"source": "here"})


@pytest.fixture(autouse=True)
def kind(monkeypatch):
    """A kind as small as can be."""
    one = SimpleNamespace(
        recognises=lambda source: "bright.txt" in source.names,
        convert=lambda source, asked: of_brightness(name=asked.name),
        predictor=Brightness,
    )
    monkeypatch.setitem(foreign.KINDS, "brightness", one)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    for key, data in builders.case_files(CASE).items():
        (folder / key).parent.mkdir(exist_ok=True)
        (folder / key).write_bytes(data)
    return read_case(folder)


def test_an_adopted_model_says_of_itself_what_ours_does():
    data = of_brightness()
    card = read_card(data, "m")
    assert card == load(data, "m").card and card.digest == digest(data)
    assert (card.name, card.modalities, card.predicts) == ("bright", ("t1", "t1ce", "t2"), LABELS)
    assert not card.brain_only and card.training_patients is None
    assert describe(load(data, "m"), "m") == {
        "name": "m", "digest": digest(data), "preset": "bright", "kind": "brightness",
    }  # fmt: skip
    assert of_brightness() == data, "equal parts give equal bytes"
    with pytest.raises(UsageError, match=r"not by jobs\.train"):
        load_model(data, "m")


def test_its_labels_are_its_own_outside_the_brain_too(case):
    segmenter = Segmenter([load(of_brightness(), "m")], "cpu")
    found = segmenter.probabilities(case)
    found[2, 0, 0, 0] = 1
    case = replace(case, images=case.images * (np.indices(case.images.shape[1:]).sum(axis=0) > 0))
    segmenter.models[0].probabilities = lambda volume: found.clone()
    labels, said = segmenter(case), segmenter.predict(case, case.brain, probabilities=True)
    assert labels[0, 0, 0] == 3 and said.whole[2, 0, 0, 0] == 255


def test_exclusive_labels_join_an_ensemble_of_regions(case):
    """WT is the sum of all three, TC of necrosis and enhancing tumour."""
    ours, theirs = load(builders.tiny_model(), "tiny"), load(of_brightness(), "bright")
    alone = [next(Segmenter([one], "cpu").each(case)) for one in (ours, theirs)]
    both = Segmenter([theirs, ours], "cpu")
    ncr, ed, et = alone[1]
    expected = (alone[0] + torch.stack([ncr + ed + et, ncr + et, et])) / 2
    assert both.predicts == REGIONAL and torch.allclose(both.probabilities(case), expected)
    assert not both.labels(case, both.probabilities(case))[~case.brain].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 9}, "newer than 1; update"),
        ({"format": "x"}, "not by jobs.adopt"),
        ({"output": "relu"}, "does not say what the model predicts"),
        ({"targets": "tumour"}, "does not say what the model predicts"),
        ({"modalities": ["t1", "pd"]}, "no modalities of ours"),
        ({"description": 3}, "does not say"),
        ({"kind": None}, "does not say"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(change, words):
    data = of_brightness()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["adopted"] = json.dumps(json.loads(header["__metadata__"]["adopted"]) | change)
    changed = json.dumps(header).encode()
    with pytest.raises(UsageError, match=words):
        load_adopted(len(changed).to_bytes(8, "little") + changed + data[8 + length :], "m")


def test_a_kind_of_a_newer_version_is_named():
    model = load(of_brightness(), "m")
    del foreign.KINDS["brightness"]
    with pytest.raises(UsageError, match="bright: a model of kind 'brightness'; this version runs"):
        Segmenter([model], "cpu")


def test_weights_that_are_no_numbers_are_refused():
    with pytest.raises(UsageError, match="most holds values that are no numbers"):
        load(of_brightness(most=torch.tensor(float("nan"))), "m")


def test_a_source_is_a_folder_a_zip_or_a_file(tmp_path):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "bright.txt").write_text("1")
    (folder / "deep" / "b.txt").write_text("2")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for path in folder.rglob("*.txt"):
            file.write(path, path.relative_to(folder))
    for place in (folder, tmp_path / "all.zip"):
        source = Source(str(place))
        assert source.names == ("bright.txt", "deep/b.txt") and source.read("deep/b.txt") == b"2"
        assert foreign.convert(source, Asked(name="x"))[0] == "brightness"
        with pytest.raises(UsageError, match=r"has no file c\.txt"):
            source.read("c.txt")
    alone = Source(str(folder / "bright.txt"))
    assert alone.names == ("bright.txt",) and alone.read("bright.txt") == b"1"
    with pytest.raises(UsageError, match=r"of no kind that can be adopted; it holds b.txt"):
        foreign.convert(Source(str(folder / "deep")), Asked(name="x"))
    with pytest.raises(UsageError, match="there is nothing here"):
        Source(str(tmp_path / "nothing"))


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../evil", "a\\..\\evil"])
def test_a_zip_that_reaches_out_of_itself_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        file.writestr(name, "x")
    with pytest.raises(UsageError, match="no plain path"):
        Source(str(tmp_path / "z.zip"))


def test_no_zip_or_a_damaged_one(tmp_path):
    place = tmp_path / "z.zip"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.txt", "text " * 99)
    whole = place.read_bytes()
    place.write_bytes(whole[:38] + b"\xff" * 9 + whole[47:])
    with pytest.raises(UsageError, match="cannot be unpacked"):
        Source(str(place)).read("a.txt")
    listed = whole.index(b"PK\1\2")
    for data in (b"PK no zip", whole[: listed + 6] + b"\xff" + whole[listed + 7 :]):
        place.write_bytes(data)
        with pytest.raises(UsageError, match="no zip, or damaged"):
            Source(str(place))


def test_adopt_writes_one_file_under_its_digest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # without a registry
    (tmp_path / "bright.txt").write_text("1")
    settings = adopt.Settings(source=str(tmp_path / "bright.txt"), models=str(tmp_path / "m"), name="one")
    counts = adopt.main(settings).counts
    data = (tmp_path / "m" / "one.safetensors").read_bytes()
    assert counts["digest"] == digest(data) and counts["kind"] == "brightness" and not counts["version"]
    assert adopt.main(settings).counts == counts
    (tmp_path / "m" / "one.safetensors").write_bytes(builders.tiny_model())
    with pytest.raises(UsageError, match=r"one.safetensors: another model has this name.*--overwrite"):
        adopt.main(settings)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"name": "../x"}, "--name"),
        ({"channels": ("t1", "pd")}, "--channels pd: give t1, t1ce"),
        ({"channels": ("t1", "t1")}, "given twice"),
        ({"labels": "1=ED"}, "which value is NCR"),
    ],
)
def test_flags_that_make_no_sense(tmp_path, flags, words):
    given = {"source": str(tmp_path), "models": str(tmp_path), "name": "x"} | flags
    with pytest.raises(UsageError, match=words):
        adopt.main(adopt.Settings(**given))
