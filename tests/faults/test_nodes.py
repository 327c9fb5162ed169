"""A node of three is lost while a job runs: preprocess, segment and train end with the right result.

Three Ray nodes on this machine; the cases and results lie in a bucket, the only thing that they share.
"""

import os
import subprocess
import sys
import time

import pytest

from bts import phantom
from bts.model import load_model
from bts.storage import Store
from tests import builders
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CASES = 24
TINY = ("--size", "32", "32", "--batch", "8", "--layers.widths", "8", "16", "--budget.minutes", "None")


@pytest.fixture
def nodes(s3, monkeypatch):
    """A cluster of a head and two nodes, one CPU each; `nodes.lose()` kills one as a power cut would."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 256 << 20})
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=256 << 20)
    cluster.wait_for_nodes()
    try:
        yield cluster
    finally:
        cluster.shutdown()


def lose_a_node(cluster) -> None:
    """The last node that joined, without a farewell."""
    cluster.remove_node(sorted(cluster.worker_nodes, key=lambda node: node.node_id)[-1], allow_graceful=False)


def start(cluster, *flags: str) -> subprocess.Popen:
    """A job on the cluster."""
    env = {**os.environ, "RAY_ADDRESS": cluster.address}
    return subprocess.Popen([sys.executable, "-m", *flags], cwd=ROOT, env=env, text=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip


def wait_until(job: subprocess.Popen, there) -> None:
    while job.poll() is None and not there():
        time.sleep(0.05)


def test_preprocess_and_segment_survive_the_loss_of_a_node(nodes, bucket, model, tmp_path, run_job):
    cases, shards, labelmaps = (f"{bucket.uri}/{name}" for name in ("cases", "shards", "labelmaps"))
    for n in range(CASES):
        builders.put_all(Store(cases), builders.case_files(f"BraTS-SSA-{n:05d}-000", seed=n % 4))
    flags = {
        "jobs.preprocess": ("--shards", shards),
        "jobs.segment": ("--model", model, "--labelmaps", labelmaps),
    }
    for (job_name, more), output in zip(flags.items(), (shards, labelmaps), strict=True):
        job = start(nodes, job_name, "--cases", cases, *more)
        wait_until(job, lambda: len(Store(output).list()) >= 4)  # noqa: B023
        lose_a_node(nodes)
        said = job.communicate(timeout=240)[1]
        assert job.returncode == 0, said
        nodes.add_node(num_cpus=1, object_store_memory=256 << 20)
    alone = str(tmp_path / "alone")
    assert run_job("segment", "--cases", cases, "--model", model, "--labelmaps", alone).code == 0
    assert builders.results(Store(labelmaps), ".nii.gz") == builders.results(Store(alone), ".nii.gz")
    assert len(builders.results(Store(shards), ".parquet")) == CASES


def test_training_survives_the_loss_of_a_node(nodes, bucket, tmp_path, run_job, monkeypatch):
    cases, shards, models = (f"{bucket.uri}/{name}" for name in ("cases", "shards", "models"))
    for index in range(6):
        builders.put_all(Store(cases), phantom.write_case(0, index, (40, 40, 24)))
    assert run_job("preprocess", "--cases", cases, "--shards", shards).code == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    flags = ("--shards", shards, "--models", models, "--workers", "2", *TINY, "--budget.epochs", "20")
    job = start(nodes, "jobs.train", "fast", *flags)
    wait_until(job, lambda: any("epoch-00002" in e.key for e in Store(models).list("_checkpoints")))
    lose_a_node(nodes)
    said = job.communicate(timeout=300)[1]
    assert job.returncode == 0, said
    model_file = load_model(Store(models).read("fast.safetensors"), "fast")
    assert model_file.meta["epochs"] == 20
