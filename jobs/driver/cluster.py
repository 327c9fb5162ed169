"""Ray, joined or started, as every command needs it.

The functions import Ray, for a command that runs a few cases in its own process never needs it.
"""

import contextlib
import logging
import os
import shlex
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

from bts.errors import RunError, first_line
from bts.storage import Store

CHECKOUT = Path(__file__).resolve().parents[2]
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for a submitted job, which carries its own code
ANSWER_S = 10  # until a cluster has answered
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # how a gRPC client begins
HTTP2_SETTINGS = b"\x04"  # kind of the frame that every server of it answers first
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
SOCKET_BYTES = 107  # of a socket's path, at most


def start_ray() -> None:
    """Join the cluster of `ray job submit` (RAY_ADDRESS), or start Ray on this machine alone.

    Raises RunError within a minute where that cannot be.
    """
    import ray
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False  # each job prints its own progress
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Workers' own prints stay in Ray's logs: failed cases come as rows, errors as exceptions.
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    # Ray would try a case that runs out of memory without end; here too, RETRIES counts.
    os.environ.setdefault("RAY_task_oom_retries", "2")
    if cluster := os.environ.get("RAY_ADDRESS"):
        check_cluster(cluster)
        if SUBMITTED not in os.environ:
            quiet["runtime_env"] = {"py_modules": [str(CHECKOUT / room) for room in ("bts", "jobs")]}
        _init(f"the cluster of RAY_ADDRESS={cluster}", address=cluster, **quiet)
        return
    check_temp()
    # Ray ends workers beyond one a CPU after a second without work, and would start others for the next case.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of this machine
    # Workers import this checkout wherever the command was started; a submitted job carries its own.
    paths = [str(CHECKOUT), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    python = shlex.quote(sys.executable)
    if python != sys.executable:  # Ray hands the path to a shell as it is; a folder's name may have spaces
        quiet["runtime_env"] = {"py_executable": python}
    _init("Ray on this machine", address="local", include_dashboard=False, **quiet)


def _init(what: str, **how) -> None:
    import ray

    try:
        ray.init(**how)
    except Exception as error:  # Ray raises this very class where its processes do not come up in time
        with contextlib.suppress(Exception):
            ray.shutdown()
        mend = "run again when the machine has less to do, or with more free memory and disk space"
        raise RunError(f"{what} did not start: {first_line(error)}; {mend}") from error


def check_cluster(address: str) -> None:
    """Raise RunError where nobody answers at HOST:PORT as Ray does: its own client tries for five minutes."""
    if address.startswith(("http://", "https://")):
        mend = "give it to `ray job submit`, or HOST:6379 to join, or unset RAY_ADDRESS to run here alone"
        raise RunError(f"RAY_ADDRESS={address}: that is the dashboard, which takes submissions; {mend}")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()) or os.environ.get("RAY_USE_TLS") == "1":
        return  # auto, local, or what Ray itself makes of it
    try:
        with socket.create_connection((host, int(port)), ANSWER_S) as there:
            there.settimeout(ANSWER_S)
            there.sendall(HTTP2_HELLO)
            found = "" if there.recv(9)[3:4] == HTTP2_SETTINGS else "what answers there is no Ray"
    except OSError as error:
        found = f"nobody answers: {error}"
    if found:
        mend = "check that the cluster is up (ray status), or unset RAY_ADDRESS to run on this machine alone"
        raise RunError(f"RAY_ADDRESS={address}: {found}; {mend}")


def check_temp() -> None:
    """Raise RunError where the folder of Ray's sockets has a longer path than a socket may have."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(folder + SOCKET)) > SOCKET_BYTES:
        longest = SOCKET_BYTES - len(SOCKET)
        problem = f"{folder}: this folder for temporary files has too long a path for Ray's sockets"
        raise RunError(f"{problem}; set RAY_TMPDIR to one of at most {longest} characters, such as /tmp")


def check_seen(output: Store | None, case_id: str, *keys: str) -> None:
    """Raise RunError where none of the keys is there, one of which the case's task has just written: it ran
    on another node, whose disk is its own."""
    if output is None or not output.local or not os.environ.get("RAY_ADDRESS"):
        return
    if not any(os.path.exists(output.path(key)) for key in keys):
        problem = f"{output.uri}: another node of the cluster wrote case {case_id} to a disk of its own, or "
        problem += "another run with other models or options has replaced it since"
        mend = "give s3://bucket/prefix, or a folder that all nodes share, and one run at a time"
        raise RunError(f"{problem}; {mend}")


def cores() -> int:
    """CPUs of the cluster, its nodes of now together."""
    import ray

    return int(ray.cluster_resources().get("CPU", 0))


def node_cpus() -> list[int]:
    """CPUs of each node of now."""
    import ray

    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def is_started() -> bool:
    """Whether this process has started or joined Ray."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def case_gauge() -> "Gauge | None":
    """What Prometheus reads off the cluster's nodes as ray_bts_cases{job, state}; None without Ray."""
    if not is_started():
        return None
    from ray.util.metrics import Gauge

    return Gauge("bts_cases", "Cases.", ("job", "state"))


def taken() -> str:
    """How many of the cluster's CPUs and GPUs are held by tasks and actors, its nodes of now together."""
    if not is_started():
        return ""
    import ray

    there, free = ray.cluster_resources(), ray.available_resources()
    kinds = [kind for kind in ("CPU", "GPU") if there.get(kind)]
    return "".join(f", {there[k] - free.get(k, 0):g} of {there[k]:g} {k}s taken" for k in kinds)
