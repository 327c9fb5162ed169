"""Killed actors, workers and drivers, Ctrl-C, two runs at once: all results are whole in the end."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bts.storage import Store
from jobs import preprocess, segment
from tests import builders
from tests.clusters import kill_one_of_each
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
CASES = 24
PREDICTING, READING_OR_WRITING = "ray::MapWorker", "ray::MapBatches("  # titles of Ray's processes


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
    return ["jobs.segment", "--cases", cases, "--model", model, "--labelmaps", labelmaps, "--ray", "no"]


def preprocessing(cases: str, shards: str) -> list[str]:
    return ["jobs.preprocess", "--cases", cases, "--shards", shards, "--ray", "yes"]


def check_all(labelmaps: str, undisturbed: dict[str, bytes]) -> None:
    assert builders.results(Store(labelmaps), ".nii.gz") == undisturbed and len(undisturbed) == CASES
    assert len(Store(labelmaps).list("_done")) == CASES
    assert not Store(labelmaps).list("_failed")


def test_segment_goes_on_when_workers_are_killed(ray_local, cases, model, undisturbed, tmp_path):
    labelmaps, killed, over = tmp_path / "labelmaps", [], threading.Event()
    killer = threading.Thread(target=kill_once_begun, args=(labelmaps / "_done", killed, over))
    killer.start()
    try:
        done = segment.main(segment.Settings(cases, str(labelmaps), (model,), ray="yes"))
    finally:
        over.set()
        killer.join()  # or it might kill the next test's worker
    assert killed == [PREDICTING, READING_OR_WRITING]
    assert done.exit_code == 0
    check_all(str(labelmaps), undisturbed)


def kill_once_begun(markers: Path, killed: list, over: threading.Event) -> None:
    """Of this process's Ray, once three cases are done; says which workers it has killed."""
    while not over.is_set() and len(list(markers.glob("*.json"))) < 3:
        time.sleep(0.002)
    killed += kill_one_of_each(os.getpid(), (PREDICTING, READING_OR_WRITING), over.is_set)


def test_preprocess_killed_and_run_again(run_module_job, cases, tmp_path):
    whole, shards = str(tmp_path / "whole"), str(tmp_path / "shards")
    assert preprocess.main(preprocess.Settings(cases, whole, ray="no")).exit_code == 0
    job = run_module_job(preprocessing(cases, shards))
    while job.poll() is None and not list(Path(shards).glob("*.parquet")):
        time.sleep(0.002)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    assert preprocess.main(preprocess.Settings(cases, shards, ray="no")).exit_code == 0
    assert builders.results(Store(shards), ".parquet") == builders.results(Store(whole), ".parquet")


def test_ctrl_c_is_one_line_and_the_same_command_does_the_rest(
    bucket, faults, cases, model, undisturbed, run_here
):
    """While a network is at work, and the bucket keeps a labelmap waiting."""
    flags = segmenting(cases, model, bucket.uri)
    with faults.inject("held", method="PUT", key=".nii.gz", times=0, after=3) as hits:
        # In the background of a shell Ctrl-C is ignored, by what is started there too.
        heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        job = subprocess.Popen([sys.executable, "-m", *flags], cwd=ROOT, preexec_fn=heard, **pipes)
        while hits() < 1 and job.poll() is None:
            time.sleep(0.05)
        job.send_signal(signal.SIGINT)
        _, said = job.communicate(timeout=60)
    assert job.returncode == 1
    assert said.splitlines()[-1] == "jobs.segment: stopped; the same command does the rest"
    assert "Traceback" not in said
    done = run_here("segment", *flags[1:])
    assert (done.code, done.summary["unchanged"], done.summary["written"]) == (0, 3, CASES - 3)
    check_all(bucket.uri, undisturbed)


def test_two_runs_at_once_do_no_harm(run_module_job, bucket, faults, cases, model, undisturbed, tmp_path):
    """Neither has read a case before both have planned: each writes every case."""
    remote, labelmaps = Store(f"{bucket.uri}/cases"), str(tmp_path / "labelmaps")
    builders.put_all(remote, {entry.key: Store(cases).read(entry.key) for entry in Store(cases).list()})
    with faults.inject("held", key=".nii.gz", times=0) as hits:
        jobs = [run_module_job(segmenting(remote.uri, model, labelmaps)) for _ in range(2)]
        while hits() < 2 and all(job.poll() is None for job in jobs):
            time.sleep(0.05)
        assert hits() == 2  # a run reads one file after the other
    assert [job.wait(200) for job in jobs] == [0, 0]
    reports = [Store(labelmaps).read(entry.key) for entry in Store(labelmaps).list("_runs")]
    assert [json.loads(report)["written"] for report in reports] == [CASES, CASES]
    check_all(labelmaps, undisturbed)
