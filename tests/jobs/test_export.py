"""jobs.export: the zip that a challenge takes, and the sets that it refuses to pack."""

import gzip
import io
import json
import zipfile

import numpy as np
import pytest

from bts.cases.layouts import find_cases
from bts.images.nifti import read_nifti, write_labelmap
from bts.storage import Store
from jobs import export
from jobs.driver.outcome import guarded
from tests.builders import NAMES_2021, case_files, nifti, put_all, voxels

ONE, TWO, THREE = (f"BraTS2021_{n:05}" for n in range(3))
LABELS = nifti(voxels()[1])


def run(capsys, *stores: Store, **flags: str) -> tuple[int, str]:
    """(exit code, all that is printed) of the job on labelmaps, and cases if they are given."""
    names = ("labelmaps", "cases")
    settings = export.Settings(**{n: s.uri for n, s in zip(names, stores, strict=False)}, **flags)
    code = guarded("export", lambda: export.main(settings))
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.fixture
def folders(tmp_path) -> list[Store]:
    """Labelmaps of two cases, named as two tools do, among what jobs.segment keeps beside; and the cases."""
    labelmaps, cases = Store(str(tmp_path / "labelmaps")), Store(str(tmp_path / "cases"))
    for case in (ONE, TWO):
        put_all(cases, case_files(case, names=NAMES_2021, enhancing=4, truth=False))
    labelmaps.put(f"{ONE}.nii.gz", LABELS)
    labelmaps.put(f"{TWO}-seg.nii", gzip.decompress(LABELS))
    for key in (f"_done/{ONE}.0123456789ab.json", "_labels/itksnap-brats2021.txt", f"masks/{ONE}/1.png"):
        labelmaps.put(key, b"{}")
    labelmaps.put(f"_probabilities/{ONE}.WT.nii.gz", LABELS)
    return [labelmaps, cases]


def test_labelmaps_at_the_top_and_nothing_else(folders, tmp_path, capsys):
    for place in (folders, folders[:1]):
        code, said = run(capsys, *place, zip=str(tmp_path / "out" / "first.zip"))
        assert code == 0 and '"written": 2' in said
        with zipfile.ZipFile(tmp_path / "out" / "first.zip") as file:
            assert file.namelist() == [f"{ONE}.nii.gz", f"{TWO}.nii.gz"] and file.testzip() is None
            for name in file.namelist():
                assert gzip.decompress(file.read(name)) == gzip.decompress(LABELS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["first.zip"], (
        "no run report, nothing half"
    )


@pytest.mark.parametrize("data", [LABELS[: len(LABELS) // 2], b"hello"])
def test_a_damaged_labelmap_is_named_and_nothing_is_packed(folders, tmp_path, capsys, data):
    folders[0].put(f"{ONE}.nii.gz", data)
    for place in (folders, folders[:1]):
        code, said = run(capsys, *place, zip=str(tmp_path / "first.zip"))
        assert code == 3 and f"failed at export: case {ONE}, {ONE}.nii.gz" in said and TWO not in said
        assert "copy the file again" in said and not (tmp_path / "first.zip").exists()


def test_a_labelmap_of_a_run_that_was_cut_off_is_not_packed(folders, tmp_path, capsys):
    labelmaps, grid = folders[0], read_nifti(LABELS, "").grid
    for case in (ONE, TWO):
        labelmaps.put(f"{case}.nii.gz", write_labelmap(np.zeros(grid.shape, np.uint8), grid, "bts 0123"))
    labelmaps.delete(f"{TWO}-seg.nii")
    for place in (folders, folders[:1]):
        code, said = run(capsys, *place, zip=str(tmp_path / "first.zip"))
        assert code == 3 and f"case {TWO}" in said and "a run was cut off" in said and ONE not in said
        assert not (tmp_path / "first.zip").exists()


def test_a_case_whose_own_name_ends_as_a_ground_truth_s_keeps_it(folders, tmp_path, capsys):
    folders[0].put(f"_done/{TWO}-seg.0123456789ab.json", b"{}")
    assert run(capsys, folders[0], zip=str(tmp_path / "first.zip"))[0] == 0
    with zipfile.ZipFile(tmp_path / "first.zip") as file:
        assert file.namelist() == [f"{ONE}.nii.gz", f"{TWO}-seg.nii.gz"]


def test_a_labelmap_of_another_kind_is_named(folders, tmp_path, capsys):
    folders[0].delete(f"{ONE}.nii.gz")
    folders[0].put(f"{ONE}.seg.nrrd", b"NRRD")
    code, said = run(capsys, *folders, zip=str(tmp_path / "first.zip"))
    assert code == 3 and f"{ONE}.seg.nrrd: a challenge takes NIfTI alone; save it as .nii.gz" in said


def test_an_incomplete_set_is_named_and_not_packed(folders, tmp_path, capsys):
    labelmaps, cases = folders
    put_all(cases, case_files(THREE, names=NAMES_2021, truth=False))
    code, said = run(capsys, *folders, zip=str(tmp_path / "first.zip"))
    assert code == 3 and f"case {THREE}" in said and "run jobs.segment" in said and TWO not in said
    labelmaps.put(f"_held/{THREE}.nii.gz", LABELS)
    labelmaps.put(f"{ONE}-seg.nii.gz", LABELS)
    code, said = run(capsys, *folders, zip=str(tmp_path / "first.zip"))
    assert code == 3 and "held for review" in said and "has 2 labelmaps" in said
    assert not (tmp_path / "first.zip").exists()


def test_labelmaps_in_other_labels_than_their_challenge_s_are_not_packed(folders, tmp_path, capsys):
    """nnU-Net numbers BraTS's labels anew, and its dataset.json beside its labelmaps says so."""
    labelmaps, _ = folders
    names = {"background": 0, "edema": 1, "non-enhancing": 2, "enhancing": 3}
    labelmaps.put("dataset.json", json.dumps({"labels": names}).encode())
    code, said = run(capsys, *folders, zip=str(tmp_path / "first.zip"))
    assert code == 3 and f"case {TWO}" in said and not (tmp_path / "first.zip").exists()
    assert "1 ED, 2 NCR, 3 ET where its challenge has 1 NCR, 2 ED, 4 ET" in said and "jobs.fuse" not in said
    names = {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 4}
    labelmaps.put("dataset.json", json.dumps({"labels": names}).encode())
    code, said = run(capsys, *folders, zip=str(tmp_path / "first.zip"))
    assert f"case {TWO}" not in said


def test_a_labelmap_of_an_older_scan_is_not_packed(folders, tmp_path, capsys):
    labelmaps, cases = folders
    for case in find_cases(cases.list()).cases:  # TWO's is another tool's, of which no marker speaks
        inputs = {role: {"key": e.key, "version": e.version} for role, e in case.files.items()}
        about = json.dumps({"cases": f"{cases.uri}/", "inputs": inputs if case.id == ONE else {}}).encode()
        labelmaps.put(f"_done/{case.id}.0123456789ab.json", about)
    assert run(capsys, *folders, zip=str(tmp_path / "first.zip"))[0] == 0
    cases.put(f"{ONE}/{ONE}_t1.nii.gz", LABELS)
    code, said = run(capsys, *folders, zip=str(tmp_path / "second.zip"))
    assert code == 3 and f"case {ONE}" in said and "t1 changed since" in said
    assert not (tmp_path / "second.zip").exists()


def test_figshare_slices_beside_the_cases_are_said_not_to_be_looked_for(folders, tmp_path, capsys):
    folders[1].put("7.mat", b"x")
    code, said = run(capsys, *folders, zip=str(tmp_path / "first.zip"))
    assert code == 0 and "1 figshare slice, of patients that are not looked for" in said


def test_a_labelmap_older_than_its_case_is_not_packed(folders, tmp_path, capsys):
    """The case's new files failed: what is there was made from those before."""
    folders[0].put(f"_failed/{ONE}.0123456789ab.1.json", b"{}")
    code, said = run(capsys, *folders, zip=str(tmp_path / "first.zip"))
    assert code == 3 and f"case {ONE}" in said and "older files" in said
    assert not (tmp_path / "first.zip").exists()


def test_every_missing_case_is_named(folders, tmp_path, capsys):
    cases = folders[1]
    names = [f"BraTS2021_{n:05}" for n in range(10, 40)]
    for case in names:
        cases.put(f"{case}/{case}_t1.nii.gz", b"")
    code, said = run(capsys, *folders, zip=str(tmp_path / "first.zip"))
    assert code == 3 and all(f"case {case}" in said for case in names)


def test_mistakes(folders, tmp_path, capsys):
    code, said = run(capsys, *folders, zip=str(tmp_path / "out"))
    assert code == 2 and "ends in .zip" in said
    code, said = run(capsys, Store(str(tmp_path / "nowhere")), zip=str(tmp_path / "first.zip"))
    assert code == 2 and "nothing to put into a zip" in said


def test_to_a_bucket(folders, bucket, capsys):
    code, said = run(capsys, *folders, zip=f"{bucket.uri}/first.zip")
    assert code == 0, said
    with zipfile.ZipFile(io.BytesIO(Store(bucket.uri).read("first.zip"))) as file:
        assert len(file.namelist()) == 2 and file.testzip() is None
