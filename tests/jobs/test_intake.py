"""jobs.intake and jobs.deliver: phantom studies from the scanner to a labelmap on its grid."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from bts.cases.said import list_folder
from bts.errors import CaseError, RunError, UsageError
from bts.intake import identity
from bts.phantom.study import CANARY, make_study, write_dicom, write_nifti
from bts.storage import Store
from jobs import deliver, intake, segment, status, view
from jobs.driver.outcome import guarded
from tests.builders import put_all
from tests.conftest import ROOT

for name in ("SimpleITK", "pydicom", "dcm2niix", "highdicom"):
    pytest.importorskip(name, reason="requirements-intake.txt is not installed")
SIZE = (64, 64, 56)
KEY = "a key for tests, long enough"


@pytest.fixture(scope="module")
def studies() -> dict[str, bytes]:
    """A sound DICOM study, a sound NIfTI study, and one that lacks FLAIR."""
    whole = make_study(0, 1, vendor="ge", size=SIZE)
    broken = make_study(0, 3, vendor="ge", size=SIZE, extras=False)
    files = write_dicom(whole) | write_nifti(make_study(0, 5, vendor="ge", size=SIZE, extras=False))
    return files | {key: data for key, data in write_dicom(broken).items() if "SE000006" not in key}


@pytest.fixture(scope="module", autouse=True)
def key():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(identity.VARIABLE, KEY)
        yield


def take_in(folder, **more):
    settings = {"strip": "none", "atlas": "none", "ray": "no", **more}
    return intake.main(intake.Settings(scans=str(folder / "scans"), cases=str(folder / "cases"), **settings))


def sound_of(studies: dict[str, bytes]) -> dict[str, bytes]:
    return {key: data for key, data in studies.items() if "_0_1/" in key or "_0_5/" in key}


def start(folder) -> subprocess.Popen:
    """`take_in` as a process of its own."""
    command = [
        sys.executable,
        "-m",
        "jobs.intake",
        "--scans",
        f"{folder}/scans",
        "--cases",
        f"{folder}/cases",
    ]
    command += ["--strip", "none", "--atlas", "none", "--ray", "no"]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def images_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "cases").glob("Scan-*/*.nii.gz")}


def files_below(folder) -> list:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_from_the_scanner_and_back(ray_local, tmp_path, studies, model, capfd):
    put_all(Store(str(tmp_path / "scans")), studies)
    done = take_in(tmp_path, ray="yes")
    assert (done.counts["cases"], done.counts["written"], len(done.failed), done.exit_code) == (3, 2, 1, 3)
    assert "no series of flair" in done.failed[0].message
    cases = Store(str(tmp_path / "cases"))
    names = sorted({entry.key.split("/")[0] for entry in cases.list() if entry.key.startswith("Scan-")})
    assert len(names) == 2
    assert {f"_checks/{name}.png" for name in names} <= {entry.key for entry in cases.list("_checks")}

    again = take_in(tmp_path)
    assert (again.counts["unchanged"], again.counts["written"]) == (2, 0)
    assert guarded("intake", lambda: take_in(tmp_path)) == 3  # as the command, with its run report

    labelmaps = tmp_path / "labelmaps"
    cut = segment.main(segment.Settings(cases=cases.uri, labelmaps=str(labelmaps), model=(model,)))
    assert cut.counts["written"] == 2 and not cut.failed

    how = {"labelmaps": str(labelmaps), "cases": cases.uri, "results": str(tmp_path / "results")}
    back = deliver.main(deliver.Settings(**how, space="flair", ray="yes"))
    assert (back.counts["written"], back.failed) == (2, [])
    assert deliver.main(deliver.Settings(**how, space="flair")).counts["unchanged"] == 2
    seg = deliver.main(deliver.Settings(**how, dicom_seg=True))
    assert seg.counts["written"] == 1 and len(seg.failed) == 1
    (written,) = (tmp_path / "results").rglob("*.dcm")
    assert CANARY.encode() in written.read_bytes()  # a SEG belongs into the PACS of its scans

    (tmp_path / "scans/new.dcm").write_bytes(bytes(128) + b"DICM")
    chain = status.main(
        status.Settings(str(labelmaps), cases.uri, str(tmp_path / "scans"), str(tmp_path / "results"))
    )
    assert {name: chain.counts[name] for name in ("studies", "taken_in", "new_files", "segmented")} == {
        "studies": 3, "taken_in": 2, "new_files": 1, "segmented": 2,
    }  # fmt: skip
    assert (chain.counts["delivered"], chain.counts["to_deliver"]) == (2, 0)

    said = "".join(capfd.readouterr())
    assert "3 studies, 2 taken in\n1 file that" in said and "1 study without a case\n  Scan-" in said
    assert "no series of flair" in said and "2 labelmaps delivered" in said
    assert CANARY not in said
    for path in files_below(tmp_path):
        inside = path.relative_to(tmp_path).parts[0]
        if inside in ("cases", "labelmaps") or (path.suffix != ".dcm" and inside == "results"):
            assert (
                CANARY not in str(path.relative_to(tmp_path)) and CANARY.encode() not in path.read_bytes()
            ), path


@pytest.mark.slow
def test_a_changed_study_alone_is_done_again(tmp_path, studies, monkeypatch):
    sound = sound_of(studies)
    put_all(Store(str(tmp_path / "scans")), sound)
    assert take_in(tmp_path).counts["written"] == 2
    first = next(key for key in sound if "SE000007" in key)
    os.utime(tmp_path / "scans" / first, (1, 1))
    done = take_in(tmp_path)
    assert (done.counts["unchanged"], done.counts["written"]) == (1, 1)
    (victim, *_) = (tmp_path / "cases").glob("Scan-*/*-t1c.nii.gz")
    victim.unlink()
    assert take_in(tmp_path).counts["written"] == 1
    assert victim.exists()
    records = [json.loads(path.read_bytes()) for path in (tmp_path / "cases" / "_done").iterdir()]
    assert len(records) == 2 and all(
        record["study_uid"] or record["series"]["t1"]["uid"] == "" for record in records
    )

    def full(store: Store, key: str, data: bytes) -> None:
        if key.endswith("-t2w.nii.gz"):
            raise RunError("no space left")
        put(store, key, data)

    put = Store.put
    monkeypatch.setattr(Store, "put", full)
    os.utime(tmp_path / "scans" / first, (2, 2))
    with pytest.raises(RunError, match="no space left"):
        take_in(tmp_path)
    images = [len(list(folder.iterdir())) for folder in (tmp_path / "cases").glob("Scan-*")]
    assert len(images) == 2 and min(images) < 4, "images of both versions of the study would be a case"


@pytest.fixture(scope="module")
def taken(studies, tmp_path_factory):
    """The folder of two studies that were taken in, a DICOM one and a NIfTI one."""
    folder = tmp_path_factory.mktemp("taken")
    put_all(Store(str(folder / "scans")), sound_of(studies))
    assert take_in(folder).counts["written"] == 2
    return folder


@pytest.mark.slow
def test_the_chain_is_told_without_labelmaps(taken):
    chain = status.main(status.Settings(*(f"{taken}/{name}" for name in ("none", "cases", "scans"))))
    assert (chain.counts["studies"], chain.counts["taken_in"], chain.counts["new_files"]) == (2, 2, 0)
    with pytest.raises(UsageError, match="give --cases too"):
        status.main(status.Settings(f"{taken}/none", scans=f"{taken}/scans"))


@pytest.mark.slow
def test_who_only_looks_makes_no_key(taken, tmp_path, monkeypatch):
    """A new key would name every study otherwise: all would look as if they were not taken in."""
    monkeypatch.delenv(identity.VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    cases, scans = f"{taken}/cases", f"{taken}/scans"
    looks = {
        "status": lambda: status.main(status.Settings(f"{taken}/none", cases, scans)),
        "view": lambda: view.main(view.Settings(cases, f"{taken}/none", scans=scans)),
    }
    for name, look in looks.items():
        assert guarded(name, look) == 2, name
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_study_that_came_as_nifti_is_delivered_without_a_dicom_seg(taken, tmp_path):
    cases, results = Store(str(taken / "cases")), tmp_path / "results"
    for case in list_folder(cases, "brats2023").cases:
        put_a_box(tmp_path / "labelmaps", case, cases)
    how = {"labelmaps": f"{tmp_path}/labelmaps", "cases": cases.uri, "results": str(results), "ray": "no"}
    first = deliver.main(deliver.Settings(**how, dicom_seg=True))
    assert (first.counts["written"], first.exit_code) == (1, 3)
    (failure,), (seg,) = first.failed, results.rglob("*.dcm")
    nifti = f"{failure.case_id}/{failure.case_id}-seg-t1ce.nii.gz"
    assert failure.stage == "seg" and not seg.name.startswith(failure.case_id)
    assert "came as NIfTI" in failure.message and f"its NIfTI is delivered ({nifti})" in failure.message
    assert np.asanyarray(nib.load(results / nifti).dataobj).any()
    (record,) = map(json.loads, (path.read_text() for path in results.glob(f"_done/{failure.case_id}.*")))
    assert record["options"] == {"space": "t1ce", "dicom_seg": False} and [*record["files"]] == [nifti]

    again = deliver.main(deliver.Settings(**how, dicom_seg=True))
    assert (again.counts["unchanged"], again.exit_code) == (1, 3)
    plain = deliver.main(deliver.Settings(**how))
    assert (plain.counts["unchanged"], plain.counts["written"], plain.exit_code) == (1, 1, 0)


def put_a_box(folder, case, cases: Store) -> None:
    """A labelmap of a case: a box of enhancing tumour."""
    image = nib.Nifti1Image.from_bytes(gzip.decompress(cases.read(case.files["t1ce"].key)))
    labels = np.zeros(image.shape, np.uint8)
    labels[24:40, 28:44, 20:36] = 3
    data = nib.Nifti1Image(labels, image.affine).to_bytes()
    Store(str(folder)).put(f"{case.id}.nii.gz", gzip.compress(data))


@pytest.mark.slow
@pytest.mark.parametrize("space", ["t1ce", "flair"])
def test_a_study_is_shown_as_its_scanner_saw_it(taken, tmp_path, space):
    cases, scans = Store(str(taken / "cases")), Store(str(taken / "scans"))
    listing = list_folder(cases, "brats2023").cases
    for case in listing:
        put_a_box(tmp_path, case, cases)
    settings = view.Settings(cases.uri, str(tmp_path), scans=scans.uri, space=space, labels="brats2023")
    what = (listing, cases, Store(str(tmp_path)), {})
    index = view.NativeIndex(*what, settings)
    assert len(index.shown) == 2
    for case_id, shown in index.shown.items():
        record = json.loads(cases.read(index.native.records[case_id]))
        found = {r: nib.Nifti1Image.from_bytes(index.volume(case_id, r)) for r in shown.roles}
        assert {*found} == {"t1", "t1ce", "t2", "flair", "prediction"}
        assert len({image.shape for image in found.values()}) == 1, "all on one grid"
        x, y, z = record["series"][space]["native"]["shape_xyz"]
        assert sorted(found[space].shape) == sorted((x, y, z)) != sorted(record["space"]["shape_xyz"])
        voxels = np.sort(found[space].get_fdata(), axis=None)
        assert sum(same(make_study(0, n, vendor="ge", size=SIZE), space, voxels) for n in (1, 5)) == 1
        ml = (found["prediction"].get_fdata() == 3).sum() * np.prod(found[space].header.get_zooms()) / 1000
        assert ml == pytest.approx(16**3 / 1000, rel=0.15)
    elsewhere = view.NativeIndex(*what, replace(settings, scans=str(tmp_path)))
    with pytest.raises(CaseError, match="not below"):
        elsewhere.volume(case_id, "t2")


def same(study, role: str, voxels: np.ndarray) -> bool:
    """Whether a scan of the study has just these voxels."""
    return np.array_equal(np.sort(study.scan(role).voxels_xyz, axis=None), voxels)


@pytest.mark.slow
def test_killed_half_way_and_run_again_and_two_at_once(tmp_path, studies, taken):
    """Whoever takes the studies in, and however often it was cut off: the same bytes, one record a case."""
    for name in ("killed", "twice"):
        put_all(Store(str(tmp_path / name / "scans")), sound_of(studies))
    both = [start(tmp_path / "twice") for _ in range(2)]
    calm = images_of(taken)
    assert [job.wait(120) for job in both] == [0, 0]

    job, records = start(tmp_path / "killed"), tmp_path / "killed/cases/_done"
    while job.poll() is None and not (records.is_dir() and any(records.glob("*.json"))):
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    again = take_in(tmp_path / "killed")
    assert (again.counts["unchanged"], again.counts["written"]) == (1, 1)

    assert len(calm) == 8
    for name in ("killed", "twice"):
        assert images_of(tmp_path / name) == calm
        assert len(list((tmp_path / name / "cases/_done").iterdir())) == 2
        assert take_in(tmp_path / name).counts["unchanged"] == 2


def test_folders_within_each_other_are_refused(tmp_path):
    with pytest.raises(intake.UsageError, match="folders apart"):
        intake.main(intake.Settings(scans=str(tmp_path), cases=str(tmp_path / "cases")))


def test_no_study_is_said(tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "notes.txt").write_text("x")
    with pytest.raises(intake.UsageError, match="no study found"):
        take_in(tmp_path)
