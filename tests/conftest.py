"""What tests share: an S3 server on this machine, a small Ray, the real cases, and jobs run as commands."""

import gc
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import hypothesis
import pytest

from bts.errors import UsageError
from bts.storage import Store
from tests import servers
from tests.faults.proxy import Faults

ROOT = Path(__file__).resolve().parent.parent

# Examples share the machine with Ray workers; a slow one is not a wrong one.
hypothesis.settings.register_profile("bts", deadline=None)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=20)  # of `make test-fast`
hypothesis.settings.load_profile("bts")


# Files of one kind run in one process, for what they need takes seconds to make ready. So do those that need
# `ray_local`: of each Ray that runs, a dozen processes look for work all the time.
TOGETHER = (
    re.compile(  # the imports of MONAI, MLflow, ONNX or PyTorch's compiler
        r"tests/(unit/inference/test_(engine|foreign_recipe|monai_bundle|onnx_model|program)"
        r"|unit/training/test_(loop|losses|muon|state|systems)|unit/model/test_nets|unit/ground/test_tracking"
        r"|contracts/test_takeover|jobs/test_(predict|promote|segment))\.py"
    ),
    re.compile("tests/unit/intake/"),  # the phantom studies
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log) -> object:
    """Each process of `make test` takes a file at a time, or all of one kind."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if uses_ray_local(ROOT / nodeid.partition("::")[0]):
                return "Ray"
            kind = next((kind for kind in TOGETHER if kind.match(nodeid)), None)
            return kind.pattern if kind else super()._split_scope(nodeid)

    config.option.loadscopereorder = False  # in the order below, not by number of tests
    return Scheduling(config, log)


@cache
def uses_ray_local(path: Path) -> bool:
    """Whether a file of tests names the fixture."""
    return "ray_local" in path.read_text()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that both processes end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    nodes = {item.path for item in items if "cluster" in getattr(item, "fixturenames", ())}
    items.sort(
        key=lambda item: (item.path not in nodes, not uses_ray_local(item.path), item.path not in slow)
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """What comes in, PyTorch above all, stays: Python does not look through it for garbage time and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(5_000, 20, 1_000_000)  # through the young alone, until the file is done
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """A file's garbage goes after its last test; what is left then stays, and is not searched again.

    A job that ran in this process took a thread of PyTorch for each core: both processes have these together.
    """
    if "torch" in sys.modules and "OMP_NUM_THREADS" in os.environ:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()
    needed = nextitem is not None and uses_ray_local(nextitem.path)
    if "ray" in sys.modules and uses_ray_local(item.path) and not needed:
        sys.modules["ray"].shutdown()


@dataclass(frozen=True)
class Bucket:
    """A fresh prefix of a fresh bucket, and the folder that the server keeps it in."""

    uri: str
    directory: Path


@dataclass(frozen=True)
class JobRun:
    """A finished `python -m jobs.NAME`; `summary` is its last line of JSON, None where it printed none."""

    code: int
    stdout: str
    stderr: str
    summary: dict | None


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """An S3 server over a local folder; yields that folder: its subfolders are the buckets.

    A proxy lies before it, which passes all on unless the fixture `faults` asks otherwise. Sets the
    standard AWS environment, which Ray's workers and job commands inherit.
    """
    folder, log = tmp_path_factory.mktemp("s3"), tmp_path_factory.mktemp("s3-log") / "rclone.log"
    port, door = servers.free_port(), servers.free_port()
    # A store that stays broken is given up after seconds.
    environment = {**servers.s3_environment(door), "AWS_MAX_ATTEMPTS": "4"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        proxy = [sys.executable, "-m", "tests.faults.proxy", str(door), str(port)]
        server = servers.start_s3(folder, port, "--log-file", str(log))
        running = [server, subprocess.Popen(proxy, cwd=ROOT)]
        try:
            for server, its_port in zip(running, (port, door), strict=True):
                if not servers.is_open(its_port, server):
                    said = log.read_text() if log.exists() else "no log"
                    pytest.fail(f"the S3 server did not start: {said}")
            yield folder
        finally:
            for server in running:
                server.terminate()
                server.wait(10)


@pytest.fixture
def faults(s3) -> Faults:
    """Makes the S3 server fail as asked: `with faults.inject("503", key="t1c", times=2): …`."""
    return Faults(int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2]))


@pytest.fixture
def bucket(s3) -> Bucket:
    return make_bucket(s3)


def make_bucket(s3: Path) -> Bucket:
    """A fresh `s3://bucket/prefix`. The prefix does not exist yet, the bucket does.

    Read its folder as you like, but change it through the server, which misses what is done behind its back.
    """
    name = f"bts-{uuid.uuid4().hex[:8]}"
    Store(f"s3://{name}").fs.mkdir(name)
    return Bucket(f"s3://{name}/prefix", s3 / name / "prefix")


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """File of an untrained model for small cases."""
    from tests import builders  # here: PyTorch is nothing for the process that only hands out tests

    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    path.write_bytes(builders.tiny_model())
    return str(path)


@pytest.fixture(scope="module")
def ray_local(s3):
    """Ray with two CPUs in this process's name, up until the last file that needs it. After `s3`: its workers
    inherit the environment of now."""
    import ray

    if ray.is_initialized():
        return ray
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", _python_path())
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # As jobs.driver.cluster has them.
        patch.setenv("RAY_idle_worker_killing_time_threshold_ms", "60000")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        # Ray hands the path to a shell as it is: in a folder with a space Train would wait without end. Only
        # there, for a worker with an environment of its own imports Ray twice.
        python = shlex.quote(sys.executable)
        quoted = {"runtime_env": {"py_executable": python}} if python != sys.executable else {}
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=512 * 2**20,
            **quoted,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
        )
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files (brats, figshare, oddities), where this machine has it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real cases on this machine: ../shared/data is absent")
    return folder


@pytest.fixture(scope="session")
def real_cases(real_data) -> Path:
    """The folder of real BraTS cases, one folder each."""
    return real_data / "brats"


@pytest.fixture(scope="session")
def niivue() -> None:
    """For tests that need the package of the viewer's page."""
    from bts.report import viewer

    try:
        viewer.read_niivue()
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture
def run_job():
    """`run_job("preprocess", "--cases", uri, …, env={…})`: the job as a user runs it. See `JobRun`."""
    return _run_job


@pytest.fixture
def run_here(monkeypatch, capsys):
    """The same in this process, which has made its imports: where a process of its own is not the point."""

    def run(name: str, *flags: object) -> JobRun:
        from jobs.driver import outcome

        monkeypatch.setattr(outcome, "leave", sys.exit)
        monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
        job = importlib.import_module(f"jobs.{name}")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            if name == "train":
                sys.exit(job.cli(sys.argv[1:]))
            outcome.run_job(name, job.Settings, job.main)
        said = capsys.readouterr()
        return JobRun(ended.value.code, said.out, said.err, _last_json(said.out))

    return run


def _run_job(name: str, *flags: object, env: dict[str, str] | None = None, timeout: float = 240) -> JobRun:
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{name}", *map(str, flags)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": _python_path(), **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return JobRun(done.returncode, done.stdout, done.stderr, _last_json(done.stdout))


def _last_json(stdout: str) -> dict | None:
    lines = stdout.strip().splitlines()
    try:
        value = json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _python_path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
