"""Who can reach the Ray that a job starts for itself: nobody but this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LISTENERS = """
from jobs.driver import cluster  # before Ray, as a job does
import contextlib, psutil, ray
cluster.start_ray()
ray.get(ray.remote(lambda: 1).remote())
for process in psutil.Process().children(recursive=True):
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in process.net_connections(kind="inet"):
            if one.status == "LISTEN":
                print(process.name(), one.laddr.ip.removeprefix("::ffff:"))
"""


@pytest.mark.parametrize("said", [{}, {"RAY_ADDRESS": "local", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}])
def test_a_jobs_own_ray_listens_on_loopback_alone(said):
    """Its ports take any code to run."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | said
    command = [sys.executable, "-c", LISTENERS]
    done = subprocess.run(
        command, cwd=ROOT, env=env | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240
    )
    listeners = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, *_ in listeners} >= {"gcs_server", "raylet"}, done.stdout + done.stderr
    assert {address for *_, address in listeners} == {"127.0.0.1"}, done.stdout
