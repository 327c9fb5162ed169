"""jobs.workers.predict: two cases at a time, where a GPU has the memory for both; what is done beside it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from bts.cases.layouts import find_cases
from bts.cases.worklist import Todo
from bts.errors import CaseError
from bts.inference.foreign import convert
from bts.inference.foreign.nnunet import images
from bts.inference.foreign.source import Asked, Source
from bts.inference.options import SegmentOptions
from bts.inference.segmenter import Segmenter
from bts.model.load import load
from bts.storage import Store
from jobs.workers.around import After, Before
from jobs.workers.carry import pack, unpack
from jobs.workers.predict import Predict
from jobs.workers.read import Read
from tests import builders, bundles, nnunet_folders
from tests.bundles import PREPARE, step

pytestmark = pytest.mark.filterwarnings("ignore:::(torch|monai)")


@pytest.fixture
def row(tmp_path) -> dict:
    store = Store(str(tmp_path))
    builders.put_all(store, builders.case_files("BraTS-SSA-00001-000"))
    return Read(store)(Todo(find_cases(store.list()).cases[0], "0" * 12).to_row())


class Memory:
    """Of a GPU that holds so many cases: a segmenter that says so as torch does. Its first two cases meet."""

    def __init__(self, cases: int):
        self.cases, self.tries, self.inside = cases, 0, 0
        self.both, self.lock = threading.Barrier(2), threading.Lock()

    def predict(self, *case) -> str:
        with self.lock:
            self.tries, self.inside = self.tries + 1, self.inside + 1
            first = self.tries <= 2
            short = self.inside > self.cases
        try:
            if first:
                self.both.wait(timeout=60)
            if short:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return "said"
        finally:
            with self.lock:
                self.inside -= 1


def two_at_a_time(cases: int, row: dict) -> tuple[Memory, list]:
    """(the memory, what came of each of two: the row, or the error)."""
    predict = Predict(lambda: [load(builders.tiny_model(), "tiny")], "cpu", 1, SegmentOptions())
    predict.segmenter = Memory(cases)
    with ThreadPoolExecutor(2) as threads:
        found = [threads.submit(predict, dict(row)) for _ in range(2)]
        return predict.segmenter, [one.exception() or one.result()["said"] for one in found]


@pytest.mark.parametrize(("cases", "tries"), [(2, 2), (1, 3)])
def test_a_case_that_does_not_fit_beside_another_is_predicted_alone(row, cases, tries):
    memory, found = two_at_a_time(cases, row)
    assert found == ["said", "said"] and memory.tries == tries


def test_a_case_that_does_not_fit_alone_fails_by_its_size(row):
    _, found = two_at_a_time(0, row)
    assert all(isinstance(error, CaseError) and "do not fit into the GPU" in str(error) for error in found)


def nnunet(folder, **how):
    return nnunet_folders.write(folder, plan={"spacing": [1.5, 1.4, 1.3]}, **how)


def bundle(folder):
    steps = [PREPARE[0], step("Spacingd", "image", pixdim=[1.5, 1, 1], mode="bilinear"), PREPARE[1]]
    return bundles.write_bundle(folder, preprocessing={"_target_": "Compose", "transforms": steps})


@pytest.mark.parametrize(
    "write", [nnunet, partial(nnunet, regions=True), bundle], ids=["nnU-Net", "its regions", "MONAI"]
)
def test_what_is_resampled_beside_a_gpu_is_what_one_actor_makes_of_it(row, tmp_path, write):
    models = [load(convert(Source(str(write(tmp_path / "m"))), Asked(name="m"))[1], "m")]
    predict = Predict(lambda: models, "cpu", 1, SegmentOptions(probabilities=True))
    around = predict.segmenter.around
    stages = [Before(around), predict, After(around, predict.segmenter.finish, probabilities=True)]
    beside = row
    for stage in stages:
        (beside,) = unpack(pack([beside]))  # as between processes: read-only
        beside = stage(beside)
        assert "images" not in beside, "no more travels than must"
    assert "seen" not in beside
    expected, found = predict(dict(row))["said"], beside["said"]
    assert expected.labels.any() and expected.totals == found.totals and expected.box == found.box
    for name in ("labels", "probabilities", "whole"):
        np.testing.assert_array_equal(getattr(expected, name), getattr(found, name))


def test_a_case_that_cannot_be_resampled_fails_before_the_gpu(row, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MOST_VOXELS", 1000)
    folder = nnunet_folders.write(tmp_path / "m")
    model = load(convert(Source(str(folder)), Asked(name="m"))[1], "m")
    with pytest.raises(CaseError, match=r"voxels at the model's spacing.*look at the spacing"):
        Before(Segmenter([model], "cpu").around)(row)


def test_ensembles_and_models_of_ours_are_done_in_one_actor(tmp_path):
    theirs = convert(Source(str(nnunet_folders.write(tmp_path / "m", regions=True))), Asked(name="m"))[1]
    ours = builders.tiny_model()
    for models in ([ours], [ours, theirs]):
        assert Segmenter([load(one, "m") for one in models], "cpu").around is None
