"""jobs.workers.predict: two cases at a time, where a GPU has the memory for both."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from bts.cases.layouts import find_cases
from bts.cases.worklist import Todo
from bts.errors import CaseError
from bts.inference.options import SegmentOptions
from bts.storage import Store
from jobs.workers.predict import Predict
from jobs.workers.read import Read
from tests import builders


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
    predict = Predict(lambda: [("tiny", builders.tiny_model())], "cpu", 1, SegmentOptions())
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
