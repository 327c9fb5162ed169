"""Jobs submitted to a cluster that loses a node, as in a power cut, or whose bucket is slow.

A head that computes nothing and two nodes on this machine; the bucket is the only thing that they share.
"""

import json
import re
import subprocess
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import psutil
import pytest

from bts.cases.worklist import part_of
from bts.model.file import load_model
from bts.phantom.study import make_study, write_nifti
from bts.storage import Store
from jobs import segment
from tests import builders
from tests.clusters import STORE, Cluster, outcome
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CASES, LARGE_CASES = 12, 21
STUDIES = 2
NAMES = [f"BraTS-SSA-{n:05d}-000" for n in range(CASES)]
LARGE = (128, 128, 96)  # 11 MB a case in four modalities of int16, without the background; predicted 10 MB
EPOCHS = 4
TINY = ("--size", "32", "32", "--batch", "8", "--layers.widths", "8", "16", "--budget.minutes", "None")


@pytest.fixture(scope="module")
def cluster(s3, tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start_head(cpus=0)
        for _ in range(2):
            cluster.add_node()
        yield cluster
    finally:
        cluster.stop()


def test_a_slow_writer_holds_the_readers_back(cluster, bucket, faults, model):
    """While the first two writes wait for 15 s, all others could be read and predicted. What the network says
    of them does not fit into the object stores of the two nodes at work, and nothing is spilled to disk."""
    predicted = (3 * 2 + 1) * np.prod([side - 5 for side in LARGE])  # probabilities of 16 bits, and a label
    assert LARGE_CASES * predicted > 1.2 * 2 * STORE
    cases, labelmaps = f"{bucket.uri}/cases", f"{bucket.uri}/labelmaps"
    put_large(Store(cases), [f"BraTS-SSA-{n:05d}-000" for n in range(LARGE_CASES)])
    with faults.inject("held", method="PUT", key=".nii.gz", times=2) as hits:
        flags = ("--cases", cases, "--model", model, "--labelmaps", labelmaps)
        job = cluster.submit("segment", *flags)
        total = f'ray_bts_cases{{.*job="segment".*state="total".*}} {LARGE_CASES}'
        figures = ""
        while job.poll() is None and not (re.search(total, figures) and asked_for() <= named_in(figures)):
            time.sleep(1)
            figures = cluster.figures()
        assert re.search(total, figures), figures[-3000:]
        assert asked_for() <= named_in(figures)
        assert outcome(job)["written"] == LARGE_CASES
        assert hits() == 2
    stores = cluster.memory()
    assert "Plasma memory usage" in stores and "Spilled" not in stores, stores


def test_a_training_is_read_for_on_the_node_of_its_worker(cluster, tmp_path):
    """What reads asks for no CPU, so that a scheduler may put it anywhere: on the head, too."""
    shards = builders.phantom_shards(tmp_path)
    address = {"RAY_ADDRESS": f"127.0.0.1:{cluster.port}", "PYTHONPATH": str(ROOT)}
    command = [cluster.bin / "python", "-m", "tests.faults.readers", str(shards)]
    done = subprocess.run(
        command, env=cluster.env | address, cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    node, read_on = json.loads(done.stdout.splitlines()[-1])
    assert read_on == [node]


def test_the_chain_loses_a_node_in_each_job(cluster, bucket, model, faults, tmp_path):
    """Each time one that is at work, in the middle of cases."""
    names = ("cases", "shards", "models", "labelmaps")
    cases, shards, models, labelmaps = (f"{bucket.uri}/{name}" for name in names)
    for n, name in enumerate(NAMES):
        builders.put_all(Store(cases), builders.case_files(name, seed=n % 4))

    with faults.inject("held", key=".nii.gz", times=0, after=10) as hits:
        job = cluster.start("preprocess", "--cases", cases, "--shards", shards)
        lose_a_node_once(lambda: hits() >= 3, "ray::MapBatches(MakeShard", job, cluster)
    assert outcome(job)["written"] == CASES
    assert len(builders.results(Store(shards), ".parquet")) == CASES

    flags = ("--shards", shards, "--models", models, "--workers", 2, *TINY, "--budget.epochs", EPOCHS)
    job = cluster.submit("train", "fast", *flags)
    kept = partial(holds_any, Store(models), "_checkpoints", "/epoch-00001/")
    lose_a_node_once(kept, "ray::RayTrainWorker", job, cluster)
    assert outcome(job)["epochs"] == EPOCHS
    assert load_model(Store(models).read("fast.safetensors"), "fast").meta["epochs"] == EPOCHS

    with faults.inject("held", method="PUT", key=".nii.gz", times=0, after=1) as hits:
        job = cluster.start("segment", "--cases", cases, "--model", model, "--labelmaps", labelmaps)
        lose_a_node_once(lambda: hits() >= 1, "ray::MapBatches(Write", job, cluster)
    assert outcome(job)["written"] == CASES
    assert len(Store(labelmaps).list("_done")) == CASES and not Store(labelmaps).list("_failed")
    alone = str(tmp_path / "alone")
    segment.main(segment.Settings(cases, alone, (model,), ray="no"))
    assert builders.results(Store(labelmaps), ".nii.gz") == builders.results(Store(alone), ".nii.gz")


def test_of_two_drivers_one_is_killed_and_the_other_does_its_part(cluster, bucket, model):
    cases, labelmaps = f"{bucket.uri}/cases", f"{bucket.uri}/labelmaps"
    names = NAMES[7:11]
    parts = [part_of(name, 2) for name in names]
    assert set(parts) == {1, 2}
    for name in names:
        builders.put_all(Store(cases), builders.case_files(name))
    flags = ("--cases", cases, "--model", model, "--labelmaps", labelmaps)
    job = cluster.submit("segment", *flags, "--drivers", 2)
    until(lambda: killed("--part", "2/2"), job)
    out, err = job.communicate(timeout=300)
    line = [json.loads(text) for text in out.splitlines() if text.startswith('{"job"')][-1]
    assert job.returncode and re.search(r"driver 2/2 \(raysubmit_\w+\) did not come to its end", out), (
        out + err
    )
    assert (line["written"], line["drivers"], line["died"]) == (parts.count(1), 2, 1)
    report = json.loads(Store(labelmaps).read(line["report"]))
    assert report["exit_code"] == 1 and [one["exit_code"] == 0 for one in report["drivers"]] == [True, False]
    again = segment.main(segment.Settings(cases, labelmaps, (model,), ray="no"))
    assert (again.counts["unchanged"], again.counts["written"]) == (parts.count(1), parts.count(2))


def holds_any(store: Store, prefix: str, part: str) -> bool:
    """Whether a key below the prefix has this part."""
    return any(part in entry.key for entry in store.list(prefix))


def killed(*last: str) -> bool:
    """SIGKILL the Python whose command line ends so; whether there is one."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if words[-len(last) :] == [*last] and "python" in words[0]:
            process.kill()
            return True
    return False


def test_intake_loses_a_node(cluster, bucket, faults):
    """In the middle of a study, which is done on the other; a case has its four images and one record."""
    pytest.importorskip("dcm2niix", reason="requirements-intake.txt is not installed")
    scans, cases = Store(f"{bucket.uri}/scans"), Store(f"{bucket.uri}/cases")
    for n in range(STUDIES):
        builders.put_all(scans, write_nifti(make_study(0, n, vendor="ge", size=(64, 64, 56), extras=False)))
    flags = ("--scans", scans.uri, "--cases", cases.uri, "--strip", "none", "--atlas", "none")
    with faults.inject("held", method="PUT", key=".nii.gz", times=0) as hits:
        job = cluster.start("intake", *flags)
        until(lambda: hits() >= STUDIES, job)
        cluster.lose(cluster.at_work("ray::MapBatches(MakeCase")[-1])
    assert outcome(job)["written"] == STUDIES
    assert len(cases.list("_done")) == STUDIES
    assert len([entry for entry in cases.list() if entry.key.startswith("Scan-")]) == 4 * STUDIES


def test_a_job_waits_for_a_gpu_and_takes_the_next_when_it_comes(cluster, bucket, model, faults):
    """Two nodes say, one after the other, that they have a GPU; the network runs on their CPUs."""
    cases, labelmaps = f"{bucket.uri}/cases", f"{bucket.uri}/labelmaps"
    for name in NAMES:
        builders.put_all(Store(cases), builders.case_files(name))
    flags = ("--cases", cases, "--model", model, "--labelmaps", labelmaps, "--gpu", "yes", "--predictors", 2)
    with faults.inject("held", key=".nii.gz", times=0):  # a pool that has no more to predict asks for no more
        job = cluster.start("segment", *flags)
        joined = [cluster.add_node(gpus=1)]
        until(lambda: predicting(cluster) >= 1, job, every=1)
        joined.append(cluster.add_node(gpus=1))
        until(lambda: predicting(cluster) >= 2, job, every=1)
    assert outcome(job)["written"] == CASES
    for node in joined:
        cluster.lose(node)


def predicting(cluster: Cluster) -> int:
    """Predicting actors that are up, as Prometheus is told."""
    waiting = ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "RESTARTING", "DEAD")
    lines = re.findall(r"^ray_actors\{(.*Predict.*)\} (\S+)", cluster.figures(), re.MULTILINE)
    return sum(int(float(count)) for labels, count in lines if not any(state in labels for state in waiting))


def put_large(cases: Store, names: list[str]) -> None:
    """The same images under many names."""
    files = builders.case_files(names[0], shape=LARGE, truth=False)
    for name in names:
        builders.put_all(cases, {key.replace(names[0], name): data for key, data in files.items()})


def until(there: Callable[[], bool], job: subprocess.Popen, every: float = 0.1) -> None:
    """Wait for it while the job runs; every: seconds between two looks."""
    while job.poll() is None and not there():
        time.sleep(every)
    assert job.poll() is None, f"the job was over before: {job.communicate()}"


def named_in(figures: str) -> set[str]:
    """The metrics among Prometheus's lines."""
    return set(re.findall(r"^(ray_\w+)", figures, re.MULTILINE))


def asked_for() -> set[str]:
    """What Grafana's dashboard asks Prometheus for; a GPU's are there where one is."""
    board = json.loads((ROOT / "kubernetes" / "grafana.json").read_text())
    asked = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    return set(re.findall(r"ray_\w+", asked)) - {"ray_node_gpus_utilization"}


def lose_a_node_once(there: Callable[[], bool], title: str, job: subprocess.Popen, cluster: Cluster) -> None:
    """Wait until `there()` is true, cut a node off that has a worker of that title, and give the cluster
    another."""
    until(lambda: there() and cluster.at_work(title), job)
    cluster.lose(cluster.at_work(title)[-1])
    cluster.add_node()
