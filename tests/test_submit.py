"""The four jobs by `ray job submit` to a cluster of one node, with a bucket as the only shared thing."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import pytest

from bts import phantom
from bts.storage import Store
from tests.conftest import ROOT, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TINY = ("--layers.widths", "4", "8", "--size", "64", "64", "--batch", "4", "--budget.epochs", "1")


@pytest.fixture
def cluster(s3, tmp_path):
    """`ray start --head`, with the environment and the Python that its jobs will use; its dashboard's URL."""
    dashboard = free_port()
    # Ray 2.60 starts the workers of submitted jobs through a shell that splits a path with a space.
    (tmp_path / "venv").symlink_to(Path(sys.executable).parent.parent)
    bin_folder = tmp_path / "venv" / "bin"
    env = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    env["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path}/mlflow.db"
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    env.pop("RAY_ADDRESS", None)
    home = tempfile.mkdtemp(prefix="ray-")  # of its own, and short: sockets' paths must be
    start = [
        bin_folder / "python",
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--num-cpus",
        "2",
        "--port",
        str(free_port()),
    ]
    start += [
        "--include-dashboard",
        "true",
        "--dashboard-host",
        "127.0.0.1",
        "--dashboard-port",
        str(dashboard),
    ]
    # The default port belongs to the Ray of the other tests.
    start += ["--dashboard-agent-listen-port", str(free_port())]
    start += ["--disable-usage-stats", "--object-store-memory", str(512 << 20), "--temp-dir", home]
    # Not `ray stop`: it would stop the Ray of the other tests too.
    head = subprocess.Popen(
        start, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_open(dashboard)
        yield f"http://127.0.0.1:{dashboard}", env
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(home, ignore_errors=True)


def wait_until_open(port: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail("Ray's dashboard did not start")


def submit(cluster, name: str, *flags: object) -> dict:
    """`ray job submit`, as the README says it; the job's last line."""
    address, env = cluster
    command = [
        "python",
        "-m",
        "ray.scripts.scripts",
        "job",
        "submit",
        "--address",
        address,
        "--working-dir",
        ROOT,
        "--",
    ]
    command += ["python", "-m", f"jobs.{name}", *map(str, flags)]
    for _ in range(20):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        if "No available agent" not in done.stderr:  # the node's agent starts later than the dashboard
            break
        time.sleep(1)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"job"')]
    assert done.returncode == 0 and lines, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(lines[-1])


def test_the_chain_submitted_to_a_cluster(cluster, bucket):
    cases, shards, models = (f"{bucket.uri}/{name}" for name in ("cases", "shards", "models"))
    for index in range(6):
        for key, data in phantom.write_case(3, index, (64, 64, 48)).items():
            Store(cases).put(key, data)
    assert submit(cluster, "preprocess", "--cases", cases, "--shards", shards)["written"] == 6
    trained = submit(cluster, "train", "fast", "--shards", shards, "--models", models, *TINY)
    assert trained["epochs"] == 1 and set(trained["dice"]) == {"WT", "TC", "ET"}
    labelmaps, report = f"{bucket.uri}/labelmaps", f"{bucket.uri}/report"
    model = f"{models}/fast.safetensors"
    flags = ("--cases", cases, "--model", model, "--labelmaps", labelmaps)
    assert submit(cluster, "segment", *flags)["written"] == 6
    assert submit(cluster, "segment", *flags)["unchanged"] == 6
    scored = submit(cluster, "evaluate", "--labelmaps", labelmaps, "--cases", cases, "--report", report)
    assert scored["scored"] == 6 and Store(report).exists("index.html")
    name = next(e.key for e in Store(labelmaps).list() if e.key.endswith(".nii.gz"))
    assert nib.load(bucket.directory / "labelmaps" / name).shape == (64, 64, 48)
