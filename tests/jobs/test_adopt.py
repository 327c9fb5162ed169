"""jobs.adopt, then the whole chain with an adopted model: Ray, the registry, a page, promote's questions."""

from pathlib import Path

import pytest

from bts.model.header import digest
from bts.phantom.case import write_case
from bts.results.marker import Marker
from bts.storage import Store
from bts.tracking import Tracker
from jobs import adopt, evaluate, promote, segment
from tests import builders, nnunet_folders
from tests.jobs.test_promote import report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """(tracker's URI, counts of jobs.adopt, folder of two cases); the model is registered as `theirs`."""
    place = tmp_path_factory.mktemp("adopted")
    cases = Store(place / "cases")
    for index in range(2):
        builders.put_all(cases, write_case(4, index, (48, 56, 40)))
    folder = nnunet_folders.write(place / "trained", regions=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
        settings = adopt.Settings(source=str(folder), models=str(place / "models"), name="theirs")
        counts = adopt.main(settings).counts
        assert adopt.main(settings).counts == counts, "a second time nothing is new"
    return f"sqlite:///{place}/mlflow.db", counts, cases.uri


def test_ray_over_a_bucket_and_this_process_give_the_same(
    ray_local, bucket, registered, tmp_path, monkeypatch
):
    uri, counts, cases = registered
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    local, remote = Store(cases), Store(f"{bucket.uri}/cases")
    builders.put_all(remote, {entry.key: local.read(entry.key) for entry in local.list()})
    Store(f"{bucket.uri}/models").put("theirs.safetensors", Path(counts["model"]).read_bytes())
    for ray, place, model, output in (
        ("yes", remote.uri, f"{bucket.uri}/models/theirs.safetensors", f"{bucket.uri}/labelmaps"),
        ("no", cases, "models:/theirs@champion", str(tmp_path / "no")),
    ):
        outcome = segment.main(segment.Settings(cases=place, labelmaps=output, model=(model,), ray=ray))
        assert not outcome.failed and outcome.counts["written"] == 2
    by_ray, here = (
        builders.results(Store(of), ".nii.gz") for of in (f"{bucket.uri}/labelmaps", tmp_path / "no")
    )
    assert by_ray == here and len(here) == 2
    (key, _) = [e.key for e in Store(tmp_path / "no").list("_done")]
    said = Marker.from_json(Store(tmp_path / "no").read(key)).models
    assert said == (
        {"name": "models:/theirs@champion", "digest": counts["digest"], "preset": "theirs", "kind": "nnunet"},
    )


def test_an_ensemble_with_ours_has_its_page(registered, tmp_path, model):
    _, counts, cases = registered
    labelmaps = str(tmp_path / "labelmaps")
    both = (counts["model"], model)
    how = {"probabilities": True, "hold_flagged": False, "ray": "no"}
    outcome = segment.main(segment.Settings(cases=cases, labelmaps=labelmaps, model=both, **how))
    assert not outcome.failed and outcome.counts["written"] == 2
    assert len(Store(labelmaps).list("_probabilities")) == 2 * 3
    again = segment.main(segment.Settings(cases=cases, labelmaps=labelmaps, model=both, **how))
    assert again.counts["unchanged"] == 2
    report = str(tmp_path / "report")
    evaluate.main(evaluate.Settings(labelmaps=labelmaps, cases=cases, report=report, ray="no"))
    assert counts["digest"] in Store(report).read("index.html").decode()


def test_promote_compares_it_as_any_model(registered, tmp_path, monkeypatch, capsys):
    """It is told by the digest of its file; what it was trained on, nobody knows."""
    uri, counts, _ = registered
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracker, ours = Tracker(uri), builders.tiny_model(training_patients=["p1"])
    run = tracker.start("second", "second", {}, {})
    tracker.register(run, "theirs", ours, digest(ours))
    on = (
        report(tmp_path / "theirs", Path(counts["model"]).read_bytes(), 0.7),
        report(tmp_path / "ours", ours, 0.8),
    )
    settings = promote.Settings(model="models:/theirs/2", on=on)
    assert promote.main(settings).counts["promoted"]
    assert "models:/theirs/1: does not tell what it was trained on" in capsys.readouterr().err
    back = promote.Settings(model=counts["model"], on=on)
    assert (
        not promote.main(back).counts["promoted"] and tracker.version("models:/theirs@champion").number == "2"
    )
