"""What a stage raises becomes a row; three of a kind in a row end the run, and add no try to any case."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.cases.worklist import Todo, Work
from bts.errors import STORE, UNREADABLE, CaseError, Failure, RunError
from bts.storage import Store
from jobs.driver.incremental import settle
from jobs.driver.pipeline import ALIKE, ALIKE_READING, Alike
from jobs.workers.guard import Guard
from tests import builders


def raising(error: BaseException):
    def task(row: dict) -> dict:
        raise error

    return task


def failure_of(error: BaseException) -> Failure:
    row = Guard("read", raising(error))({"case_id": "a"})
    assert row["stop"] == ""
    return Failure.from_json(row["failure"])


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA error: launch failure\nmore"), KeyError()]
)
def test_an_error_that_nobody_foresaw_fails_its_case_with_its_class(error):
    failure = failure_of(error)
    assert (failure.case_id, failure.stage, failure.kind) == ("a", "read", type(error).__name__)
    assert "case a: " in failure.message and "\n" not in failure.message and "test_guard.py:" in failure.error


def test_bad_data_have_no_kind_and_keep_their_own_stage():
    failure = failure_of(CaseError("odd", mend="mend it", stage="check"))
    assert (failure.stage, failure.kind) == ("check", "")
    assert "kind" not in failure.to_dict()


def test_a_run_error_stops_and_what_failed_or_stopped_passes_through():
    row = Guard("write", raising(RunError("disk full")))({"case_id": "a"})
    assert row["stop"] == "disk full"
    assert Guard("next", raising(ValueError()))(row) is row


def test_a_class_is_made_once_and_its_failing_start_fails_a_case():
    class Model:
        def __init__(self, path):
            made.append(path)
            if path == "bad":
                raise RuntimeError("cannot be loaded")

        def __call__(self, row):
            return {"seen": row["case_id"]}

    made = []
    good = Guard("predict", Model, ("good",))
    assert [good({"case_id": n})["seen"] for n in "ab"] == ["a", "b"] and made == ["good"]
    assert (
        Failure.from_json(Guard("predict", Model, ("bad",))({"case_id": "a"})["failure"]).stage == "predict"
    )


def rows(*kinds: str | None) -> list[dict]:
    """A result a case: None for success, else a failure of that kind."""
    made = []
    for n, kind in enumerate(kinds):
        failure = "" if kind is None else Failure(case_id=f"c{n}", kind=kind, message="why").to_json()
        made.append({"case_id": f"c{n}", "failure": failure})
    return made


def watched(results: list[dict]):
    alike = Alike()
    for row in results:
        yield row
        alike.add(row["failure"])


def noted(results: list[dict], tmp_path, ends: bool = False) -> list[str]:
    """Cases with a note of a failure after a run with these results; `ends`: by a RunError."""
    output = Store(tmp_path)
    builders.put_all(
        output, {k: v for row in results for k, v in builders.case_files(row["case_id"]).items()}
    )
    cases = {case.id: case for case in find_cases(output.list()).cases}
    work = Work(todo=[Todo(cases[row["case_id"]], "0" * 12) for row in results])
    if ends:
        with pytest.raises(RunError, match=r"in a row failed alike.*why"):
            settle(watched(results), work, output)
    else:
        settle(watched(results), work, output)
    return [entry.key.split("/")[1].split(".")[0] for entry in output.list("_failed")]


def test_three_of_a_kind_in_a_row_end_the_run_and_add_no_try(tmp_path):
    assert noted(rows(None, *["MemoryError"] * ALIKE), tmp_path, ends=True) == []


def test_bad_data_never_end_a_run(tmp_path):
    assert len(noted(rows(*[""] * 9), tmp_path)) == 9


def test_of_several_kinds_each_is_its_cases_own(tmp_path):
    assert noted(rows("MemoryError", "MemoryError", None, "KeyError", "MemoryError"), tmp_path) == [
        "c0", "c1", "c3", "c4",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [STORE, UNREADABLE])
def test_a_store_that_gives_nothing_ends_the_run_and_adds_no_try(kind, tmp_path):
    assert noted(rows(*[kind] * ALIKE_READING), tmp_path, ends=True) == []


def test_a_few_reads_that_a_store_in_trouble_refuses_add_no_try(tmp_path):
    assert noted(rows(None, STORE, STORE, "", None, STORE), tmp_path) == ["c3"]


def test_one_object_that_may_not_be_read_is_its_cases_own_fault_unless_none_may(tmp_path):
    assert noted(rows(None, UNREADABLE, None), tmp_path / "one") == ["c1"]
    assert noted(rows(UNREADABLE, UNREADABLE), tmp_path / "all") == []


class Refusing(Store):
    """A store whose reads raise."""

    def __init__(self, uri, error):
        super().__init__(uri)
        self.error = error

    def read(self, key):
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PermissionError("The provided token has expired."), STORE),
        (OSError(5, "Input/output error"), STORE),
        (TimeoutError("timed out"), STORE),
        (PermissionError("Access Denied."), UNREADABLE),
        (FileNotFoundError("gone"), ""),
    ],
)
def test_whose_trouble_a_read_is(error, kind, tmp_path):
    builders.put_all(Store(tmp_path), builders.case_files("BraTS-SSA-00000-000"))
    case = find_cases(Store(tmp_path).list()).cases[0]
    with pytest.raises(CaseError) as caught:
        load_case(case, Refusing(tmp_path, error))
    assert (caught.value.kind, caught.value.stage) == (kind, "read")
    assert Failure.of(caught.value).kind == kind


def test_several_rows_at_a_time_make_a_class_once():
    class Slow:
        def __init__(self):
            made.append(self)
            time.sleep(0.05)

        def __call__(self, row):
            return {}

    made = []
    guard = Guard("predict", Slow)
    with ThreadPoolExecutor(4) as threads:
        rows = list(threads.map(guard, [{"case_id": str(n)} for n in range(4)]))
    assert len(made) == 1 and not any(row["failure"] for row in rows)
