"""jobs.promote as an operator meets it, on MLflow's own database: who becomes champion, and why not."""

import json

import numpy as np
import pytest

from bts.labels import REGIONS
from bts.model.header import digest
from bts.scoring import tables
from bts.scoring.scores import Scored
from bts.storage import Store
from bts.tracking import Tracker
from jobs import promote
from jobs.driver.outcome import guarded
from tests.builders import tiny_model

RNG = np.random.default_rng(0)
NOISE = RNG.normal(0, 0.03, 40)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    return Tracker(f"sqlite:///{tmp_path_factory.mktemp('promote')}/mlflow.db")


@pytest.fixture
def registry(tracker, monkeypatch, request) -> tuple[str, list[bytes]]:
    """A registered name of this test's own and the files of its versions 1, the champion, and 2."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    name = request.node.name.replace("[", "-").replace("]", "").replace(" ", "-")
    files = [tiny_model(n, of=name, training_patients=[f"p{n}"]) for n in (1, 2)]
    for number, data in enumerate(files, start=1):
        run_id = tracker.start(name, f"{name}{number}", {}, {})
        assert tracker.register(run_id, name, data, digest(data)) == str(number)
    return name, files


def champion(tracker: Tracker, name: str) -> str:
    return tracker.version(f"models:/{name}@champion").number


def patient_of(n: int) -> str:
    return f"p{n}"


def report(
    folder, model: bytes, dice: float, *, cases=range(10, 30), options="", truth_ml=40.0, rules=""
) -> str:
    """A report's folder with scores near `dice` and HD95 near 100 × (1 − dice)."""
    scored = []
    for n in cases:
        value = float(np.clip(dice + NOISE[n], 0, 1))
        of = {"dice": value, "hd95": 100 * (1 - value)}
        scores = {region: of for region in REGIONS}
        maker, truth = f"{digest(model)}{options}", {"WT": truth_ml}
        known = {"truth_ml": truth, "rules": rules}
        scored.append(Scored(f"case{n}", "", "brats2021", scores, patient_of(n), maker, **known))
    Store(folder).put("scores.parquet", tables.write(scored)["scores.parquet"])
    return str(folder)


def run(capsys, model: str, *on: str, **flags) -> tuple[int, dict, str]:
    """(exit code, last line, all that was said)."""
    settings = promote.Settings(model, on, **flags)
    code = guarded("promote", lambda: promote.main(settings))
    said = capsys.readouterr()
    return code, json.loads(said.out.splitlines()[-1]) if code == 0 else {}, said.out + said.err


@pytest.mark.parametrize("metric", ["dice", "hd95"])
def test_a_better_model_becomes_champion(tracker, registry, tmp_path, capsys, metric):
    name, (old, new) = registry
    better, worse = report(tmp_path / "b", new, 0.8), report(tmp_path / "w", old, 0.7)
    code, line, said = run(capsys, f"models:/{name}/2", worse, better, metric=metric)
    assert code == 0 and line["promoted"] and (line["n"], line["better"]) == (20, 20) and line["p"] < 0.001
    assert line["difference"] == pytest.approx(-10 if metric == "hd95" else 0.1)
    assert champion(tracker, name) == "2" and tracker.read(f"models:/{name}@champion") == new
    tags = tracker.client.get_model_version(name, "2").tags
    assert "better in 20 and worse in 0 of 20 cases" in tags["promoted.champion"]
    assert said.splitlines()[0].startswith(f"models:/{name}/2 is now champion: mean {metric} ")
    code, line, said = run(capsys, f"models:/{name}@champion", worse, better)
    assert code == 0 and not line["promoted"] and "it is the champion" in said


def test_a_model_that_is_not_better_does_not(tracker, registry, tmp_path, capsys):
    name, (old, new) = registry
    of_old, worse = report(tmp_path / "o", old, 0.7), report(tmp_path / "w", new, 0.6)
    code, line, said = run(capsys, f"models:/{name}/2", worse, of_old)
    assert code == 0 and line["promoted"] is False and "the mean is not better" in line["why"]
    assert f"models:/{name}/2 does not become champion" in said and "dice 0.59" in said
    Store(tmp_path / "w").put("scores.parquet", mixed(new))
    code, line, said = run(capsys, f"models:/{name}/2", worse, of_old)
    assert code == 0 and line["promoted"] is False and line["difference"] > 0 and line["p"] > 0.05
    assert "not below 0.05" in said and champion(tracker, name) == "1"
    assert run(capsys, f"models:/{name}/2", worse, of_old, p_value=0.99)[1]["promoted"]


def test_cases_that_one_of_the_two_lacks_are_said(tracker, registry, tmp_path, capsys):
    """A candidate that fails on the hard cases looks better than it is."""
    name, (old, new) = registry
    of_new, of_old = report(tmp_path / "n", new, 0.8, cases=range(10, 24)), report(tmp_path / "o", old, 0.7)
    code, line, said = run(capsys, f"models:/{name}/2", of_new, of_old)
    assert code == 0 and line["n"] == 14
    assert f"6 cases left out, scored for models:/{name}/1 alone, not for models:/{name}/2" in said


def test_visits_of_one_patient_are_no_patients_of_their_own(tracker, registry, tmp_path, capsys, monkeypatch):
    """20 cases, but of four patients: nothing is decided. Of ten, p is that of ten."""
    name, (old, new) = registry
    for patients, code in ((4, 2), (10, 0)):
        monkeypatch.setattr(f"{__name__}.patient_of", lambda n, patients=patients: f"p{10 + n % patients}")
        on = report(tmp_path / "n", new, 0.8), report(tmp_path / "o", old, 0.7)
        found, line, said = run(capsys, f"models:/{name}/2", *on)
        assert found == code
        if code:
            assert "20 of them of 4 patients that neither was trained on or chose by; 6 patients are" in said
        else:
            assert line["promoted"] and line["n"] == 20 and line["p"] == pytest.approx(2 / 2**10)


def test_scores_against_other_truths_say_nothing(tracker, registry, tmp_path, capsys):
    name, (old, new) = registry
    of_new, of_old = report(tmp_path / "n", new, 0.8), report(tmp_path / "o", old, 0.7, truth_ml=90.0)
    code, _, said = run(capsys, f"models:/{name}/2", of_new, of_old)
    assert code == 2 and "the ground truth of case case10 differs (WT 40.000 and 90.000 ml)" in said
    again = report(tmp_path / "a", new, 0.6)
    code, _, said = run(capsys, f"models:/{name}/2", of_new, again, report(tmp_path / "o", old, 0.7))
    assert code == 2 and "case10 has two different scores" in said and champion(tracker, name) == "1"


def test_scores_by_the_rules_of_different_years_say_nothing(tracker, registry, tmp_path, capsys):
    name, (old, new) = registry
    of_new = report(tmp_path / "n", new, 0.8, rules="2026")
    of_old = report(tmp_path / "o", old, 0.7, rules="2023")
    code, _, said = run(capsys, f"models:/{name}/2", of_new, of_old)
    assert code == 2 and "case10 was scored by the rules of BraTS 2026 and 2023" in said


def mixed(model: bytes) -> bytes:
    """Better by far in one case, a little worse or better in others."""
    values = 0.7 + NOISE[10:30] + np.resize([0.01, -0.01], 20)
    values[0] += 0.2
    scored = [
        Scored(f"case{n}", "", "brats2021", {r: {"dice": v} for r in REGIONS}, f"p{n}", digest(model))
        for n, v in zip(range(10, 30), values.tolist(), strict=True)
    ]
    return tables.write(scored)["scores.parquet"]


def test_without_a_champion_there_is_nothing_to_beat(tracker, registry, capsys):
    name, _ = registry
    code, line, said = run(capsys, f"models:/{name}/2", if_better_than="clinic", alias="clinic")
    assert code == 0 and line["promoted"] and f"no version of {name} was clinic" in said
    assert tracker.version(f"models:/{name}@clinic").number == "2" and champion(tracker, name) == "1"


def test_a_model_is_named_by_its_file_too(tracker, registry, tmp_path, capsys):
    name, (old, new) = registry
    (tmp_path / "new.safetensors").write_bytes(new)
    scores = report(tmp_path / "b", new, 0.8), f"{report(tmp_path / 'w', old, 0.7)}/scores.parquet"
    code, line, _ = run(capsys, str(tmp_path / "new.safetensors"), *scores)
    assert code == 0 and line["promoted"] and line["model"] == f"models:/{name}/2"


def test_cases_of_the_training_do_not_count(tracker, registry, tmp_path, capsys):
    """Of the cases 0 to 8 the patients p1 and p2 were trained on, by one model each."""
    name, (old, new) = registry
    scores = report(tmp_path / "b", new, 0.8, cases=range(9)), report(tmp_path / "w", old, 0.7)
    Store(tmp_path / "w").delete("scores.parquet")
    report(tmp_path / "w", old, 0.7, cases=range(9))
    code, line, said = run(capsys, f"models:/{name}/2", *scores)
    assert code == 0 and line["n"] == 7 and "2 of 9 common cases were used in training" in said


@pytest.mark.parametrize(
    ("provenance", "left"),
    [
        ({"epochs": 30}, 18),
        ({"epochs": 1}, 20),
        ({"epochs": 1, "sweep": "0123"}, 18),
    ],
    ids=["best of 30 epochs", "one validation", "best of a sweep"],
)
def test_patients_that_chose_the_weights_do_not_count(
    tracker, tmp_path, capsys, monkeypatch, provenance, left
):
    """The old model was validated by the patients P10 and P11, of cases 10 and 11; the new one by none."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    name = f"chosen-{left}-{len(provenance)}-{provenance['epochs']}"
    old = tiny_model(1, of=name, held_out_patients=["P10", "P11"], **provenance)
    new = tiny_model(2, of=name)
    for number, data in enumerate((old, new), start=1):
        tracker.register(tracker.start(name, f"{name}{number}", {}, {}), name, data, digest(data))
    scores = report(tmp_path / "b", new, 0.8), report(tmp_path / "w", old, 0.7)
    code, line, said = run(capsys, f"models:/{name}/2", *scores)
    assert code == 0 and line["n"] == left
    assert ("2 of 20 common cases chose the epoch that was kept: left out" in said) == (left == 18)


def test_what_cannot_be_compared_is_a_mistake(tracker, registry, tmp_path, capsys):
    name, (old, new) = registry
    ours, theirs = report(tmp_path / "b", new, 0.8), report(tmp_path / "w", old, 0.7)
    flipped = report(tmp_path / "f", old, 0.7, options=" flips")
    few, others = (report(tmp_path / f"{n}", old, 0.7, cases=n) for n in (range(10, 15), range(30, 40)))
    (tmp_path / "other.safetensors").write_bytes(tiny_model(3))
    Store(tmp_path / "text").put("scores.parquet", b"no Parquet")
    two = f"models:/{name}/2"
    for model, on, what, flags in (
        ("models:/none/1", (ours, theirs), "models:/none/1: not found", {}),
        ("models:/none", (ours, theirs), "models:/NAME@ALIAS or models:/NAME/VERSION", {}),
        (str(tmp_path / "other.safetensors"), (ours, theirs), "no version registered", {}),
        (str(tmp_path / "no.safetensors"), (ours, theirs), "no.safetensors: cannot be read", {}),
        (two, (), f"no scores of {two}", {}),
        (two, (ours,), f"no scores of models:/{name}/1", {}),
        (two, (ours, few), "too few cases: 5", {}),
        (two, (ours, others), "too few cases: 0", {}),
        (two, (ours, flipped), "different options (--flips and none)", {}),
        (two, (ours, str(tmp_path)), "scores.parquet: cannot be read", {}),
        (two, (ours, str(tmp_path / "text")), "no scores.parquet of jobs.evaluate", {}),
        (two, (ours, theirs), "not every case has been scored", {"metric": "nsd1"}),
        (two, (ours, theirs), "--p-value 5", {"p_value": 5}),
    ):
        code, _, said = run(capsys, model, *on, **flags)
        assert code == 2 and what in said and len(said.splitlines()) == 1, (what, said)
    assert champion(tracker, name) == "1"
