"""jobs.tune: a sweep cut off and gone on with, its runs in MLflow, its best model."""

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bts.model.file import load_model
from bts.storage import Store
from bts.tracking import Tracker
from bts.training.search_space import to_flags
from jobs import train, tune
from jobs.driver import preset_flags
from tests import builders
from tests.clusters import kill_a_worker, kill_when_it_says, workers_below

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
TINY = ["--size", "32", "32", "--batch", "8", "--layers.widths", "8", "16"]
TINY += ["--budget.minutes", "None", "--budget.epochs", "2", "--budget.validate-every", "1"]
TINY += ["--seed", "1"]  # of three trials the first has the preset's rate, the second 1e38, the last 1e-6
OVER = ["--trials", "3", "--over", "optimiser.lr=1e38,1e-6", "augmentation.flip=0.0..1.0"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return str(builders.phantom_shards(tmp_path_factory.mktemp("tune")))


def run(cli, flags: list[str], capsys) -> tuple[int, dict, str]:
    """Exit code, last line, messages."""
    capsys.readouterr()
    code = cli(flags)
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]) if code in (0, 3) else {}, err


def sweep(flags: list[str]) -> int:
    return preset_flags.run("tune", tune.Settings, tune.main, tune.__doc__, flags)


def test_a_sweep_is_cut_off_goes_on_and_keeps_its_best_model(
    shards, ray_local, bucket, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    flags = ["fast", "--shards", shards, "--models", bucket.uri, *TINY]
    # The first trial is through, the second has failed, the last has begun.
    command = [sys.executable, "-m", "jobs.tune", *flags, *OVER]
    assert "trial 0, 100 %" in kill_when_it_says(command, "trial 2, 50 %", tmp_path)
    with interrupted_at_work():
        code, _, said = run(sweep, [*flags, *OVER], capsys)
    assert code == 1 and said.splitlines()[-1] == "jobs.tune: stopped; the same command does the rest"
    gc.collect()
    kill_a_worker(os.getpid(), ("ray::ImplicitFunc",))  # its trial: that of a command ends with its Ray
    models = Store(bucket.uri)
    assert "fast.safetensors" not in {entry.key for entry in models.list()}, "half a sweep has no best model"
    code, line, said = run(sweep, [*flags, *OVER], capsys)
    assert code == 3 and (line["trials"], line["failed"]) == (3, 1), said
    assert "the loss became nan" in said and "optimiser.lr 1e38" in said
    assert "trial 0, 50 %" not in said and "trial 2" in said  # done before the cut
    assert not any(os.environ["AWS_SECRET_ACCESS_KEY"].encode() in models.read(e.key) for e in models.list())
    model = load_model(models.read("fast.safetensors"), "fast")
    assert model.digest == line["digest"] and model.meta["epochs"] == 2
    assert "nothing to do" in run(sweep, [*flags, *OVER], capsys)[2]
    # What a training with the best trial's flags would make.
    assert "nothing to do" in run(train.cli, [*flags, *line["best"].split()], capsys)[2]
    check_runs(line["digest"], line["best"])


@contextmanager
def interrupted_at_work() -> Iterator[None]:
    """Ctrl-C as soon as a trial is at work."""

    def interrupt() -> None:
        while not any(workers_below(os.getpid(), "ray::ImplicitFunc")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's workers do not listen to it
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def check_runs(digest: str, best: str) -> None:
    """A run of the sweep, one below it for each trial, and the model's version of the best trial's run."""
    tracker = Tracker()
    runs = tracker.client.search_runs([tracker.client.get_experiment_by_name("bts").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    below = {run.info.run_name: run for run in runs if run is not parent}
    assert set(below) == {f"fast {number}" for number in range(3)}
    assert {run.data.tags["mlflow.parentRunId"] for run in below.values()} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    rates = {name: run.data.params["optimiser.lr"] for name, run in below.items()}
    assert rates["fast 0"] == "0.003" and set(rates.values()) == {"0.003", "1e-06", "1e+38"}
    (version,) = tracker.find(digest)
    (winner,) = (run for run in below.values() if run.info.run_id == version.run_id)
    assert winner.data.metrics["dice"] == max(run.data.metrics.get("dice", 0) for run in below.values())
    flip = winner.data.params["augmentation.flip"]
    assert f"--augmentation.flip {flip}" in best or (best, flip) == ("", "0.5")


@pytest.mark.parametrize(
    ("over", "problem"),
    [
        (["optimiser.lr"], "FIELD=LOW..HIGH"),
        (["loss.ce=1,2"], "do not go together"),
        (["batch=0,-1"], "batch must be at least 1"),
    ],
)
def test_what_cannot_be_tried_is_said_before_anything_starts(shards, tmp_path, capsys, over, problem):
    models = tmp_path / "models"
    code, _, said = run(sweep, ["fast", "--shards", shards, "--models", str(models), "--over", *over], capsys)
    assert code == 2 and problem in said and "Traceback" not in said
    assert not models.exists()


def test_the_preset_as_it_is_is_tried_once(shards, tmp_path, capsys):
    """Sixteen trials of two values were two trainings, each done eight times."""
    given = ["--shards", shards, "--models", str(tmp_path), "--over", "loss.dice=1.0,2"]
    settings = preset_flags.parse("tune", tune.Settings, "", ["fast", *given])
    trials = tune.read_trials(settings, "fast")
    assert [trial.flags for trial in trials] == [[], ["--loss.dice", "2"]]
    assert "2 trials instead of 16" in capsys.readouterr().err


def test_a_setting_that_is_on_or_off_can_be_swept():
    needed = ["fast", "--shards", "s", "--models", "m"]
    for drawn in ("True", "False"):
        flags = [*needed, *to_flags({"inference.fill_core": drawn})]
        found = preset_flags.parse("train", train.Settings, "", flags).preset
        assert str(found.inference.fill_core) == drawn
