"""bts.tracking: runs, curves and registered models, in an MLflow database of the current folder."""

import os
import sqlite3
import subprocess
import sys
import time

import pytest

from bts.errors import RunError, UsageError
from bts.mlflow_client import without_login
from bts.model.file import read_models
from bts.tracking import Tracker, flatten
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def tracker(folder):
    return Tracker(f"sqlite:///{folder}/mlflow.db")


def start(tracker, mark: str, **params) -> str:
    return tracker.start("fast", mark, {"lr": 0.1, **params}, {"data": "d", "commit": "c"})


def test_a_run_keeps_its_settings_and_curves(tracker):
    run_id = start(tracker, "a", **{f"p{i}": i for i in range(150)}, long="x" * 9000)
    for epoch in (1, 2):
        tracker.log(run_id, {"loss": 1 / epoch, "dice/WT": 0.5}, epoch)
    tracker.finish(run_id)
    run = tracker.client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "fast"
    assert len(run.data.params) == 152 and run.data.tags["data"] == "d"
    curve = tracker.client.get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1), (2, 0.5)]


def test_the_same_fingerprint_goes_on_with_the_same_run(tracker):
    first = start(tracker, "b")
    tracker.finish(first, "FAILED")
    assert start(tracker, "b") == first
    assert tracker.client.get_run(first).info.status == "RUNNING"
    assert start(tracker, "c") != first


def test_another_model_and_a_fresh_start_have_curves_of_their_own(tracker):
    """Two names, or twice the same with --fresh: one run had the points of all of them."""
    first, other = (tracker.start(name, "f", {}, {}) for name in ("fast", "other"))
    time.sleep(0.01)  # runs are in order of their milliseconds
    again = tracker.start("fast", "f", {}, {}, fresh=True)
    assert len({first, other, again}) == 3
    assert tracker.start("fast", "f", {}, {}) == again and tracker.start("other", "f", {}, {}) == other


def test_the_first_version_is_champion_and_the_next_is_not(tracker):
    first, second = start(tracker, "d"), start(tracker, "e")
    assert tracker.register(first, "model-d", b"one", "111") == "1"
    assert tracker.register(first, "model-d", b"one", "111") == "1"  # the same again, after a kill
    assert tracker.register(second, "model-d", b"two", "222") == "2"
    assert tracker.read("models:/model-d@champion") == tracker.read("models:/model-d/1") == b"one"
    assert tracker.read("models:/model-d/2") == b"two"


def test_a_version_says_what_it_is_made_of_and_what_it_asks(tracker):
    from mlflow.models import get_model_info

    run_id = start(tracker, "s")
    tags = {"data": "d", "commit": "c"}
    tracker.register(run_id, "model-s", b"bytes", "333", tags, ("t1ce", "flair"))
    version = tracker.client.get_model_version("model-s", "1")
    assert version.tags == {**tags, "digest": "333"}
    folder = tracker.client.get_model_version_download_uri("model-s", "1").removeprefix("file://")
    signature = get_model_info(folder).signature
    assert signature.inputs.input_names() == ["t1ce", "flair"] and len(signature.inputs.inputs[0].shape) == 3
    assert tracker.read("models:/model-s/1") == b"bytes"


def test_a_version_is_found_by_its_file(tracker):
    tracker.register(start(tracker, "t"), "model-t", b"bytes", "444")
    (found,) = tracker.find("444")
    assert found == tracker.version("models:/model-t@champion") == tracker.holder("model-t", "champion")
    assert found.uri == "models:/model-t/1" and tracker.find("445") == []
    assert tracker.holder("model-t", "other") is None


def test_an_evaluation_joins_the_run_of_its_model(tracker):
    run_id = start(tracker, "u")
    tracker.finish(run_id)
    tracker.log_evaluation(run_id, "spring & 2026", {"dice/WT": 0.5}, {"index.html": b"page"})
    run = tracker.client.get_run(run_id)
    assert run.data.metrics == {"evaluate/spring___2026/dice/WT": 0.5} and run.info.status == "FINISHED"
    assert [f.path for f in tracker.client.list_artifacts(run_id, "evaluate/spring___2026")] == [
        "evaluate/spring___2026/index.html"
    ]


def test_a_model_is_read_from_the_file_in_the_current_directory(tracker, folder, monkeypatch):
    tracker.register(start(tracker, "f"), "model-f", b"bytes", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)
    assert Tracker().read("models:/model-f@champion") == b"bytes"
    assert sorted(os.listdir(folder)) == ["mlartifacts", "mlflow.db"]


@pytest.mark.parametrize("uri", ["models:/none@champion", "models:/model-g@best", "models:/model-g/7"])
def test_what_is_not_registered_is_the_users_mistake(tracker, uri):
    tracker.register(start(tracker, "g"), "model-g", b"bytes", "1")
    with pytest.raises(UsageError, match=f"{uri}: not found in sqlite:"):
        tracker.read(uri)


@pytest.mark.parametrize("uri", ["models:/fast", "models:/a/b/c", "fast@champion", "models:/fast@"])
def test_a_malformed_name_is_explained(tracker, uri):
    with pytest.raises(UsageError, match="models:/NAME@ALIAS or models:/NAME/VERSION"):
        tracker.read(uri)


def test_a_store_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database at all, but long enough to be read as one" * 99)
    with pytest.raises(RunError, match=r"MLflow at sqlite:.*not a database") as caught:
        Tracker(f"sqlite:///{tmp_path}/mlflow.db")
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path):
    (tmp_path / "mlflow.db").mkdir()
    began = time.monotonic()
    with pytest.raises(RunError, match=r"unable to open database file; start the command in a folder"):
        start(Tracker(f"sqlite:///{tmp_path}/mlflow.db"), "x")
    assert time.monotonic() - began < 20


def test_an_unreachable_server_is_named_without_its_login(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RunError, match=r"MLflow at http://127\.0\.0\.1:9:") as caught:
        Tracker("http://me:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)


TRAINING = """
import sys, time
from bts.tracking import Tracker
import mlflow
print("ready", flush=True)
sys.stdin.readline()
tracker = Tracker()
run_id = tracker.start("fast", sys.argv[1], {"lr": 0.1}, {"data": "d", "commit": "c"})
print(tracker.register(run_id, "fast", sys.argv[1].encode(), sys.argv[1]))
"""


@pytest.mark.slow
def test_two_trainings_start_at_once_in_a_new_folder(tmp_path):
    """Both make MLflow's tables, its experiment and the registered model, unless one waits for the other."""
    command = [sys.executable, "-c", TRAINING]
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    env["PYTHONPATH"] = str(ROOT)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([*command, mark], cwd=tmp_path, env=env, **pipes) for mark in ("a", "b")]
    for one in both:
        assert one.stdout.readline() == "ready\n"
    for one in both:
        one.stdin.write("go\n")
        one.stdin.flush()
    said = [one.communicate(timeout=100) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert sorted(out.strip() for out, _ in said) == ["1", "2"]
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db")
    assert tracker.read("models:/fast@champion") == tracker.read("models:/fast/1")
    assert sorted(os.listdir(tmp_path)) == ["mlartifacts", "mlflow.db"]


@pytest.mark.slow  # MLflow waits 20 s for a lock
def test_a_locked_database_is_one_line(tmp_path, capfd):
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        with pytest.raises(RunError, match="locked by another program: run this again when") as caught:
            start(tracker, "x")
        assert time.monotonic() - began > 5  # it was waited for
        other.execute("ROLLBACK")
    assert "\n" not in str(caught.value) and "Traceback" not in capfd.readouterr().err
    start(tracker, "x")


@pytest.mark.slow
def test_a_model_whose_folder_was_moved_says_so(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    tracker = Tracker(f"sqlite:///{before}/mlflow.db")
    tracker.register(start(tracker, "m"), "fast", b"bytes", "1")
    before.rename(after)
    with pytest.raises(UsageError, match=r"models:/fast@champion: .* folder was moved") as caught:
        Tracker(f"sqlite:///{after}/mlflow.db").read("models:/fast@champion")
    assert f"{before}/mlartifacts/" in str(caught.value) and "MODELS/fast.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_whose_file_is_gone_says_what_is_missing(tracker, folder):
    tracker.register(start(tracker, "v"), "model-v", b"bytes", "1")
    for path in folder.rglob("model-v.safetensors"):
        path.unlink()
    with pytest.raises(UsageError, match=r"models:/model-v/1: holds 0 \.safetensors files"):
        tracker.read("models:/model-v/1")


def test_logins_are_taken_out():
    assert without_login("https://me:secret@host:5000/x") == "https://host:5000/x"
    assert without_login("s3://bucket/prefix") == "s3://bucket/prefix"
    assert without_login("/a@b/c") == "/a@b/c"
    with pytest.raises(RunError, match=r"^MLflow at http://\[::1: Invalid IPv6 URL$"):
        Tracker("http://me:secret@[::1")


def test_nested_settings_become_flag_names():
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": (3,)}}}) == {"a": 1, "b.c": 2, "b.d.e": (3,)}


def test_figures_that_a_store_does_not_take_go_with_the_next_and_it_is_not_asked_at_every_epoch(
    tmp_path, monkeypatch
):
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db")
    run, asked, log_batch = start(tracker, "x"), [], tracker.client.log_batch

    def refuse(*_, **__):
        asked.append(1)
        time.sleep(0.1)
        raise OSError("no answer")

    monkeypatch.setattr(tracker.client, "log_batch", refuse)
    for epoch in range(3):
        with pytest.raises(RunError, match="no answer" if epoch == 0 else "asked again in"):
            tracker.log(run, {"loss": epoch}, epoch)
    assert len(asked) == 1
    monkeypatch.setattr(tracker.client, "log_batch", log_batch)
    time.sleep(1.2)
    tracker.log(run, {"loss": 3}, 3)
    assert [point.value for point in tracker.client.get_metric_history(run, "loss")] == [0, 1, 2, 3]
    monkeypatch.setattr(tracker.client, "log_batch", refuse)
    with pytest.raises(RunError):
        tracker.log(run, {"loss": 4}, 4)
    monkeypatch.setattr(tracker.client, "log_batch", log_batch)
    tracker.finish(run)
    assert len(tracker.client.get_metric_history(run, "loss")) == 5


def test_a_registered_model_without_a_registry_says_what_to_set(monkeypatch, tmp_path):
    """As in a submitted job, whose folder has no database; and none is made there."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match=r"models:/fast@champion: MLFLOW_TRACKING_URI is not set, and .* no mlflow.db"
    ):
        read_models("models:/fast@champion")
    assert not os.listdir(tmp_path)
