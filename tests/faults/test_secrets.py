"""Credentials of the bucket appear nowhere: not in messages, reports, results or MLflow, whatever happens."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bts.phantom.case import write_case
from bts.storage import Store
from jobs import evaluate, preprocess, segment, train
from jobs.driver.outcome import guarded
from tests import builders

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
CANARY = "c4nary-0f-th3-buck3t"
EPOCH = ("--budget.epochs", "1", "--ray", "yes")
TINY = ("--size", "32", "32", "--batch", "8", "--layers.widths", "8", "16", "--budget.minutes", "None")


def check_unseen(secrets: list[str], *texts: str | bytes) -> None:
    for text in texts:
        text = text if isinstance(text, bytes) else text.encode()
        for secret in secrets:
            assert secret.encode() not in text, text[:2000]


def test_no_job_tells_its_credentials(ray_local, bucket, run_job, tmp_path, monkeypatch, capfd):
    """All four jobs with the right keys, then as commands with a canary that the store refuses. Of preprocess
    and segment by Ray test_chain.py tells the same."""
    cases, shards, models, labelmaps, report = (
        f"{bucket.uri}/{name}" for name in ("cases", "shards", "models", "labelmaps", "report")
    )
    for index in range(6):
        builders.put_all(Store(cases), write_case(0, index, (40, 40, 24)))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    model = f"{models}/fast.safetensors"
    jobs = {
        "preprocess": ("--cases", cases, "--shards", shards),
        "train": ("fast", "--shards", shards, "--models", models, *TINY, *EPOCH),
        "segment": ("--cases", cases, "--model", model, "--labelmaps", labelmaps),
        "evaluate": ("--cases", cases, "--labelmaps", labelmaps, "--report", report),
    }
    secrets = [os.environ["AWS_SECRET_ACCESS_KEY"]]
    right = [
        guarded("preprocess", lambda: preprocess.main(preprocess.Settings(cases, shards, ray="no"))),
        train.cli(list(jobs["train"])),
        guarded(
            "segment", lambda: segment.main(segment.Settings(cases, labelmaps, (model,), limit=1, ray="no"))
        ),
        guarded("evaluate", lambda: evaluate.main(evaluate.Settings(labelmaps, cases, report, ray="yes"))),
    ]
    said = capfd.readouterr()
    assert right == [0, 0, 0, 0], said.err
    check_unseen(secrets, said.out, said.err)
    for entry in Store(bucket.uri).list():
        check_unseen(secrets, Store(bucket.uri).read(entry.key))
    check_unseen(secrets, *(path.read_bytes() for path in Path(tmp_path).rglob("*") if path.is_file()))
    wrong = {"AWS_SECRET_ACCESS_KEY": CANARY, "AWS_SESSION_TOKEN": CANARY}
    with ThreadPoolExecutor(2) as threads:
        tried = list(threads.map(lambda name: run_job(name, *jobs[name], env=wrong), jobs))
    for refused in tried:
        assert refused.code in (1, 2) and "Traceback" not in refused.stderr, refused.stderr
        check_unseen([*secrets, CANARY], refused.stdout, refused.stderr)
