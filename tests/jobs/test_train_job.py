"""jobs.train as a command: what it refuses, kills and resumes, several workers, with Ray and without."""

import json
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from bts.errors import RunError
from bts.model.file import load_model
from bts.presets import PRESETS
from bts.shards.catalogue import read_catalogue
from bts.shards.format import read_volume
from bts.storage import Store
from bts.tracking import Tracker
from bts.training.plan import make_plan
from bts.training.rows import read_rows
from jobs.train import read_trained
from tests import builders
from tests.clusters import kill_a_worker, kill_when_it_says

TINY = ("--size", 32, 32, "--batch", 8, "--layers.widths", 8, 16)
TINY += ("--budget.minutes", None, "--budget.validate-every", 2)
EPOCHS = 10
VALIDATED = [2, 4, 6, 8, 10]


@pytest.fixture(scope="module")
def shard_folder(tmp_path_factory) -> Path:
    return builders.phantom_shards(tmp_path_factory.mktemp("train"))


def train(*flags: object, capsys) -> tuple[int, dict, str]:
    """jobs.train in this process, which has Ray already → exit code, last line, messages."""
    return train_with(["fast", *flags], capsys)


def train_with(flags: list, capsys) -> tuple[int, dict, str]:
    from jobs.train import cli

    capsys.readouterr()
    code = cli([str(flag) for flag in flags])
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]) if code == 0 else {}, err


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory: MLflow's default store is made there."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_preset_comes_first(capsys):
    for flags in ([], ["best-of-all", "--shards", "x"], ["--shards", "x"]):
        code, _, said = train_with(flags, capsys)
        assert code == 2 and "fast" in said and "2D U-Net" in said


def test_a_split_by_slice_trains_on_just_what_it_does_not_hold_out(shard_folder):
    from jobs.workers.rank import Job, held_out

    store, preset = Store(str(shard_folder)), replace(PRESETS["unet2d"], split="leaking_by_slice")
    plan = make_plan(read_catalogue(store), preset, fold=2)
    held = {
        slice_.tobytes()
        for volume in held_out(Job(plan=plan, provenance={}, shards=store, parts=1))
        for slice_ in volume.images[0]
    }
    items = pa.table({"epoch": [0] * len(plan.training), "key": [shard.key for shard in plan.training]})
    everything, trained = (
        set(read_rows(items, store, preset, turns, whole=False)["flair"].to_pylist())
        for turns in ({}, plan.turns())
    )
    assert not trained & held and everything - trained <= held
    assert len(everything - trained) == pytest.approx(len(everything) / 5, abs=2)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--shards", "nothing-here"], "no shards there"),
        (["--workers", 9], "--workers 9: give 1 to 4"),
        (["--workers", 3, 2], "give 1 to 4"),
        (["--name", "../up"], "--name ../up: use letters"),
        (["--ray", "no", "--workers", 2], "one process is one worker"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_starts(shard_folder, here, capsys, flags, problem):
    code, _, said = train("--shards", shard_folder, "--models", "models", *flags, capsys=capsys)
    assert code == 2 and problem in said and "Traceback" not in said
    assert not list(here.iterdir())


def test_a_model_of_another_training_is_said_to_be_replaced(tmp_path, capsys):
    models = Store(tmp_path)
    assert read_trained(models, "fast", "run", "this") is None and not capsys.readouterr().err
    models.put("fast.safetensors", builders.tiny_model(run="this"))
    assert read_trained(models, "fast", "run", "this") and not capsys.readouterr().err
    assert read_trained(models, "fast", "run", "another") is None
    assert "fast.safetensors is of another training, and replaced" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_of_a_training_without_ray_is_one_line(shard_folder, here, monkeypatch, capsys):
    from jobs.driver import training_here

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training_here, "read_here", interrupted)
    flags = ["--shards", shard_folder, "--models", "models", "--ray", "no", *TINY, "--budget.epochs", 1]
    code, _, said = train(*flags, capsys=capsys)
    assert (
        code == 1
        and said.splitlines()[-1] == "jobs.train: stopped; the same command goes on at the last epoch"
    )


@pytest.mark.slow
def test_figures_that_mlflow_does_not_take_stop_no_training(shard_folder, here, monkeypatch, capsys):
    def refused(*_):
        raise RunError("the database is locked")

    monkeypatch.setattr(Tracker, "log", refused)
    flags = ["--shards", shard_folder, "--models", "models", "--ray", "no", *TINY, "--budget.epochs", 1]
    code, line, said = train(*flags, capsys=capsys)
    assert code == 0 and line["epochs"] == 1
    assert "MLflow did not take these figures: the database is locked" in said


@pytest.mark.slow
def test_every_rank_gets_its_own_slices_and_a_resumed_one_the_same(shard_folder, ray_local):
    from jobs.workers.feed import Feed, read_here
    from jobs.workers.rank import Job
    from jobs.workers.train import through_ray

    preset = replace(PRESETS["fast"], size=(32, 32), batch=8)
    store = Store(shard_folder)
    plan = make_plan(read_catalogue(store), preset, 0)
    job = Job(plan=plan, provenance={}, shards=store, parts=2)

    def slices(feed: Feed, epoch: int) -> list[tuple[str, int]]:
        rows = pa.concat_tables(feed.tables(epoch))
        return list(zip(rows["case_id"].to_pylist(), rows["z"].to_pylist(), strict=True))

    feeds = [Feed(job, rank, 2, through_ray) for rank in (0, 1)]
    epochs = [[slices(feed, epoch) for feed in feeds] for epoch in (0, 1, 2)]
    for first, second in epochs:
        assert first and second and not set(first) & set(second)
        assert len(set(first + second)) == len(first + second)
    assert epochs[0] != epochs[1]
    with_tumour = {(s.case, z) for s in job.plan.training for z in tumour_slices(store, s.key)}
    assert all(with_tumour <= set(first + second) for first, second in epochs)
    assert [slices(Feed(job, rank, 2, through_ray), 2) for rank in (0, 1)] == epochs[2]
    broken_off = Feed(job, 0, 2, read_here)
    next(broken_off.tables(0))
    assert slices(broken_off, 1) == epochs[1][0]
    batch = next(broken_off.batches(2))
    assert batch["images"].shape == (8, 3 * 4, 32, 32) and batch["mask"].shape == (8, 3, 32, 32)


def tumour_slices(store: Store, key: str) -> list[int]:
    volume = read_volume(store.read(key))
    return [volume.origin[0] + z for z in range(len(volume.mask)) if volume.mask[z].any()]


@pytest.mark.slow
def test_train_twice_and_after_two_kills(shard_folder, here, bucket, ray_local, capsys):
    """Begun by Ray, killed, gone on without it, killed, ended by Ray: the very weights of an undisturbed
    training in one process. Run again, it does nothing."""
    flags = ["--shards", shard_folder, *TINY, "--budget.epochs", EPOCHS]
    code, line, said = train(*flags, "--models", "models", "--ray", "no", capsys=capsys)
    assert code == 0 and line["epochs"] == EPOCHS and set(line["dice"]) == {"WT", "TC", "ET"}
    assert "4 for training, 2 held out" in said and f"epoch {EPOCHS}/{EPOCHS}" in said and "← kept" in said
    check_model_and_tracking(here, line)

    code, again, said = train(*flags, "--models", "models", capsys=capsys)
    assert code == 0 and again["digest"] == line["digest"] and "nothing to do" in said

    flags += ["--models", bucket.uri]
    command = [sys.executable, "-m", "jobs.train", "fast", *map(str, flags), "--ray"]
    by_ray = kill_when_it_says([*command, "yes"], "epoch 2/", here)  # its worker does a few more
    alone = kill_when_it_says([*command, "no"], "epoch ", here)
    assert "epoch 1/" in by_ray and "epoch 1/" not in alone
    assert not (bucket.directory / "fast.safetensors").exists()
    code, resumed, said = train(*flags, "--ray", "yes", capsys=capsys)
    assert code == 0 and "epoch 3/" not in said and f"epoch {EPOCHS}/" in said, (by_ray, alone, said)
    assert resumed["dice"] == line["dice"]
    undisturbed, after_kill = Path(line["model"]), bucket.directory / "fast.safetensors"
    assert weights(undisturbed) == weights(after_kill)
    kept = sorted(path.name for path in bucket.directory.glob("_checkpoints/fast-*/epoch-*"))
    assert kept[-2:] == [f"epoch-{EPOCHS - 1:05d}", f"epoch-{EPOCHS:05d}"]


def weights(path: Path) -> dict[str, bytes]:
    state = load_model(path.read_bytes(), path.name).network.state_dict()
    return {name: values.numpy().tobytes() for name, values in state.items()}


def check_model_and_tracking(here: Path, line: dict) -> None:
    model = load_model(Path(line["model"]).read_bytes(), "fast")
    assert model.digest == line["digest"] and model.preset.name == "fast"
    assert model.meta["best_epoch"] in VALIDATED and model.meta["epochs"] == EPOCHS
    assert len(model.meta["training_patients"]) == 4 and len(model.meta["held_out_patients"]) == 2
    tracker = Tracker()
    (run,) = tracker.client.search_runs([tracker.client.get_experiment_by_name("bts").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["layers.widths"] == "(8, 16)"
    assert [p.step for p in tracker.client.get_metric_history(run.info.run_id, "loss")] == [*range(1, 11)]
    assert [p.step for p in tracker.client.get_metric_history(run.info.run_id, "dice/WT")] == VALIDATED
    artifacts = {f.path for f in tracker.client.list_artifacts(run.info.run_id) if not f.is_dir}
    shown = {f"{patient}-000-triptych.png" for patient in model.meta["held_out_patients"]}
    assert artifacts == {"curves.png", "classes.png", *shown}
    assert {path.name for path in here.glob("models/_pictures/fast/*")} == artifacts
    assert Tracker().read("models:/fast@champion") == Path(line["model"]).read_bytes()
    tags = tracker.client.get_model_version("fast", "1").tags
    assert {tags[name] for name in ("digest", "data", "commit")} == {
        line["digest"], model.meta["data"], model.meta["commit"],
    }  # fmt: skip
    assert list(here.glob("mlartifacts/*"))


@pytest.mark.slow
def test_two_workers_survive_the_death_of_one(shard_folder, here, ray_local, capsys):
    flags = ["--shards", shard_folder, "--models", "models", "--workers", 2, "--name", "two", *TINY]
    killed = threading.Event()
    killer = threading.Thread(target=kill_a_worker_after_the_first_epoch, args=(here / "models", killed))
    killer.start()
    code, line, said = train(*flags, "--budget.epochs", 12, capsys=capsys)
    killer.join()  # or it might kill the next test's worker
    assert killed.is_set()
    assert code == 0 and line["epochs"] == 12 and "epoch 12/12" in said
    assert load_model((here / "models/two.safetensors").read_bytes(), "two").meta["epochs"] == 12


def kill_a_worker_after_the_first_epoch(models: Path, killed: threading.Event, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = list(models.glob("_checkpoints/two-*/checkpoint_manager_snapshot.json"))
        if begun and kill_a_worker(os.getpid(), ("ray::RayTrainWorker",)):
            killed.set()
            return
        time.sleep(0.05)
