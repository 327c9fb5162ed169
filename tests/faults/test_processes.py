"""Killed actors, workers and drivers, two runs at once: all results are whole in the end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bts.storage import Store
from jobs import preprocess, segment
from tests import builders
from tests.clusters import kill_a_worker
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
CASES = 24
PREDICTING, READING_OR_WRITING = ("ray::MapWorker",), ("ray::MapBatches(",)  # titles of Ray's processes


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("cases"))
    for n in range(CASES):
        builders.put_all(Store(folder), builders.case_files(f"BraTS-SSA-{n:05d}-000", seed=n % 4))
    return folder


@pytest.fixture(scope="module")
def undisturbed(cases, model, tmp_path_factory) -> dict[str, bytes]:
    """The labelmaps of a run without faults."""
    folder = str(tmp_path_factory.mktemp("undisturbed"))
    assert segment.main(segment.Settings(cases, folder, (model,), ray="no")).exit_code == 0
    return builders.results(Store(folder), ".nii.gz")


@pytest.fixture(scope="module")
def run_module_job():
    """`run_module_job(flags)`: a job as a process of its own, with a Ray of its own."""
    started = []

    def start(flags: list[str]) -> subprocess.Popen:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        env.pop("RAY_ADDRESS", None)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen([sys.executable, "-m", *flags], cwd=ROOT, env=env, **quiet))
        return started[-1]

    yield start
    for job in started:
        job.kill()
        job.wait()


def segmenting(cases: str, model: str, labelmaps: str) -> list[str]:
    return ["jobs.segment", "--cases", cases, "--model", model, "--labelmaps", labelmaps]


def preprocessing(cases: str, shards: str) -> list[str]:
    return ["jobs.preprocess", "--cases", cases, "--shards", shards]


def wait_for(results_of: str, count: int, job: subprocess.Popen, suffix: str) -> None:
    """Until so many results are there, or the job is over."""
    while job.poll() is None and len(list(Path(results_of).rglob(f"*{suffix}"))) < count:
        time.sleep(0.002)


def check_all(labelmaps: str, undisturbed: dict[str, bytes]) -> None:
    assert builders.results(Store(labelmaps), ".nii.gz") == undisturbed and len(undisturbed) == CASES
    assert len(Store(labelmaps).list("_done")) == CASES
    assert not Store(labelmaps).list("_failed")


def test_segment_goes_on_when_workers_are_killed(run_module_job, cases, model, undisturbed, tmp_path):
    labelmaps = str(tmp_path / "labelmaps")
    job = run_module_job(segmenting(cases, model, labelmaps))
    wait_for(f"{labelmaps}/_done", 3, job, ".json")
    for worker in (PREDICTING, READING_OR_WRITING):
        assert killed(job, worker), f"there was no {worker}"
    assert job.wait(120) == 0
    check_all(labelmaps, undisturbed)


def killed(job: subprocess.Popen, worker: tuple[str, ...]) -> bool:
    """SIGKILL a worker of the job as soon as there is one of these."""
    while job.poll() is None:
        if kill_a_worker(job.pid, worker):
            return True
        time.sleep(0.01)
    return False


def test_preprocess_killed_and_run_again(run_module_job, cases, tmp_path):
    whole, shards = str(tmp_path / "whole"), str(tmp_path / "shards")
    assert preprocess.main(preprocess.Settings(cases, whole, ray="no")).exit_code == 0
    job = run_module_job(preprocessing(cases, shards))
    wait_for(shards, 1, job, ".parquet")
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    assert preprocess.main(preprocess.Settings(cases, shards, ray="no")).exit_code == 0
    assert builders.results(Store(shards), ".parquet") == builders.results(Store(whole), ".parquet")


def test_two_runs_at_once_do_no_harm(run_module_job, cases, model, undisturbed, tmp_path):
    labelmaps = str(tmp_path / "labelmaps")
    jobs = [run_module_job(segmenting(cases, model, labelmaps)) for _ in range(2)]
    assert [job.wait(200) for job in jobs] == [0, 0]
    check_all(labelmaps, undisturbed)
