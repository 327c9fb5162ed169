"""preprocess and segment as commands: from a folder and from a bucket, again, after changes and kills."""

import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

from bts.cases.layouts import find_cases
from bts.storage import Store
from jobs import preprocess, segment
from jobs.driver.here import UseRay
from jobs.driver.outcome import Outcome
from tests import builders
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def write_cases(uri: str) -> dict[str, bytes]:
    """Three good cases of two years and two orientations, one bad one, one file that is no case."""
    files = builders.case_files("BraTS2021_00001", names=builders.NAMES_2021, enhancing=4, seed=1)
    files |= builders.case_files("BraTS-SSA-00002-000", matrix=builders.affine("RAS"), seed=2)
    files |= builders.case_files("hospital 3", names=builders.NAMES_2021, truth=False, seed=3)
    bad = builders.case_files("BraTS2021_00009", names=builders.NAMES_2021, enhancing=4, seed=4)
    bad["BraTS2021_00009/BraTS2021_00009_t2.nii.gz"] = b"\x1f\x8b rubbish"
    builders.put_all(Store(uri), {**files, **bad, "readme.txt": b"not a case"})
    return files


def keys(uri: str, suffix: str) -> list[str]:
    return [e.key for e in Store(uri).list() if e.key.endswith(suffix)]


def pixels_of(uri: str) -> dict[str, list]:
    """Rows of every shard by case, without names that carry the store's own versions."""
    store = Store(uri)
    return {
        k.split(".")[0]: pq.read_table(io.BytesIO(store.read(k))).to_pylist() for k in keys(uri, ".parquet")
    }


def preprocess_all(cases: str, shards: str, **flags) -> Outcome:
    return preprocess.main(preprocess.Settings(cases, shards, **flags))


def segment_all(cases: str, model: str, labelmaps: str, **options) -> Outcome:
    return segment.main(segment.Settings(cases, labelmaps, (model,), **options))


def test_the_same_from_a_folder_and_from_a_bucket(ray_local, bucket, tmp_path, model, capsys):
    """In this process and by Ray."""
    results = []
    ways: dict[str, UseRay] = {str(tmp_path): "no", bucket.uri: "yes"}
    for root, ray in ways.items():
        cases, shards, labelmaps = (f"{root}/{name}" for name in ("cases", "shards", "labelmaps"))
        files = write_cases(cases)
        first = preprocess_all(cases, shards, ray=ray)
        assert (first.exit_code, first.counts["written"]) == (3, 3)
        assert [(f.case_id, f.stage) for f in first.failed] == [("BraTS2021_00009", "read")]
        assert "BraTS2021_00009_t2.nii.gz" in first.failed[0].message
        said = capsys.readouterr()
        assert "readme.txt" in said.err
        done = segment_all(cases, model, labelmaps, ray=ray)
        assert (done.exit_code, done.counts["written"], len(done.failed)) == (3, 3, 1)
        where = r"segment: 4/4 cases, 1 failed, [\d.]+/s"
        where += r", 0 s left, [\d.]+ of 2 CPUs taken" if ray == "yes" else ""
        said_later = capsys.readouterr()
        assert re.search(where, said_later.err)
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in "".join((*said, *said_later))
        store = Store(labelmaps)
        assert not holding(os.environ["AWS_SECRET_ACCESS_KEY"].encode(), root)
        results.append((pixels_of(shards), {k: store.read(k) for k in keys(labelmaps, ".nii.gz")}))
        check_grids(files, results[-1][1])
    assert results[0] == results[1] and len(results[0][0]) == len(results[0][1]) == 3


def holding(secret: bytes, root: str) -> list[str]:
    """Of a folder's files those that hold it."""
    return [entry.key for entry in Store(root).list() if secret in Store(root).read(entry.key)]


def check_grids(files: dict[str, bytes], labelmaps: dict[str, bytes]) -> None:
    """Every labelmap lies on its source's grid and holds labels of its convention alone."""
    allowed = {
        "BraTS2021_00001": {0, 1, 2, 4},
        "BraTS-SSA-00002-000": {0, 1, 2, 3},
        "hospital 3": {0, 1, 2, 3},
    }
    for key, data in labelmaps.items():
        case = key.removesuffix(".nii.gz")
        image = nib.Nifti1Image.from_bytes(gzip.decompress(data))
        (t1,) = [v for k, v in files.items() if k.startswith(f"{case}/") and k[:-7].endswith(("_t1", "-t1n"))]
        source = nib.Nifti1Image.from_bytes(gzip.decompress(t1))
        assert image.shape == source.shape and np.array_equal(image.affine, source.affine)
        assert image.header.get_zooms() == source.header.get_zooms()
        assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
        labels = set(np.unique(np.asarray(image.dataobj)).tolist())
        assert labels <= allowed[case] and len(labels) > 1


def test_again_does_nothing_and_a_change_redoes_its_case_alone(tmp_path, model, capsys):
    cases, shards, labelmaps = (str(tmp_path / name) for name in ("cases", "shards", "labelmaps"))
    builders.put_all(Store(cases), builders.case_files("BraTS-SSA-00001-000", seed=1))
    builders.put_all(Store(cases), builders.case_files("BraTS-SSA-00002-000", seed=2))
    for job in (lambda: preprocess_all(cases, shards), lambda: segment_all(cases, model, labelmaps)):
        assert job().counts["written"] == 2
        capsys.readouterr()
        again = job()
        assert (again.exit_code, again.counts["written"], again.counts["unchanged"]) == (0, 0, 2)
        assert "nothing to do: no case is left to" in capsys.readouterr().err
    before = {e.key: e.version for uri in (shards, labelmaps) for e in Store(uri).list()}
    builders.put_all(Store(cases), builders.case_files("BraTS-SSA-00002-000", seed=5))
    for changed in (preprocess_all(cases, shards), segment_all(cases, model, labelmaps)):
        assert (changed.counts["written"], changed.counts["unchanged"]) == (1, 1)
    after = {e.key: e.version for uri in (shards, labelmaps) for e in Store(uri).list()}
    assert {k: v for k, v in before.items() if "00001" in k} == {
        k: v for k, v in after.items() if "00001" in k
    }
    # One shard and one marker a case: those that the change made stale are gone.
    assert len(keys(shards, ".parquet")) == 2 and len(keys(labelmaps, ".json")) == 2
    os.remove(f"{labelmaps}/BraTS-SSA-00001-000.nii.gz")
    assert segment_all(cases, model, labelmaps).counts["written"] == 1


def test_another_convention_can_be_asked_for(tmp_path, model):
    cases, labelmaps = str(tmp_path / "cases"), str(tmp_path / "labelmaps")
    builders.put_all(Store(cases), builders.case_files("BraTS-SSA-00001-000", seed=1))
    segment_all(cases, model, labelmaps)
    own = np.asarray(nib.load(f"{labelmaps}/BraTS-SSA-00001-000.nii.gz").dataobj)
    assert segment_all(cases, model, labelmaps, labels="msd").counts["written"] == 1
    asked = np.asarray(nib.load(f"{labelmaps}/BraTS-SSA-00001-000.nii.gz").dataobj)
    assert np.array_equal(asked, np.array([0, 2, 1, 3])[own]) and own.any()
    (marker,) = keys(labelmaps, ".json")
    assert json.loads(Store(labelmaps).read(marker))["labels"] == "msd"


def test_probabilities_are_written_where_they_are_asked_for(tmp_path, model):
    cases, labelmaps = str(tmp_path / "cases"), str(tmp_path / "labelmaps")
    names = ["BraTS-SSA-00001-000", "BraTS2021_00002"]
    builders.put_all(Store(cases), builders.case_files(names[0], matrix=builders.affine("RAS"), seed=1))
    builders.put_all(Store(cases), builders.case_files(names[1], names=builders.NAMES_2021, seed=2))
    assert segment_all(cases, model, labelmaps).counts["written"] == 2
    plain = [Store(labelmaps).read(f"{name}.nii.gz") for name in names]
    assert segment_all(cases, model, labelmaps, probabilities=True).counts["written"] == 2
    assert [Store(labelmaps).read(f"{name}.nii.gz") for name in names] == plain
    files = [f"_probabilities/{name}.{region}.nii.gz" for name in names for region in ("ET", "TC", "WT")]
    assert [e.key for e in Store(labelmaps).list("_probabilities")] == files
    for name in names:
        check_probabilities(labelmaps, name)
    # Neither asking for less nor for the same makes anything again; a lost file does.
    for asked in (False, True):
        assert segment_all(cases, model, labelmaps, probabilities=asked).counts["written"] == 0
    os.remove(f"{labelmaps}/{files[0]}")
    assert segment_all(cases, model, labelmaps).counts["written"] == 0
    assert segment_all(cases, model, labelmaps, probabilities=True).counts["written"] == 1
    # Those of an older scan do not outlive it.
    builders.put_all(Store(cases), builders.case_files(names[0], seed=5))
    assert segment_all(cases, model, labelmaps).counts["written"] == 1
    assert [e.key for e in Store(labelmaps).list("_probabilities")] == files[3:]
    assert len(keys(labelmaps, ".json")) == 2 + len(Store(labelmaps).list("_runs"))


def check_probabilities(labelmaps: str, name: str) -> None:
    """Bytes on the labelmap's grid, 128 or more of any region where there is a label."""
    labels = nib.load(f"{labelmaps}/{name}.nii.gz")
    images = [nib.load(f"{labelmaps}/_probabilities/{name}.{region}.nii.gz") for region in ("WT", "TC", "ET")]
    for image in images:
        assert image.get_data_dtype() == np.uint8 and image.dataobj.slope == 1
        assert image.shape == labels.shape and np.array_equal(image.affine, labels.affine)
    highest = np.max([np.asarray(image.dataobj) for image in images], axis=0)
    assert np.array_equal(highest >= 128, np.asarray(labels.dataobj) > 0) and (highest >= 128).any()


def test_a_marker_tells_the_dice_that_is_expected(tmp_path):
    """An untrained network, which is unsure, with figures of held-out cases that were sure and poor."""
    cases, labelmaps, model = (str(tmp_path / name) for name in ("cases", "labelmaps", "tiny.safetensors"))
    builders.put_all(Store(cases), builders.case_files("BraTS-SSA-00001-000", truth=False))
    known = {f"{figure}/{region}": of for region in ("WT", "TC") for figure, of in KNOWN.items()}
    Path(model).write_bytes(builders.tiny_model(validation=known))
    segment_all(cases, model, labelmaps)
    (entry,) = Store(labelmaps).list("_done")
    marker = json.loads(Store(labelmaps).read(entry.key))
    assert set(marker["expected_dice"]) == {"WT", "TC"}  # of ET nothing is known
    assert 0 <= marker["expected_dice"]["WT"] < 0.7
    assert any(flag.startswith("unsure: Dice of WT is expected to be 0.") for flag in marker["flags"])


def test_a_case_that_lacks_a_modality_is_segmented_where_that_is_allowed(tmp_path, model):
    cases, labelmaps = str(tmp_path / "cases"), str(tmp_path / "labelmaps")
    whole, lacking = (f"BraTS-SSA-0000{n}-000" for n in (1, 2))
    files = builders.case_files(lacking, seed=2)
    builders.put_all(Store(cases), {key: data for key, data in files.items() if "-t1n" not in key})
    builders.put_all(Store(cases), builders.case_files(whole, seed=1))
    first = segment_all(cases, model, labelmaps)
    assert (first.counts["written"], [case.case_id for case in first.failed]) == (1, [lacking])
    assert "--allow-missing" in first.failed[0].mend
    allowed = segment_all(cases, model, labelmaps, allow_missing=("t1", "t2"))
    assert (allowed.counts["written"], allowed.counts["unchanged"], allowed.failed) == (1, 1, [])
    (entry,) = (e for e in Store(labelmaps).list("_done") if lacking in e.key)
    marker = json.loads(Store(labelmaps).read(entry.key))
    assert marker["options"]["allow_missing"] == ["t1"]
    assert "missing: t1 was not there; the network saw nothing in its place" in marker["flags"]
    again = segment_all(cases, model, labelmaps, allow_missing=("t1",))
    assert (again.counts["written"], again.counts["unchanged"]) == (0, 2)


KNOWN = {"dice": 0.7, "agreement": 0.9}


def test_names_and_colours_lie_beside_the_labelmaps_once_a_convention(tmp_path, model):
    cases, labelmaps = str(tmp_path / "cases"), str(tmp_path / "labelmaps")
    builders.put_all(Store(cases), builders.case_files("BraTS-SSA-00001-000", truth=False))
    builders.put_all(
        Store(cases), builders.case_files("BraTS2021_00002", names=builders.NAMES_2021, truth=False)
    )
    segment_all(cases, model, labelmaps)
    expected = [f"_labels/{name}" for name in ("itksnap-brats2021.txt", "itksnap-brats2023.txt")]
    expected += [f"_labels/{name}" for name in ("slicer-brats2021.ctbl", "slicer-brats2023.ctbl")]
    assert [e.key for e in Store(labelmaps).list("_labels")] == expected
    assert not find_cases(Store(labelmaps).list("_labels")).strays


def test_killed_half_way_and_run_again(tmp_path, model):
    """SIGKILL of the driver: the next run makes what is missing and touches nothing that is whole."""
    cases, labelmaps = str(tmp_path / "cases"), str(tmp_path / "labelmaps")
    names = [f"BraTS-SSA-{n:05d}-000" for n in range(24)]
    for n, name in enumerate(names):
        builders.put_all(Store(cases), builders.case_files(name, seed=n % 3, truth=False))
    flags = ("--cases", cases, "--model", model, "--labelmaps", labelmaps)
    job = subprocess.Popen(
        [sys.executable, "-m", "jobs.segment", *flags], cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    end = time.monotonic() + 120
    while len(markers(labelmaps)) < 5 and time.monotonic() < end and job.poll() is None:
        time.sleep(0.002)
    job.send_signal(signal.SIGKILL)
    job.wait()
    before = settled(labelmaps)
    assert 5 <= len(before) < len(names)
    again = segment_all(cases, model, labelmaps, ray="no")
    assert (again.exit_code, again.failed) == (0, [])
    assert again.counts["written"] == len(names) - len(before)
    after = markers(labelmaps)
    assert len(after) == len(names) and all(after[key] == version for key, version in before.items())
    for name in names:
        assert nib.load(f"{labelmaps}/{name}.nii.gz").get_fdata().shape == (20, 24, 12)


def markers(labelmaps: str) -> dict[str, str]:
    return {e.key: e.version for e in Store(labelmaps).list("_done")}


def settled(labelmaps: str) -> dict[str, str]:
    """The markers once the killed run's last tasks have ended too."""
    before = markers(labelmaps)
    while True:
        time.sleep(3)
        now = markers(labelmaps)
        if now == before:
            return now
        before = now


def wrong(tmp_path, model: str) -> dict[str, tuple[list[str], int, str]]:
    """What a user may get wrong → (command, exit code, what the one line must say)."""
    cases = str(tmp_path / "cases")
    builders.put_all(Store(cases), builders.case_files("BraTS-SSA-00001-000"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_bytes(b"hello, I am no model")
    (tmp_path / "half.safetensors").write_bytes(Path(model).read_bytes()[:-100])
    out, empty = str(tmp_path / "out"), str(tmp_path / "empty")
    preprocess = ["preprocess", "--shards", out, "--cases"]
    segment = ["segment", "--cases", cases, "--labelmaps", out, "--model"]
    return {
        "missing bucket": ([*preprocess, "s3://no-such-bucket/x"], 1, "no-such-bucket"),
        "missing folder": ([*preprocess, str(tmp_path / "no")], 2, "no image is there; check the path"),
        "empty folder": ([*preprocess, empty], 2, "no case found"),
        "no such model": ([*segment, str(tmp_path / "no.safetensors")], 2, "no.safetensors"),
        "text for a model": ([*segment, str(tmp_path / "text.safetensors")], 2, "no .safetensors file"),
        "half a model": ([*segment, str(tmp_path / "half.safetensors")], 2, "half.safetensors"),
        "unknown preset": (["train", "nonsense", "--shards", empty, "--models", out], 2, "fast"),
        "no shards": (["train", "fast", "--shards", empty, "--models", out], 2, "empty"),
        "bad bound": ([*preprocess, cases, "--max-failed", "few"], 2, "few"),
        "unknown flag": ([*preprocess, cases, "--colour", "red"], 2, "colour"),
        "file for a folder": (["preprocess", "--cases", cases, "--shards", f"{model}/x"], 1, "cannot be"),
    }  # fmt: skip


def test_every_mistake_is_one_clear_line(run_here, s3, tmp_path, model):
    for what, (command, code, said) in wrong(tmp_path, model).items():
        run = run_here(*command)
        assert run.code == code, (what, run.stderr)
        assert said in run.stderr + run.stdout, (what, run.stderr)
        assert "Traceback" not in run.stderr, (what, run.stderr)


def test_a_full_disk_ends_the_run_in_one_line(run_job, tmp_path):
    cases, small = str(tmp_path / "cases"), tmp_path / "small"
    small.mkdir()
    builders.put_all(Store(cases), builders.case_files("BraTS-SSA-00001-000", shape=(64, 64, 64)))
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True
    ).returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    try:
        run = run_job("preprocess", "--cases", cases, "--shards", small)
    finally:
        subprocess.run(["umount", small], check=True)
    assert run.code == 1 and "No space left" in run.stderr and "Traceback" not in run.stderr
