"""A training that was cut off goes on with the shards that it began with, whatever preprocess did since."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bts.cases import worklist
from bts.cases.layouts import find_cases
from bts.errors import UsageError
from bts.presets import PRESETS
from bts.shards.catalogue import read_catalogue
from bts.shards.holds import held_keys, hold
from bts.storage import Store
from bts.training import pin
from jobs import preprocess, train
from jobs.driver import plans, training
from jobs.workers.shard import MakeShard
from tests import builders


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return builders.phantom_shards(tmp_path_factory.mktemp("pin"))


@pytest.fixture
def place(made, tmp_path) -> Path:
    """A folder of its own of cases and shards."""
    return Path(shutil.copytree(made.parent, tmp_path / "place"))


def begin(place: Path, **flags) -> tuple[train.Settings, str, train.Plan]:
    """The settings of a training, what it asks for, and the plan with which the command begins or goes on."""
    preset = replace(PRESETS["fast"], size=(32, 32), batch=8)
    settings = train.Settings(
        shards=str(place / "shards"), models=str(place / "models"), preset=preset, **flags
    )
    asked = pin.asked_for(preset, settings.fold, Store(settings.shards))
    return settings, asked, plans.read_plan(settings, "fast", pin.read(Store(settings.models), "fast", asked))


def preprocess_a_changed_scan(place: Path) -> tuple[str, str]:
    """(key of the shard that is superseded, key of its successor), by the task of jobs.preprocess."""
    cases, shards = Store(place / "cases"), Store(place / "shards")
    case = find_cases(cases.list()).cases[0]
    (older,) = (entry.key for entry in shards.list() if entry.key.startswith(case.id))
    MakeShard(cases, shards)(worklist.Todo(case, "f" * 12, (older,)).to_row())
    return older, f"{case.id}.{'f' * 12}.parquet"


def test_a_training_that_was_cut_off_goes_on_with_its_shards_and_a_new_one_takes_those_of_now(place, capsys):
    settings, asked, plan = begin(place)
    plans.keep_plan(settings, asked, plan)
    older, newer = preprocess_a_changed_scan(place)
    assert {older, newer} <= {entry.key for entry in Store(place / "shards").list()}
    assert older not in {shard.key for shard in read_catalogue(Store(place / "shards"))}

    capsys.readouterr()
    _, _, again = begin(place)
    assert (again.run, again.training, again.held_out) == (plan.run, plan.training, plan.held_out)
    said = capsys.readouterr().err
    assert re.search(r"going on with the training of 20.*6 shards .* 1 other left out .*--fresh", said)

    other = replace(settings, fold=1)
    assert pin.asked_for(other.preset, other.fold, Store(other.shards)) != asked
    plans.forget(settings, asked, plan.run)  # --fresh
    assert not held_keys(Store(place / "shards"))
    _, _, anew = begin(place)
    assert anew.run != plan.run and newer in anew.keys and older not in anew.keys


def test_fresh_takes_the_checkpoints_of_before_away(place):
    settings, asked, plan = begin(place)
    plans.keep_plan(settings, asked, plan)
    models = Store(settings.models)
    models.put(f"_checkpoints/fast-{plan.run}/epoch-00001/state.pt", b"")
    models.put("_checkpoints/fast-of-others/epoch-00001/state.pt", b"")
    plans.forget(settings, asked, plan.run)
    assert [entry.key for entry in models.list()] == ["_checkpoints/fast-of-others/epoch-00001/state.pt"]


def test_a_shard_that_nobody_holds_is_deleted_once_it_is_superseded(place):
    settings, asked, plan = begin(place)
    plans.keep_plan(settings, asked, plan)
    plans.let_go(settings, asked, plan.run)
    older, newer = preprocess_a_changed_scan(place)
    keys = {entry.key for entry in Store(place / "shards").list()}
    assert newer in keys and older not in keys


def test_a_shard_is_in_force_again_when_what_superseded_it_is_taken_back(tmp_path):
    """While a training holds the one, and another training the other."""
    cases, shards = Store(tmp_path / "cases"), Store(tmp_path / "shards")
    builders.put_all(cases, builders.case_files("BraTS-SSA-00001-000"))
    seen = []
    for run, labels in enumerate(("auto", "msd", "auto")):
        preprocess.main(preprocess.Settings(cases.uri, shards.uri, labels=labels, ray="no"))
        seen.append([shard.key for shard in read_catalogue(shards)])
        hold(shards, f"training{run}", seen[-1])
    assert seen[0] == seen[2] != seen[1] and len(shards.keys("_superseded")) == 1


def test_two_shards_of_a_case_without_a_training_are_refused_as_before(place):
    shards = Store(place / "shards")
    first = shards.list()[0].key
    shards.put(first.replace("0123456789ab", "f" * 12), shards.read(first))
    with pytest.raises(UsageError, match="has two shards"):
        read_catalogue(shards)


def test_a_pinned_shard_that_is_gone_is_named(place):
    settings, asked, plan = begin(place)
    plans.keep_plan(settings, asked, plan)
    Store(place / "shards").delete(plan.keys[0])
    with pytest.raises(UsageError, match="--fresh"):
        begin(place)


def test_too_few_gpus_for_the_workers_are_told(monkeypatch, capsys):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(training.ray, "cluster_resources", lambda: {"GPU": 3.0, "CPU": 8.0})
    assert not training.wants_gpu("auto", 4)
    assert "3 GPUs are fewer than 4 workers, so all train on the CPU; --workers 3" in capsys.readouterr().err
    assert training.wants_gpu("auto", 3) and not capsys.readouterr().err


def test_a_training_that_waits_for_nodes_says_so(monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(training.ray, "cluster_resources", lambda: {"CPU": 2.0})
    given = {"shards": "", "models": "", "preset": PRESETS["fast"]}
    training.scaling(train.Settings(**given, workers=2))
    assert not capsys.readouterr().err
    training.scaling(train.Settings(**given, workers=(3, 8)))
    training.scaling(train.Settings(**given, workers=1, gpu="yes"))
    said = capsys.readouterr().err
    assert "the cluster has 2 CPUs for 3 workers yet; the training waits for more" in said
    assert "0 GPUs for 1 workers" in said
