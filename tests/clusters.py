"""A Ray cluster on this machine: a head that computes nothing, and nodes with processes of their own."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.servers import free_port, is_open

STORE = 80 << 20  # bytes of each node's object store; Ray's least is 75 MiB


class Cluster:
    """`ray start`, as an operator does; `env` holds the Python, the token and the address for its jobs."""

    def __init__(self, folder: Path):
        """folder: for MLflow's database and a way to this Python."""
        # Ray 2.60 starts the workers of submitted jobs through a shell that splits a path with a space.
        (folder / "venv").symlink_to(Path(sys.executable).parent.parent)
        self.bin = folder / "venv" / "bin"
        self.port, self.dashboard, self.metrics = free_port(), free_port(), free_port()
        self.env = {**os.environ, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}
        self.env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.env["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        # A lost node is noticed after seconds instead of a quarter of a minute.
        self.env |= {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}
        # A node of one CPU would end each worker after a second, and start another for the next task.
        self.env |= {"RAY_idle_worker_killing_time_threshold_ms": "60000"}
        self.env |= {"RAY_metrics_report_interval_ms": "2500"}
        # Ray's workers give way to all else (15): beside another process of tests they would hardly move.
        self.env |= {"RAY_worker_niceness": "0"}
        self.env["BTS_INTAKE_KEY"] = secrets.token_hex(16)
        others = ("PYTHONPATH", "RAY_ADDRESS", "RAY_ENABLE_", "RAY_TRAIN_")
        for name in [name for name in self.env if name.startswith(others)]:
            del self.env[name]  # left by other tests in this process
        self.nodes: list[psutil.Popen] = []
        self.homes: list[str] = []

    def start_head(self, cpus: int) -> None:
        head = f"--head --port {self.port} --include-dashboard true --dashboard-host 127.0.0.1"
        head += f" --metrics-export-port {self.metrics}"
        head += f" --dashboard-port {self.dashboard} --disable-usage-stats"
        if not is_open(self.dashboard, self._start(*head.split(), cpus=cpus), seconds=60):
            pytest.fail("Ray's dashboard did not start")

    def add_node(self, gpus: int = 0) -> psutil.Popen:
        """A node of one CPU more; it takes a few seconds to join. It says that it has `gpus`."""
        return self._start("--address", f"127.0.0.1:{self.port}", "--num-gpus", str(gpus), cpus=1)

    def _start(self, *flags: str, cpus: int) -> psutil.Popen:
        # Of each node's own, as on machines of their own; short, for sockets' paths must be.
        self.homes.append(tempfile.mkdtemp(prefix="ray-"))
        start = [self.bin / "python", "-m", "ray.scripts.scripts", "start", "--block", *flags]
        start += ["--node-ip-address", "127.0.0.1", "--num-cpus", str(cpus), "--temp-dir", self.homes[-1]]
        # The default port belongs to the Ray of the other tests.
        start += ["--dashboard-agent-listen-port", str(free_port())]
        start += ["--object-store-memory", str(STORE), "--include-log-monitor", "false"]  # nobody reads logs
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.nodes.append(psutil.Popen(start, env=self.env, cwd=self.homes[-1], **quiet))
        return self.nodes[-1]

    def lose(self, node: psutil.Popen) -> None:
        """All processes of a node at once, without a farewell, as a power cut would."""
        self.nodes.remove(node)
        for process in (*node.children(recursive=True), node):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait(60)

    def submit(self, job: str, *flags: object) -> subprocess.Popen:
        """`ray job submit`, as the README says it; give it to `outcome`."""
        command = ["python", "-m", "ray.scripts.scripts", "job", "submit"]
        command += ["--address", f"http://127.0.0.1:{self.dashboard}", "--working-dir", str(ROOT), "--"]
        return self._run(*command, "python", "-m", f"jobs.{job}", *flags)

    def start(self, job: str, *flags: object) -> subprocess.Popen:
        """The same on this machine, joined to the cluster by RAY_ADDRESS: three processes fewer."""
        return self._run("python", "-m", f"jobs.{job}", *flags)

    def _run(self, *command: object) -> subprocess.Popen:
        how = {"env": self.env | {"RAY_ADDRESS": f"127.0.0.1:{self.port}"}, "cwd": ROOT, "text": True}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*map(str, command)], **how, **pipes)

    def at_work(self, title: str) -> list[psutil.Popen]:
        """The nodes with a Ray worker whose title starts so."""
        return [node for node in self.nodes if any(workers_below(node.pid, title))]

    def figures(self) -> str:
        """What the head answers Prometheus; nothing where it is too busy to."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10) as answer:
                return answer.read().decode()
        except OSError:
            return ""

    def memory(self) -> str:
        """What `ray memory` says of the nodes' object stores."""
        command = ["python", "-m", "ray.scripts.scripts", "memory", "--stats-only", "--address"]
        command.append(f"127.0.0.1:{self.port}")
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=True).stdout

    def stop(self) -> None:
        """Not by `ray stop`: it would stop the Ray of the other tests too."""
        for node in list(self.nodes):
            self.lose(node)
        for home in self.homes:
            shutil.rmtree(home, ignore_errors=True)


def outcome(submitted: subprocess.Popen) -> dict:
    """The last line of a job, once it is over and went well."""
    out, err = submitted.communicate(timeout=300)
    lines = [line for line in out.splitlines() if line.startswith('{"job"')]
    assert submitted.returncode == 0 and lines, out[-3000:] + err[-3000:]
    return json.loads(lines[-1])


def kill_when_it_says(command: list[str], start: str, folder: Path) -> str:
    """Run a job in the folder until a line of its messages starts so, then SIGKILL; what it said."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    job = subprocess.Popen(command, cwd=folder, env=env, **pipes)
    said = ""
    for text in job.stderr:
        said += text
        if text.startswith(start):
            break
    job.kill()
    job.wait()
    assert f"\n{start}" in f"\n{said}", said
    return said


def kill_a_worker(parent: int, names: tuple[str, ...]) -> bool:
    """SIGKILL one of the Ray workers below a process whose title starts like one of these."""
    for process in workers_below(parent, names):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            return True
    return False


def kill_one_of_each(parent: int, titles: Sequence[str], over: Callable[[], bool]) -> list[str]:
    """SIGKILL a worker of each title, in this order, as soon as one is at work; the titles of the killed.

    A worker takes a second to come up: its process is found before it has work.
    """
    killed: list[str] = []
    below: list[psutil.Process] = []
    looked = 0.0
    while not over() and len(killed) < len(titles):
        if time.monotonic() - looked > 0.3:  # looking through all processes of a machine takes milliseconds
            below, looked = list(workers_below(parent, "ray::")), time.monotonic()
        for process in below:
            with contextlib.suppress(psutil.Error):
                if "".join(process.cmdline()).startswith(titles[len(killed)]):
                    process.kill()
                    killed.append(titles[len(killed)])
                    break
        time.sleep(0.005)
    return killed


def workers_below(parent: int, names: str | tuple[str, ...]) -> Iterator[psutil.Process]:
    """The Ray workers below a process whose title starts like one of these."""
    try:
        below = psutil.Process(parent).children(recursive=True)
    except psutil.NoSuchProcess:  # it has just ended
        return
    for process in below:
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()).startswith(names):
                yield process
