"""Ray, joined or started, as every command needs it.

The functions import Ray, for a command that runs a few cases in its own process never needs it.
"""

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ray.data
    from ray.util.metrics import Gauge


def start_ray() -> None:
    """Join the cluster of `ray job submit` (RAY_ADDRESS), or start Ray on this machine alone."""
    import ray
    import ray.data

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


def one_task_each(rows: Sequence[dict]) -> "ray.data.Dataset":
    """Rows, one a case, for Ray's tasks; starts Ray."""
    import ray.data

    start_ray()
    return ray.data.from_items(rows, override_num_blocks=len(rows))


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
