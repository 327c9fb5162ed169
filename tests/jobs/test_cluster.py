"""A Ray that cannot be joined or started is one line, at once."""

import os
import socket
import threading
from unittest.mock import MagicMock

import pytest
import ray
from ray._common.usage import usage_lib

from bts.cases.case import Case
from bts.cases.worklist import Todo, Work
from bts.errors import RunError
from bts.storage import Store
from jobs.driver import cluster, pipeline
from jobs.driver.incremental import settle


@pytest.fixture
def no_ray(monkeypatch):
    """As where no test has started Ray before."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "ANSWER_S", 0.5)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # put back what start_ray adds


def test_an_address_where_nobody_listens(no_ray, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening: refused
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(RunError, match=r"RAY_ADDRESS=127.*nobody answers.*unset RAY_ADDRESS"):
            cluster.start_ray()


def test_an_address_that_takes_a_call_and_says_nothing(no_ray, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(RunError, match="nobody answers: timed out"):
            cluster.start_ray()


def test_the_address_of_the_dashboard(no_ray, monkeypatch):
    """Of `ray job submit`, which reads the same variable."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(RunError, match=r"dashboard.*`ray job submit`, or HOST:6379"):
        cluster.start_ray()


def test_an_address_of_something_else(no_ray, monkeypatch):
    def answer() -> None:
        caller, _ = web.accept()
        caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        caller.close()

    with socket.create_server(("127.0.0.1", 0)) as web:
        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{web.getsockname()[1]}")
        with pytest.raises(RunError, match=r"no Ray|nobody answers"):
            cluster.start_ray()


def test_a_folder_for_temporary_files_with_too_long_a_path(no_ray, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp/" + "deep/" * 20)
    with pytest.raises(RunError, match="set RAY_TMPDIR"):
        cluster.start_ray()


def test_results_on_a_node_s_own_disk_end_the_run(monkeypatch, tmp_path):
    """On a cluster each result must lie where the driver sees it."""
    case = Case("A", "A", "", "", "", {})
    todo = Work([Todo(case, "0123456789ab")])
    row = {"case_id": "A", "failure": ""}
    output = Store(str(tmp_path))
    assert settle([row], todo, output).written == 1
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(RunError, match=r"wrote case A to a disk of its own, or another run .*; give s3://"):
        settle([row], todo, output)
    output.put("A.0123456789ab.parquet", b"")
    assert settle([row], todo, output).written == 1


def test_nothing_is_written_to_the_folder_that_ray_unpacked(tmp_path):
    """A relative path of a submitted job: what lies there is deleted with the job."""
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123"
    with pytest.raises(RunError, match=r"Ray deletes this folder.*give s3://bucket/prefix or a full path"):
        Store(str(folder / "labelmaps")).put("_runs/1.json", b"{}")
    assert not folder.exists()


def test_a_node_that_does_not_come_up_in_time(no_ray, monkeypatch):
    def busy(**_):
        raise Exception("The current node timed out during startup.\nMore.")  # Ray's own class and words

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", busy)
    with pytest.raises(
        RunError, match=r"did not start: The current node timed out during startup\.; run again"
    ):
        cluster.start_ray()


def test_a_jobs_own_ray_tells_its_makers_nothing(no_ray, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    assert usage_lib.usage_stats_enabled()
    cluster.start_ray()
    assert not usage_lib.usage_stats_enabled()


@pytest.mark.parametrize("submitted", [False, True])
def test_a_command_that_joins_a_cluster_brings_its_code(no_ray, monkeypatch, submitted):
    """The nodes need not have it; a submitted job's is there already."""
    asked = {}
    monkeypatch.setattr(ray, "init", lambda **how: asked.update(how))
    monkeypatch.setattr(cluster, "check_cluster", lambda _: None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    if submitted:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    cluster.start_ray()
    assert asked["address"] == "10.0.0.1:6379"
    brought = asked.get("runtime_env", {}).get("py_modules", [])
    assert [os.path.isfile(f"{folder}/__init__.py") for folder in brought] == [True, True][submitted * 2 :]


def test_a_node_without_a_package_ends_the_run_and_names_it(monkeypatch):
    """No case is to blame, nor memory."""
    said = ray.exceptions.RaySystemError("System error: No module named 'isal'\ntraceback: …")

    def fail(_):
        raise said

    monkeypatch.setattr(ray, "remote", MagicMock())
    monkeypatch.setattr(ray, "get", fail)
    stages = [pipeline.Stage("read", lambda row: row)]
    with pytest.raises(
        RunError, match=r"lacks a package: No module named 'isal'; every node needs the packages"
    ):
        pipeline.alone({"case_id": "A"}, stages)
    said = ray.exceptions.WorkerCrashedError()
    assert "its worker was killed or crashed" in pipeline.alone({"case_id": "A"}, stages)["failure"]
