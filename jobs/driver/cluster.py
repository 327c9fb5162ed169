"""Ray, joined or started, as every command needs it."""

import logging
import os
import shlex
import sys
from pathlib import Path

import ray
import ray.data


def start_ray() -> None:
    """Join the cluster of `ray job submit` (RAY_ADDRESS), or start Ray on this machine alone."""
    ray.data.DataContext.get_current().enable_progress_bars = False  # each job prints its own progress
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Workers' own prints stay in Ray's logs: failed cases come as rows, errors as exceptions.
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    if cluster := os.environ.get("RAY_ADDRESS"):
        ray.init(address=cluster, **quiet)
        return
    # Ray ends workers beyond one a CPU after a second without work, and would start others for the next case.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    # Workers import this checkout wherever the command was started; a submitted job carries its own.
    here = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    python = shlex.quote(sys.executable)
    if python != sys.executable:  # Ray hands the path to a shell as it is; a folder's name may have spaces
        quiet["runtime_env"] = {"py_executable": python}
    ray.init(address="local", include_dashboard=False, **quiet)


def taken() -> str:
    """How many of the cluster's CPUs and GPUs are held by tasks and actors, its nodes of now together."""
    if not ray.is_initialized():
        return ""
    there, free = ray.cluster_resources(), ray.available_resources()
    kinds = [kind for kind in ("CPU", "GPU") if there.get(kind)]
    return "".join(f", {there[k] - free.get(k, 0):g} of {there[k]:g} {k}s taken" for k in kinds)
