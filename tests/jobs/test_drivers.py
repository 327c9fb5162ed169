"""--drivers N: what is submitted, what becomes of the reports. On a cluster: tests/faults/test_nodes.py."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bts import tracking
from bts.errors import Failure, UsageError
from bts.storage import Store
from bts.tracking import Version
from jobs import segment
from jobs.driver import drivers, flags
from jobs.driver.drivers import Driver

PLAIN = segment.Settings(cases="s3://b/cases", labelmaps="s3://b/labelmaps")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"model": ("a file.safetensors", "models:/fast@champion"), "overwrite": True, "predictors": 3},
        {"labels": "1=ET,2=NCR,4=ED", "allow_missing": ("t1", "t2"), "gpu_share": 0.5, "since": "7d"},
    ],
)
def test_a_submission_has_the_flags_of_the_command(given):
    settings = replace(PLAIN, **given)
    assert flags.parse(segment.Settings, "segment", "", drivers.flags_of(settings)) == settings


@pytest.fixture
def asked(monkeypatch, tmp_path) -> list[segment.Settings]:
    """Settings of what is submitted, from an empty folder without a registry; nothing is."""
    found = []
    monkeypatch.setattr(drivers, "connect", lambda _: None)
    monkeypatch.setattr(drivers, "run", lambda *args: found.append(args[2]))
    monkeypatch.setattr(segment.predicting, "share", lambda *_: 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return found


def test_the_drivers_of_a_command_find_its_relative_paths(asked, tmp_path):
    """They run in another folder."""
    (tmp_path / "a.safetensors").touch()
    models = ("a.safetensors", "models:/fast@champion", "box", "s3://b/c.safetensors")
    segment.main(segment.Settings("cases", "labelmaps", models, drivers=2))
    (each,) = asked
    assert (each.cases, each.labelmaps) == (f"{tmp_path}/cases", f"{tmp_path}/labelmaps")
    assert each.model == (f"{tmp_path}/a.safetensors", *models[1:])


def test_the_drivers_of_a_command_run_one_model_whatever_is_promoted_meanwhile(asked, monkeypatch):
    registry = SimpleNamespace(version=lambda uri: Version("fast", "7", "digest", "run"))
    monkeypatch.setattr(tracking, "Tracker", lambda: registry)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://registry")
    segment.main(replace(PLAIN, model=("models:/fast@champion", "models:/fast/1", "box"), drivers=2))
    assert asked[0].model == ("models:/fast/7", "models:/fast/1", "box")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"drivers": 0}, "give at least 1"),
        ({"drivers": 2, "part": "1/2"}, "does not go with --part"),
        ({"drivers": 2, "dry_run": True}, "does not go with --dry-run"),
        ({"drivers": 2, "ray": "no"}, "does not go with --ray no"),
    ],
)
def test_what_several_drivers_cannot_do_is_said(given, said):
    with pytest.raises(UsageError, match=said):
        segment.main(replace(PLAIN, **given))


def test_without_a_cluster_it_says_what_to_do(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match=r"no cluster.*ray job submit.*RAY_ADDRESS.*leave --drivers out"):
        segment.main(replace(PLAIN, drivers=4))


def over(part: str, code: int | None, logs: str = "", **counts) -> Driver:
    """A driver that has ended."""
    driver = Driver(part, f"raysubmit_{part[0]}")
    line = json.dumps({"job": "segment", **counts}) if counts else ""
    info = SimpleNamespace(status="FAILED" if code else "SUCCEEDED", driver_exit_code=code, message="killed")
    drivers.settle(driver, info, f"{logs}\n{line}\n", "segment")
    return driver


def joined(tmp_path, *ended: tuple[Driver, dict], max_failed="0"):
    return drivers.join(
        [one for one, _ in ended], [report for _, report in ended], Store(str(tmp_path)), max_failed
    )


def failure(case_id: str) -> dict:
    return Failure(case_id=case_id, stage="read", message=f"case {case_id}: bad").to_dict()


def test_reports_are_added_up_and_what_all_say_counts_once(tmp_path):
    same, models = failure("broken-pair"), [{"name": "box", "digest": "d"}]
    one = {"failed_cases": [same, failure("a")], "models": models, "flagged_cases": {"c": ["empty"]}}
    other = {"failed_cases": [same], "models": models, "flagged_cases": {"d": ["large"]}}
    found = joined(
        tmp_path,
        (over("1/2", 3, cases=5, unfit=2, written=3, seconds=9, failed=2), one),
        (over("2/2", 3, cases=4, unfit=2, written=3, seconds=8, failed=1), other),
    )
    assert found.counts == {"cases": 8, "unfit": 2, "written": 6, "drivers": 2, "died": 0}
    assert [case.case_id for case in found.failed] == ["broken-pair", "a"] and found.exit_code == 3
    assert found.details["models"] == models and found.details["flagged_cases"].keys() == {"c", "d"}
    assert replace(found, max_failed="2").exit_code == 0


def test_a_driver_that_dies_is_named_and_what_the_others_did_stands(tmp_path, capsys):
    well = over("1/3", 0, cases=2, written=2)
    killed, wrong = over("2/3", -9, "12 of 50 cases"), over("3/3", 2, "jobs.segment: --model x: no file")
    found = joined(tmp_path, (well, {}), (killed, {}), (wrong, {}))
    assert found.exit_code == 1 and found.counts == {"cases": 2, "written": 2, "drivers": 3, "died": 2}
    said = capsys.readouterr().err
    assert "driver 2/3 (raysubmit_2) did not come to its end (exit code -9): 12 of 50 cases" in said
    assert [one["exit_code"] for one in found.details["drivers"]] == [0, -9, 2]
    assert joined(tmp_path, (well, {}), (wrong, {})).exit_code == 2
    assert joined(tmp_path, (well, {})).exit_code == 0
