"""The four jobs by `ray job submit` to a cluster of one node, with a bucket as the only shared thing."""

import nibabel as nib
import pytest

from bts import phantom
from bts.storage import Store
from tests.clusters import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TINY = ("--layers.widths", "4", "8", "--size", "64", "64", "--batch", "4", "--budget.epochs", "1")


@pytest.fixture
def cluster(s3, tmp_path):
    cluster = Cluster(tmp_path)
    try:
        cluster.start_head(cpus=2)
        yield cluster
    finally:
        cluster.stop()


def test_the_chain_submitted_to_a_cluster(cluster, bucket):
    cases, shards, models = (f"{bucket.uri}/{name}" for name in ("cases", "shards", "models"))
    for index in range(6):
        for key, data in phantom.write_case(3, index, (64, 64, 48)).items():
            Store(cases).put(key, data)
    assert cluster.run("preprocess", "--cases", cases, "--shards", shards)["written"] == 6
    trained = cluster.run("train", "fast", "--shards", shards, "--models", models, *TINY)
    assert trained["epochs"] == 1 and set(trained["dice"]) == {"WT", "TC", "ET"}
    labelmaps, report = f"{bucket.uri}/labelmaps", f"{bucket.uri}/report"
    model = f"{models}/fast.safetensors"
    flags = ("--cases", cases, "--model", model, "--labelmaps", labelmaps)
    assert cluster.run("segment", *flags)["written"] == 6
    assert cluster.run("segment", *flags)["unchanged"] == 6
    scored = cluster.run("evaluate", "--labelmaps", labelmaps, "--cases", cases, "--report", report)
    assert scored["scored"] == 6 and Store(report).exists("index.html")
    name = next(e.key for e in Store(labelmaps).list() if e.key.endswith(".nii.gz"))
    assert nib.load(bucket.directory / "labelmaps" / name).shape == (64, 64, 48)
