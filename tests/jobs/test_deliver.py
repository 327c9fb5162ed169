"""jobs.deliver: a labelmap goes back only where its case is the one that it was made of."""

import copy
import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bts.errors import STORE
from bts.intake import identity
from bts.phantom.study import encode, make_study, slice_dataset
from bts.storage import Store
from jobs import deliver, intake, segment, status
from tests import builders

for name in ("SimpleITK", "pydicom", "dcm2niix", "highdicom"):
    pytest.importorskip(name, reason="requirements-intake.txt is not installed")
pydicom = pytest.importorskip("pydicom")
pytestmark = pytest.mark.slow
NUMBERS = {"t1": 2, "t2": 5, "flair": 6, "t1ce": 7}
Scans = dict[str, list]
"""Modality → its slices, pydicom Datasets."""


@pytest.fixture(scope="module", autouse=True)
def key():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(identity.VARIABLE, "a key for tests, long enough")
        yield


def scans_of(index: int) -> Scans:
    study = make_study(0, index, vendor="ge", size=(64, 64, 56), extras=False)
    by_number = {series.number: series for series in study.series}
    return {
        role: [slice_dataset(study, by_number[n], z) for z in range(by_number[n].scan.voxels_xyz.shape[2])]
        for role, n in NUMBERS.items()
    }


def put(folder: Path, scans: Scans, name: str = "one") -> None:
    store = Store(str(folder / "scans"))
    for role, slices in scans.items():
        for n, data in enumerate(slices):
            store.put(f"{name}/{role}/{n:04d}.dcm", encode(data))


def take_in(folder: Path, **more):
    how = {"strip": "none", "atlas": "none", "ray": "no", **more}
    return intake.main(intake.Settings(scans=f"{folder}/scans", cases=f"{folder}/cases", **how))


def segmented(folder: Path, **more):
    model = folder / "tiny.safetensors"
    model.write_bytes(builders.tiny_model())
    place = {"cases": f"{folder}/cases", "labelmaps": f"{folder}/labelmaps", "model": (str(model),)}
    return segment.main(segment.Settings(**place, ray="no", **more))


def delivered(folder: Path, **more):
    places = {name: f"{folder}/{name}" for name in ("labelmaps", "cases", "results")}
    return deliver.main(deliver.Settings(**places, ray="no", **more))


@pytest.fixture(scope="module")
def one_study(tmp_path_factory) -> Path:
    """A folder with one study that was taken in and segmented."""
    folder = tmp_path_factory.mktemp("one")
    put(folder, scans_of(1))
    assert take_in(folder).counts["written"] == segmented(folder).counts["written"] == 1
    return folder


@pytest.fixture
def place(one_study, tmp_path) -> Path:
    """A copy of it: the markers name the folder, so that the copy is segmented again."""
    for name in ("scans", "cases", "tiny.safetensors"):
        source = one_study / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, tmp_path / name)
    segmented(tmp_path)
    return tmp_path


def refused(folder: Path, reason: str) -> None:
    """It fails by name and nothing of it is written."""
    done = delivered(folder)
    (failure,) = done.failed
    assert reason in failure.message and failure.case_id in failure.message.split(":")[0]
    assert not [*(folder / "results").rglob("*.nii.gz")]


def test_a_labelmap_of_an_older_scan_waits_for_the_new_one(place):
    """Its matrices are those of the new scan: it would lie somewhere else in the patient."""
    newer = scans_of(1)
    for data in newer["t1ce"]:
        data.PixelData = np.roll(data.pixel_array, 5, axis=1).tobytes()
    put(place, newer)
    assert take_in(place).counts["written"] == 1
    refused(place, "changed since the labelmap was made of it")
    assert segmented(place).counts["written"] == delivered(place).counts["written"] == 1


def test_a_labelmap_of_a_case_that_is_held_now_is_not_brought_back_by_its_new_record(place):
    (case,) = (place / "cases").glob("Scan-*")
    (place / "cases/_held").mkdir()
    case.rename(place / "cases/_held" / case.name)
    refused(place, "waits for review")


def test_an_edited_labelmap_does_not_pass_for_the_models(place):
    (path,) = (place / "labelmaps").glob("Scan-*.nii.gz")
    image = nib.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
    edited = np.asarray(image.dataobj).copy()
    edited[:20] = 0
    path.write_bytes(gzip.compress(nib.Nifti1Image(edited, image.affine).to_bytes()))
    refused(place, "not the one that its result record in _done is of")


def test_a_labelmap_of_a_run_that_was_cut_off_is_not_read_in_another_convention(place):
    segmented(place, labels="msd")
    for marker in (place / "labelmaps/_done").iterdir():
        marker.unlink()
    refused(place, "a run was cut off")


def test_two_records_of_a_case_are_not_chosen_from(place):
    (record,) = (place / "cases/_done").iterdir()
    case, _, _ = record.stem.rpartition(".")
    record.with_name(f"{case}.0123456789ab.json").write_bytes(record.read_bytes())
    refused(place, "two of its runs overlapped")


@pytest.mark.parametrize("spoilt", [b"[1]", b"{", b'{"scans": 1, "series": []}', b"[" * 10**5], ids=len)
def test_a_record_that_is_spoilt_fails_its_case_alone(place, spoilt):
    (record,) = (place / "cases/_done").iterdir()
    record.write_bytes(spoilt)
    (failure,) = delivered(place).failed
    assert failure.case_id in failure.message


def test_a_study_that_cannot_be_worked_on_is_named(tmp_path):
    flat = scans_of(1)
    for data in flat["t2"]:
        data.PixelData = bytes(len(data.PixelData))
    put(tmp_path, flat)
    (failure,) = take_in(tmp_path).failed
    assert failure.message.startswith(f"case {failure.case_id}, t2: all its voxels are equal")


def test_labelmaps_that_wait_for_review_are_said(place, capfd):
    (labelmap,) = (place / "labelmaps").glob("Scan-*.nii.gz")
    (place / "labelmaps/_held").mkdir()
    labelmap.rename(place / "labelmaps/_held" / labelmap.name)
    done = delivered(place)
    assert (done.exit_code, done.counts["held"], done.counts["written"]) == (0, 1, 0)
    assert "1 labelmap in _held/ for review, not delivered" in capfd.readouterr().err


def test_studies_with_the_same_series_uids_get_a_seg_each(tmp_path):
    """As some programs anonymise: only the Study Instance UID tells one from the other."""
    for index in (3, 5):
        scans = scans_of(index)
        for role, slices in scans.items():
            for data in slices:
                data.SeriesInstanceUID = f"1.2.3.{NUMBERS[role]}"
        put(tmp_path, scans, f"patient{index}")
    assert take_in(tmp_path).counts["written"] == segmented(tmp_path).counts["written"] == 2
    done = delivered(tmp_path, dicom_seg=True)
    assert (done.counts["written"], done.failed) == (2, [])
    segs = [pydicom.dcmread(path) for path in (tmp_path / "results").rglob("*.dcm")]
    assert len({seg.PatientID for seg in segs}) == 2


def test_a_series_that_was_moved_is_found_whatever_older_indexes_say(place):
    """An index is of one set of rules; that of others still lists the files of before."""
    (place / "rules.toml").write_text("[[rule]]\nis = 'localiser'\ntext = 'made up'\n")
    (place / "scans/one").rename(place / "scans/archive")
    assert take_in(place, rules=f"{place}/rules.toml").counts["unchanged"] == 1
    assert len([*(place / "cases/_index").iterdir()]) == 2
    assert delivered(place, dicom_seg=True, scans=f"{place}/scans").counts["written"] == 1


def test_a_file_that_was_resent_beside_the_old_one_is_said(place):
    first = place / "scans/one/t1ce/0000.dcm"
    (place / "scans/again.dcm").write_bytes(first.read_bytes())
    (failure,) = take_in(place).failed
    assert "there twice" in failure.message
    (failure,) = delivered(place, dicom_seg=True, scans=f"{place}/scans").failed
    assert "more files now" in failure.message


def test_a_corrected_patient_id_is_said(place):
    """It makes another case, whose older one stays: one patient under two names."""
    scans = scans_of(1)
    for data in (data for slices in scans.values() for data in slices):
        data.PatientID = "CORRECTED"
    put(place, scans)
    (older,) = (path.name for path in (place / "cases").glob("Scan-*"))
    ((flagged, warnings),) = take_in(place).details["flagged_cases"].items()
    assert flagged != older
    assert warnings[0].startswith(
        f"its study is also case {older}, under another Patient ID or date: keep one"
    )


def test_images_without_a_study_are_said(tmp_path):
    put(tmp_path, scans_of(1))
    lost = {"t1": scans_of(3)["t1"]}
    for data in lost["t1"]:
        data.StudyInstanceUID = ""
    put(tmp_path, lost, "two")
    done = take_in(tmp_path)
    assert (done.exit_code, done.counts["written"], done.counts["other_files"]) == (3, 1, 0)
    assert f"{len(lost['t1'])} MR images have no Study Instance UID" in done.failed[0].message


def test_a_study_that_was_taken_away_is_counted_no_more(place):
    put(place, scans_of(3), "two")
    assert take_in(place).counts["written"] == 1
    shutil.rmtree(place / "scans/two")
    told = status.main(status.Settings(f"{place}/labelmaps", f"{place}/cases", f"{place}/scans"))
    assert (told.counts["studies"], told.counts["new_files"]) == (1, 0)


def test_a_t1_after_contrast_agent_without_a_word_of_it_is_flagged(tmp_path):
    """It has more slices than the T1 of before, and would be taken for it without a word."""
    scans = scans_of(1)
    scans["after"] = [copy.deepcopy(data) for data in scans["t1ce"]]
    scans["t1"] = scans["t1"][:-3]
    for n, data in enumerate(scans["after"]):
        data.SeriesNumber, data.SeriesInstanceUID, data.SeriesDescription = 9, "1.2.9", "Ax T1 FSE"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{n}"
        del data.ContrastBolusAgent
    put(tmp_path, scans)
    done = take_in(tmp_path, hold_flagged=True)
    (warnings,) = done.details["flagged_cases"].values()
    assert warnings[0].startswith("t1 is series 9, taken after t1ce (series 7)")
    assert [*(tmp_path / "cases/_held").iterdir()]
    (record,) = (tmp_path / "cases/_done").iterdir()
    assert warnings[0] in record.read_text()


def test_a_labelmap_that_was_made_anew_is_to_deliver_again(place):
    def told() -> tuple[int, int]:
        places = {name: f"{place}/{name}" for name in ("labelmaps", "cases", "results")}
        counts = status.main(status.Settings(**places)).counts
        return counts["delivered"], counts["to_deliver"]

    assert told() == (0, 1)
    delivered(place)
    assert told() == (1, 0)
    assert segmented(place, flips=True).counts["written"] == 1
    assert told() == (0, 1)
    delivered(place)
    assert told() == (1, 0)


def test_the_whole_chain_in_buckets(bucket, one_study):
    """Files of usual size: more than is read of one for its tags."""
    scans = scans_of(1)
    for data in scans["t1ce"]:
        data.add_new(0xFFFCFFFC, "OB", bytes(70_000))
    for role, slices in scans.items():
        for n, data in enumerate(slices):
            Store(f"{bucket.uri}/scans").put(f"José 1/{role}/{n:04d}.dcm", encode(data))
    places = {name: f"{bucket.uri}/{name}" for name in ("scans", "cases", "labelmaps", "results")}
    model = str(one_study / "tiny.safetensors")

    def night() -> list[int]:
        how = {"cases": places["cases"], "labelmaps": places["labelmaps"], "ray": "no"}
        taken = intake.main(
            intake.Settings(places["scans"], places["cases"], strip="none", atlas="none", ray="no")
        )
        found = segment.main(segment.Settings(**how, model=(model,)))
        back = deliver.main(deliver.Settings(**how, results=places["results"], dicom_seg=True))
        assert not [*taken.failed, *found.failed, *back.failed]
        return [one.counts["written"] for one in (taken, found, back)]

    assert [night(), night()] == [[1, 1, 1], [0, 0, 0]]
    assert any(entry.key.endswith(".dcm") for entry in Store(places["results"]).list())
    told = status.main(
        status.Settings(places["labelmaps"], places["cases"], places["scans"], places["results"])
    )
    assert (told.counts["studies"], told.counts["taken_in"], told.counts["delivered"]) == (1, 1, 1)


def test_a_store_in_trouble_adds_no_try_to_a_study(tmp_path):
    """Some nights of it would leave all studies aside."""
    image = builders.nifti(np.arange(24 * 24 * 12, dtype=np.int16).reshape(24, 24, 12))
    scans = Store(str(tmp_path / "scans"))
    for name in ("T1", "T1_post", "FLAIR"):
        scans.put(f"one/{name}.nii.gz", image)
    (tmp_path / "scans/one/T2.nii.gz").symlink_to("T2.nii.gz")  # reading it ends in an error of the disk
    (failure,) = take_in(tmp_path).failed
    assert failure.kind == STORE and "a file of t2 cannot be read" in failure.message
    assert not [*(tmp_path / "cases").rglob("_failed/*")]


def test_a_labelmap_that_a_person_corrected_is_delivered_from_a_folder_of_its_own(place):
    (path,) = (place / "labelmaps").glob("Scan-*.nii.gz")
    corrected = place / "corrected" / path.name
    corrected.parent.mkdir()
    image = nib.load(path)
    voxels = np.zeros(image.shape, np.uint8)
    voxels[20:30, 20:30, 20:30] = 3
    image.header["descrip"] = b""  # as docs/how-to/review-flagged-cases.md says
    nib.Nifti1Image(voxels, image.affine, image.header).to_filename(corrected)
    places = {"cases": f"{place}/cases", "results": f"{place}/other", "labelmaps": str(corrected.parent)}
    done = deliver.main(deliver.Settings(**places, ray="no", dicom_seg=True))
    assert (done.counts["written"], done.failed) == (1, [])
    (seg,) = map(pydicom.dcmread, (place / "other").rglob("*.dcm"))
    (algorithm,) = seg.SegmentSequence[2].SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmName == "labelmap"
    assert {one.SegmentAlgorithmType for one in seg.SegmentSequence} == {"SEMIAUTOMATIC"}


def test_several_spaces_stand_beside_each_other_in_one_folder_of_results(place):
    """Each took the other's results for older ones of its own, and did them again every night."""
    runs = [{"space": "t1ce", "dicom_seg": True}, {"space": "flair"}, {"space": "t1ce"}]
    for count in (1, 0):
        assert [delivered(place, **how).counts["written"] for how in runs] == [count] * 3
    assert segmented(place, flips=True).counts["written"] == 1
    for count in (1, 0):
        assert [delivered(place, **how).counts["written"] for how in runs] == [count] * 3
    assert len([*(place / "results/_done").iterdir()]) == 3
    (seg,) = map(pydicom.dcmread, (place / "results").rglob("*.dcm"))
    assert {one.SegmentAlgorithmType for one in seg.SegmentSequence} == {"AUTOMATIC"}


def test_a_second_folder_of_scans_leaves_the_first_one_s_index(place):
    """Without it no DICOM SEG finds its scans, and every night all tags are read again."""
    put(place / "second", {"t1": scans_of(3)["t1"]}, "two")
    how = {"strip": "none", "atlas": "none", "ray": "no"}
    intake.main(intake.Settings(f"{place}/second/scans", f"{place}/cases", **how))
    assert len([*(place / "cases/_index").iterdir()]) == 2
    assert take_in(place).counts["unchanged"] == 1
    assert len([*(place / "cases/_index").iterdir()]) == 2
    assert delivered(place, dicom_seg=True).counts["written"] == 1
