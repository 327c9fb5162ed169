"""Few cases without Ray: chosen by number and cluster, the same bytes, and no Ray in the process."""

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bts.storage import Store
from jobs import evaluate, preprocess, segment
from jobs.driver import here
from tests import builders
from tests.conftest import ROOT

CASES = ("BraTS-GLI-00001-000", "BraTS2021_00003")
NO_RAY = """
import sys, runpy

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ray":
            raise ImportError(f"{name} is not wanted here")

sys.meta_path.insert(0, NoRay())
runpy.run_module(f"jobs.{sys.argv.pop(1)}", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Store:
    """Two sound cases, one of them of another convention, and one whose T2 is cut short."""
    store = Store(str(tmp_path_factory.mktemp("cases")))
    for seed, case in enumerate(CASES):
        old = {"names": builders.NAMES_2021, "enhancing": 4} if "2021" in case else {}
        builders.put_all(store, builders.case_files(case, seed=seed, **old))
    broken = builders.case_files("BraTS-GLI-00004-000", seed=4)
    broken = {key: data[:100] if "t2w" in key else data for key, data in broken.items()}
    builders.put_all(store, broken)
    return store


def run_all(folder: Path, cases: Store, model: str, ray: here.UseRay) -> dict[str, bytes]:
    """{key: bytes} of what the three jobs write, but for their run reports, dates and times."""
    shards, labelmaps, report = (str(folder / name) for name in ("shards", "labelmaps", "report"))
    done = [
        preprocess.main(preprocess.Settings(cases.uri, shards, ray=ray)),
        segment.main(segment.Settings(cases.uri, labelmaps, (model,), probabilities=True, ray=ray)),
        evaluate.main(evaluate.Settings(labelmaps, cases.uri, report, ray=ray)),
    ]
    assert [(one.counts["cases"], len(one.failed)) for one in done] == [(3, 1), (3, 1), (2, 0)]
    assert done[0].failed[0].case_id == "BraTS-GLI-00004-000"
    store = Store(str(folder))
    # A kept score is named by its labelmap's date, which two runs do not share.
    apart = ("_runs/", "_scores/")
    found = {e.key: store.read(e.key) for e in store.list() if not any(name in e.key for name in apart)}
    return {key: without_dates(key, data, folder) for key, data in found.items()}


def without_dates(key: str, data: bytes, folder: Path) -> bytes:
    if "/_done/" in key:
        marker = json.loads(data)
        del marker["seconds"], marker["written"]
        return json.dumps(marker).encode()
    if key.endswith(".html"):
        data = re.sub(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\+00:00)?)?", b"", data)
        data = re.sub(rb"\(\d+(\+|&#43;)\d{19} [\d.]+\)", b"", data)  # a file's version: its size and date
        return data.replace(str(folder).encode(), b"")
    return data


@pytest.mark.slow
def test_both_ways_give_the_same_bytes(ray_local, cases, model, tmp_path):
    by_ray = run_all(tmp_path / "ray", cases, model, "yes")
    in_process = run_all(tmp_path / "here", cases, model, "no")
    assert len(by_ray) > 20
    assert [key for key in by_ray.keys() | in_process.keys() if by_ray.get(key) != in_process.get(key)] == []


@pytest.mark.slow
@pytest.mark.parametrize("job", ["preprocess", "segment", "evaluate"])
def test_a_few_cases_are_done_without_ray(job, cases, model, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    truths = {f"{c}.nii.gz": cases.read(key) for c in CASES for key in [f"{c}/{c}-seg.nii.gz"] if "-" in c}
    builders.put_all(Store(str(tmp_path / "labelmaps")), truths)
    flags = {
        "preprocess": ["--shards", tmp_path / "shards"],
        "segment": ["--labelmaps", tmp_path / "new", "--model", model],
        "evaluate": ["--labelmaps", tmp_path / "labelmaps", "--report", tmp_path / "report"],
    }[job]
    done = run_without_ray(job, "--cases", cases.uri, *flags)
    assert done.returncode == {"evaluate": 0}.get(job, 3), done.stderr
    total = 1 if job == "evaluate" else 3
    assert re.search(rf"^{job}: {total}/{total} cases", done.stderr, re.MULTILINE)


def run_without_ray(job: str, *flags: object) -> subprocess.CompletedProcess:
    """A command that fails where it imports Ray."""
    command = [sys.executable, "-c", NO_RAY, job, *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


def test_more_cases_are_few_to_preprocess(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for n in range(here.FEW + 1):
        builders.put_all(Store(str(tmp_path / "cases")), builders.case_files(f"BraTS-GLI-{n:05d}-000"))
    done = run_without_ray("preprocess", "--cases", tmp_path / "cases", "--shards", tmp_path / "shards")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "shards").glob("*.parquet"))) == here.FEW + 1


def test_auto_is_by_number_and_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert [here.fits_here("auto", n) for n in (8, 9)] == [True, False]
    assert here.fits_here("no", 1000) and not here.fits_here("yes", 1)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert not here.fits_here("auto", 1) and here.fits_here("no", 1)


def test_the_first_stage_is_one_row_ahead_and_its_error_is_raised():
    seen = []

    def read(row: int) -> int:
        if row == 3:
            raise OSError("gone")
        return row * 10

    with pytest.raises(OSError, match="gone"):
        for result in here.ahead(read, range(6)):
            seen.append(result)
    assert seen == [0, 10, 20]
    assert list(here.ahead(read, range(3))) == [0, 10, 20] and list(here.ahead(read, ())) == []


def test_several_rows_are_done_side_by_side_and_come_in_order():
    meeting = threading.Barrier(2)

    def read(row: int) -> int:
        meeting.wait(timeout=30)  # would end here in BrokenBarrierError, were a row alone
        return row * 10

    assert list(here.run_here(range(6), [read], [2])) == [0, 10, 20, 30, 40, 50]
    after = here.run_here(range(6), [lambda row: row + 1, read, lambda row: row - 1], [1, 2, 1])
    assert list(after) == [9, 19, 29, 39, 49, 59]
