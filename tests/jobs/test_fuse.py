"""jobs.fuse: folders of labelmaps, ours and another tool's, become one."""

import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from bts.errors import UsageError
from bts.inference.fusion import fuse as fused
from bts.storage import Store
from jobs import evaluate, fuse, segment, status
from tests import builders

CASES = ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000", "BraTS-GLI-00003-000")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Cases with ground truth; a: ours; b and c: another tool's, under its own names."""
    tmp_path = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    for seed, case in enumerate(CASES):
        builders.put_all(Store(tmp_path / "cases"), builders.case_files(case, seed=seed))
        truth = builders.voxels(seed)[1]
        for folder, ending in (("b", ".nii.gz"), ("c", "-seg.nii.gz")):
            values = np.where(rng.random(truth.shape) < 0.1, 0, truth).astype(np.uint8)
            Store(tmp_path / folder).put(case + ending, builders.nifti(values))
    (tmp_path / "tiny.safetensors").write_bytes(builders.tiny_model())
    where = {"cases": str(tmp_path / "cases"), "labelmaps": str(tmp_path / "a")}
    model = (str(tmp_path / "tiny.safetensors"),)
    segment.main(segment.Settings(**where, model=model, ray="no", gpu="no"))
    return tmp_path


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """The same, to work in."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(**flags):
    given = {"labelmaps": ("a", "b", "c"), "fused": "fused", "ray": "no"} | flags
    return fuse.main(fuse.Settings(**given))


def values(path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


@pytest.mark.parametrize("method", ["majority", "simple", "staple"])
def test_a_labelmap_of_each_case_with_its_marker(place, method):
    outcome = run(method=method)
    assert outcome.counts["written"] == 3 and not outcome.failed
    for case in CASES:
        names = (f"a/{case}.nii.gz", f"b/{case}.nii.gz", f"c/{case}-seg.nii.gz")
        expected = fused([values(place / name) for name in names], method)
        np.testing.assert_array_equal(values(place / "fused" / f"{case}.nii.gz"), expected)
        (marker,) = (json.loads(p.read_text()) for p in (place / "fused" / "_done").glob(f"{case}.*"))
        assert [one["key"] for one in marker["inputs"].values()] == [str(place / name) for name in names]
        assert marker["options"] == {f"fused by {method}": True} and marker["labels"] == "brats2023"
        digests = [one["digest"] for one in marker["models"]]
        assert len(digests[0]) == 12 and digests[1:] == ["not told", "not told"]
        assert any(flag.startswith("disagreement") for flag in marker["flags"])


def test_a_folder_of_nnunet_is_read_in_the_labels_of_its_dataset_json(place):
    for case in CASES:
        path = place / "c" / f"{case}-seg.nii.gz"
        path.write_bytes(builders.nifti(np.array([0, 2, 1, 3], np.uint8)[values(place / f"b/{case}.nii.gz")]))
    names = {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3}
    (place / "c" / "dataset.json").write_text(json.dumps({"labels": names}))
    assert not run(labelmaps=("b", "c"), method="majority").failed
    for case in CASES:
        np.testing.assert_array_equal(
            values(place / "fused" / f"{case}.nii.gz"), values(place / f"b/{case}.nii.gz")
        )


def test_only_what_is_new_or_changed_is_done(place):
    run()
    again = run().counts
    assert again["written"] == 0 and again["unchanged"] == 3
    Store(place / "b").put(f"{CASES[0]}.nii.gz", builders.nifti(np.zeros((20, 24, 12), np.uint8)))
    assert run(dry_run=True).counts["todo"] == 1
    assert run().counts["written"] == 1
    assert len(list((place / "fused" / "_done").iterdir())) == 3
    (place / "fused" / f"{CASES[1]}.nii.gz").unlink()
    assert run().counts["written"] == 1 and run(method="staple").counts["written"] == 3


def test_a_labelmap_of_the_same_bytes_in_another_convention_is_fused_again(place):
    """In a bucket its version is the same; a labelmap without enhancing tumour has equal bytes in both."""
    run(method="majority")
    (marker,) = (place / "a" / "_done").glob(f"{CASES[0]}.*")
    said = json.loads(marker.read_text()) | {"labels": "msd"}
    marker.unlink()
    (place / "a" / "_done" / f"{CASES[0]}.0123456789ab.json").write_text(json.dumps(said))
    assert run(method="majority").counts["written"] == 1
    (fused_marker,) = (place / "fused" / "_done").glob(f"{CASES[0]}.*")
    assert json.loads(fused_marker.read_text())["labels"] == "msd"
    counts = status.main(status.Settings("fused", "cases")).counts
    assert (counts["segmented"], counts["changed"], counts["left"]) == (3, 0, 0)


def test_a_bad_case_fails_alone(place):
    moved = builders.affine("LPS")
    Store(place / "c").put(f"{CASES[0]}-seg.nii.gz", builders.nifti(np.ones((20, 24, 12), np.uint8), moved))
    (place / "b" / f"{CASES[1]}.nii.gz").unlink()
    outcome = run()
    assert outcome.counts["written"] == 1 and outcome.exit_code == 3
    assert {(f.case_id, f.stage) for f in outcome.failed} == {(CASES[0], "grid"), (CASES[1], "list")}
    assert all("/c/" in f.message for f in outcome.failed if f.stage == "grid")


def test_what_was_fused_of_a_case_that_fails_now_is_not_scored_until_it_is_fused_again(place):
    def refused() -> list[str]:
        outcome = evaluate.main(evaluate.Settings("fused", "cases", "report", ray="no", dry_run=True))
        assert outcome.counts["cases"] + len(outcome.failed) == 3
        return [one.case_id for one in outcome.failed]

    run()
    assert refused() == []
    (place / "b" / f"{CASES[0]}.nii.gz").rename(place / "kept")
    for _ in range(2):
        assert [one.case_id for one in run().failed] == [CASES[0]] == refused()
    (place / "kept").rename(place / "b" / f"{CASES[0]}.nii.gz")
    run()
    assert refused() == [] and not Store(place / "fused").list("_failed")


def test_one_that_was_edited_by_hand_is_not_replaced(place):
    run(method="majority")
    path = place / "fused" / f"{CASES[0]}.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-9] + bytes(range(9))))
    edited = path.read_bytes()
    outcome = run(method="staple")
    assert outcome.counts["written"] == 2 and path.read_bytes() == edited
    assert [(one.case_id, one.stage) for one in outcome.failed] == [(CASES[0], "write")]
    path.unlink()
    assert run(method="staple").counts["written"] == 1


def test_values_outside_the_convention_are_named(place):
    Store(place / "b").put(f"{CASES[0]}.nii.gz", builders.nifti(np.full((20, 24, 12), 9, np.uint8)))
    (failure,) = run().failed
    assert "labels 9 are not of the convention brats2023" in failure.message and "/b/" in failure.message


@pytest.mark.slow
def test_it_is_scored_as_any_folder(place):
    run()
    outcome = evaluate.main(evaluate.Settings(labelmaps="fused", cases="cases", report="report", ray="no"))
    assert not outcome.failed and outcome.counts["cases"] == 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"labelmaps": ("a",)}, "1 folder; give 2 to 10"),
        ({"labelmaps": ("a", "a")}, "given twice"),
        ({"fused": "b"}, "given twice"),
        ({"labelmaps": ("a", "nowhere")}, "there are no labelmaps here"),
        ({"labels": "x"}, "--labels x: give auto"),
    ],
)
def test_flags_that_make_no_sense(place, flags, words):
    with pytest.raises(UsageError, match=words):
        run(**flags)


def test_another_tool_s_labelmap_is_not_replaced(place):
    Store(place / "fused").put(f"{CASES[0]}.nii.gz", builders.nifti(np.zeros((20, 24, 12), np.uint8)))
    with pytest.raises(UsageError, match="did not make this labelmap; give --fused another folder"):
        run()


def test_a_run_cut_off_before_a_marker_is_mended_by_the_next(place):
    run()
    before = (place / "fused" / f"{CASES[0]}.nii.gz").read_bytes()
    (marker,) = (place / "fused" / "_done").glob(f"{CASES[0]}.*")
    marker.unlink()
    assert run().counts["written"] == 1 and marker.exists()
    assert (place / "fused" / f"{CASES[0]}.nii.gz").read_bytes() == before


def test_a_name_that_tells_no_convention(place):
    for folder in ("b", "c"):
        Store(place / folder).put("scan7.nii.gz", builders.nifti(builders.voxels()[1]))
    (failure,) = run(labelmaps=("b", "c")).failed
    assert failure.case_id == "scan7" and "does not tell which labels" in failure.message
    assert not run(labelmaps=("b", "c"), labels="brats2023").failed
