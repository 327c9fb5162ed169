"""Against a real `mlflow server`: scores join the run of the model, and decide which one is champion."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from bts.model.header import digest
from bts.storage import Store
from bts.tracking import Tracker
from jobs import evaluate, promote
from jobs.driver.outcome import guarded
from tests.builders import affine, nifti, tiny_model, voxels
from tests.servers import free_port, is_open

pytestmark = pytest.mark.slow

SHAPE, RAS = (40, 48, 24), affine("RAS")
TRUTH = voxels(shape=SHAPE)[1]
NAMES = [f"BraTS-GLI-{n:05}-000" for n in range(7)]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> str:
    """Address of a tracking server with a database and an artifact store of its own."""
    folder, port = tmp_path_factory.mktemp("mlflow-server"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    log = folder / "server.log"
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=env, cwd=folder)
        try:
            if not is_open(port, process, seconds=90):
                pytest.fail(f"the MLflow server did not start: {log.read_text()}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def labelmaps(folder, model: bytes, moved: int) -> str:
    """A folder as jobs.segment leaves it: labelmaps that miss the truth by so many voxels, and markers."""
    store = Store(folder)
    marker = {"labels": "brats2023", "models": [{"digest": digest(model)}], "options": {"flips": False}}
    for n, case in enumerate(NAMES):
        store.put(f"{case}.nii.gz", nifti(np.roll(TRUTH, moved + n % 2, axis=0), RAS))
        store.put(f"_done/{case}.0123456789ab.json", json.dumps(marker).encode())
    return str(folder)


def test_from_scores_to_champion(server, run_here, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    tracker, models = Tracker(), [tiny_model(1), tiny_model(2)]
    runs = [tracker.start("clinic", f"run{n}", {}, {"data": "d"}) for n in (1, 2)]
    for run_id, data in zip(runs, models, strict=True):
        tracker.register(run_id, "clinic", data, digest(data), {"data": "d"}, ("t1", "t1ce", "t2", "flair"))
        tracker.finish(run_id)
    for case in NAMES:
        Store(tmp_path / "cases").put(f"{case}/{case}-seg.nii.gz", nifti(TRUTH, RAS))
    for n, (data, moved) in enumerate(zip(models, (3, 0), strict=True), start=1):
        made, cases, report = (
            labelmaps(tmp_path / f"made{n}", data, moved),
            tmp_path / "cases",
            tmp_path / f"v{n}",
        )
        settings = evaluate.Settings(made, str(cases), str(report), ray="no")
        assert guarded("evaluate", lambda settings=settings: evaluate.main(settings)) == 0
        dice = json.loads(capsys.readouterr().out.splitlines()[-1])["dice"]
        logged = tracker.client.get_run(runs[n - 1])
        assert logged.data.metrics[f"evaluate/v{n}/dice/WT"] == pytest.approx(dice["WT"], abs=1e-4)
        assert f"evaluate/v{n}/lesion_hd95/ET" in logged.data.metrics and logged.info.status == "FINISHED"
        files = {f.path for f in tracker.client.list_artifacts(runs[n - 1], f"evaluate/v{n}")}
        shown = ("index.html", "best-case-truth.png", "worst-case-prediction.png")
        assert {f"evaluate/v{n}/{name}" for name in shown} <= files

    flags = ("--if-better-than", "champion", "--on", tmp_path / "v1", tmp_path / "v2")
    done = run_here("promote", "models:/clinic/2", *flags)
    assert done.code == 0 and done.summary["promoted"] and done.summary["n"] == 7, done.stderr
    assert tracker.version("models:/clinic@champion").number == "2"
    assert tracker.read("models:/clinic@champion") == models[1]
    for model, code, said in (("1", 0, "the mean is not better"), ("3", 2, "models:/clinic/3: not found")):
        settings = promote.Settings(f"models:/clinic/{model}", (str(tmp_path / "v1"), str(tmp_path / "v2")))
        assert guarded("promote", lambda settings=settings: promote.main(settings)) == code
        assert said in "".join(capsys.readouterr())
    assert tracker.version("models:/clinic@champion").number == "2"
