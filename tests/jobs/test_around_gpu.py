"""jobs.segment with a model of another tool beside a GPU: what is done around it is done by tasks of its own.

Ray is told of a GPU that is not there; the network runs on a CPU.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bts.inference.foreign import convert
from bts.inference.foreign.source import Asked, Source
from bts.storage import Store
from jobs import segment
from tests import builders, nnunet_folders
from tests.clusters import kill_one_of_each
from tests.conftest import ROOT

CASES = 6
AT_WORK = ("ray::MapBatches(Before", "ray::MapWorker(MapBatches(Predict)).submit", "ray::MapBatches(After")
"""Titles of Ray's processes."""


@pytest.mark.slow
def test_a_worker_killed_at_each_stage_changes_no_labelmap(tmp_path):
    cases, model = Store(f"{tmp_path}/cases"), tmp_path / "theirs.safetensors"
    for n in range(CASES):
        files = builders.case_files(f"BraTS-SSA-{n:05d}-000", seed=n, shape=(40, 44, 32), truth=False)
        builders.put_all(cases, files)
    model.write_bytes(adopted(tmp_path))
    where = {"cases": cases.uri, "model": (str(model),)}
    segment.main(segment.Settings(**where, labelmaps=f"{tmp_path}/here", ray="no"))

    flags = ("--cases", cases.uri, "--model", model, "--labelmaps", tmp_path / "beside", "--gpu", "yes")
    job = begin("-m", "jobs.segment", *flags, "--ray", "yes")
    try:
        killed = kill_one_of_each(job.pid, AT_WORK, lambda: job.poll() is not None)
        assert job.wait(120) == 0
    finally:
        job.kill()
    assert killed == [*AT_WORK]
    expected, found = (builders.results(Store(f"{tmp_path}/{n}"), ".nii.gz") for n in ("here", "beside"))
    assert len(expected) == CASES and found == expected


def adopted(folder: Path) -> bytes:
    """A small nnU-Net that resamples."""
    written = nnunet_folders.write(folder / "theirs", plan={"spacing": [0.9, 0.8, 0.9]})
    return convert(Source(str(written)), Asked(name="theirs"))[1]


def begin(*command: object) -> subprocess.Popen:
    """A command with a Ray of its own, which believes in a GPU."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    env["RAY_OVERRIDE_RESOURCES"] = '{"CPU": 2, "GPU": 1}'
    env.pop("RAY_ADDRESS", None)
    return subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, env=env)
