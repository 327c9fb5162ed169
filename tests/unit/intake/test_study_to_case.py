import copy
import gzip
import io
import json
import subprocess
import tempfile
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bts.errors import CaseError
from bts.images.nifti import read_nifti, write_image
from bts.intake import dicom_seg
from bts.intake.grids import Image, Lattice, resample
from bts.intake.native import on_case_grid, to_native, volumes_ml, write_labels
from bts.intake.study_to_case import Options, take_in
from bts.phantom.head import make_head
from bts.phantom.study import CANARY, encode, write_series
from tests.unit.intake.conftest import SIZE

pydicom = pytest.importorskip("pydicom", reason="requirements-intake.txt is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("itk")]
pytest.importorskip("dcm2niix", reason="requirements-intake.txt is not installed")
OPTIONS = Options(strip="none", atlas="none")
NUMBERS = {"t1": 2, "t2": 5, "flair": 6, "t1ce": 7}


def scans_of(study):
    by_number = {series.number: series for series in study.series}
    return {role: list(write_series(study, by_number[number])) for role, number in NUMBERS.items()}


@pytest.fixture(scope="module")
def taken(siemens):
    return take_in("Scan-a-b", scans_of(siemens), OPTIONS, dicom=True)


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def case_labels(study, record):
    """The phantom's truth in the case's space, by its known pose."""
    head = make_head(study.seed, study.index, SIZE)
    space = Lattice.from_json(record["space"])
    to_head = np.linalg.inv(study.scan("t1ce").pose)
    return Image(
        resample(Image(head.labels, Lattice(head.labels.shape, head.affine)), space, to_head, labels=True),
        space,
    )


@pytest.mark.parametrize(("role", "least"), [("t1ce", 0.95), ("t2", 0.93)])
def test_labels_go_back_to_the_scanner(siemens, taken, role, least):
    # The tumours of this half-size head have 3 ml together; whole ones come back better.
    labels = case_labels(siemens, taken.record)
    back = to_native(labels, taken.record, role)
    voxels = np.ascontiguousarray(siemens.scan(role).truth_xyz.T)
    truth = Image(voxels, Lattice(voxels.shape, siemens.scan(role).affine))
    there = resample(Image(back.voxels, back.lattice), truth.lattice, np.eye(4), labels=True)
    assert dice(there > 0, truth.voxels > 0) >= least
    assert volumes_ml(back)["WT"] == pytest.approx(volumes_ml(labels)["WT"], rel=0.1)


def test_the_case_is_whole_and_in_the_space_of_t1ce(siemens, taken):
    images = {
        key: nib.Nifti1Image.from_bytes(gzip.decompress(data))
        for key, data in taken.files.items()
        if key.startswith("Scan")
    }
    assert sorted(images) == [f"Scan-a-b/Scan-a-b-{name}.nii.gz" for name in ("t1c", "t1n", "t2f", "t2w")]
    affines = [image.affine for image in images.values()]
    assert all(np.array_equal(affines[0], affine) for affine in affines)
    assert nib.aff2axcodes(affines[0]) == ("L", "P", "S")
    assert all(image.get_data_dtype() == np.int16 for image in images.values())


def test_two_runs_give_the_same_bytes(siemens, taken):
    again = take_in("Scan-a-b", scans_of(siemens), OPTIONS, dicom=True)
    assert again.files == taken.files


def test_no_name_leaves_the_scans(taken):
    assert CANARY not in json.dumps(taken.record)
    for key, data in taken.files.items():
        plain = gzip.decompress(data) if key.endswith(".gz") else data
        assert CANARY.encode() not in plain


def test_the_record_tells_what_was_done(taken):
    told = taken.record["series"]
    assert set(told) == set(NUMBERS)
    assert told["t1ce"]["matrix"] == np.eye(4).tolist()
    assert all(told[role]["after"] > told[role]["before"] for role in ("t1", "t2", "flair"))
    assert taken.record["versions"]["SimpleITK"]
    assert taken.record["options"] == {"strip": "none", "atlas": "none"}


def test_a_labelmap_on_another_grid_is_refused(taken):
    data = write_image(np.zeros((4, 5, 6), np.uint8), np.eye(4))
    with pytest.raises(CaseError, match="not that of the case"):
        on_case_grid(read_nifti(data, "x.nii.gz"), "x.nii.gz", taken.record)


def test_a_modality_that_the_case_lacks(taken):
    record = {**taken.record, "series": {"t1ce": taken.record["series"]["t1ce"]}}
    space = Lattice.from_json(record["space"])
    with pytest.raises(CaseError, match="has no flair"):
        to_native(Image(np.zeros(space.shape, np.uint8), space), record, "flair")


def test_a_study_without_t1ce_is_refused(siemens):
    scans = {role: files for role, files in scans_of(siemens).items() if role != "t1ce"}
    with pytest.raises(CaseError, match="T1ce is missing"):
        take_in("x", scans, OPTIONS, dicom=True)


def read_by_dcmqi(seg: bytes, lattice: Lattice) -> np.ndarray:
    """Labels (z, y, x) on the slices, as the field's reference program reads a SEG."""
    dcmqi = pytest.importorskip("dcmqi", reason="requirements-test.txt is not installed")
    program = Path(dcmqi.__file__).with_name("bin") / "segimage2itkimage"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "seg.dcm").write_bytes(seg)
        how = ["--inputDICOM", f"{folder}/seg.dcm", "--outputDirectory", folder, "-t", "nii", "-p", "seg"]
        subprocess.run([program, *how, "--mergeSegments"], check=True, capture_output=True, timeout=60)
        (found,) = Path(folder).glob("*.nii.gz")
        image = nib.load(found)
        there = Image(np.asarray(image.dataobj).T.astype(np.uint8), Lattice(image.shape[::-1], image.affine))
    return resample(there, lattice, np.eye(4), labels=True)


@pytest.mark.parametrize("role", ["t1ce", "t2"])
def test_a_dicom_seg_reads_back_exactly(siemens, taken, role):
    hd = pytest.importorskip("highdicom", reason="requirements-intake.txt is not installed")
    labels = case_labels(siemens, taken.record)
    files = scans_of(siemens)[role]
    datasets = dicom_seg.read_source(files[::-1])
    lattice, places = dicom_seg.lattice_of(datasets)
    on_slices = to_native(labels, taken.record, role, lattice)
    data = dicom_seg.write_seg(datasets, on_slices, places, "fast", "0123")
    seg = hd.seg.segread(io.BytesIO(data))
    read = seg.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in datasets], combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(read, on_slices.voxels)
    assert {int(v) for v in np.unique(read)} == {0, 1, 2, 3}
    assert [seg.get_segment_description(n).segmented_property_type.meaning for n in (1, 2, 3)] == [
        "Necrosis", "Edema", "Enhancing Lesion",
    ]  # fmt: skip
    assert seg.StudyInstanceUID == datasets[0].StudyInstanceUID
    again = hd.seg.segread(io.BytesIO(dicom_seg.write_seg(datasets, on_slices, places, "fast", "0123")))
    other = hd.seg.segread(io.BytesIO(dicom_seg.write_seg(datasets, on_slices, places, "fast", "0124")))
    assert seg.SOPInstanceUID == again.SOPInstanceUID != other.SOPInstanceUID
    assert np.array_equal(read_by_dcmqi(data, lattice), on_slices.voxels)
    # The NIfTI on dcm2niix's grid and the SEG on the slices hold the same voxels.
    native = to_native(labels, taken.record, role)
    assert dice(resample(native, lattice, np.eye(4), labels=True) > 0, on_slices.voxels > 0) > 0.999


@pytest.fixture(scope="module")
def t2(siemens):
    """(slices of T2 as pydicom Datasets, labels on their grid with a box of enhancing tumour, order)."""
    pytest.importorskip("highdicom", reason="requirements-intake.txt is not installed")
    datasets = dicom_seg.read_source(scans_of(siemens)["t2"])
    lattice, places = dicom_seg.lattice_of(datasets)
    voxels = np.zeros(lattice.shape, np.uint8)
    voxels[4:8, 30:40, 30:40] = 3
    return datasets, Image(voxels, lattice), places


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ImagePositionPatient", None, "a source file cannot be read"),
        ("ImageOrientationPatient", ["nan"] * 6, "does not tell where its slices lie"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "does not tell where its slices lie"),
        ("PixelSpacing", None, "does not tell where its slices lie"),
        ("Rows", None, "does not tell where its slices lie"),
    ],
)
def test_a_source_that_was_spoilt_since_is_the_fault_of_its_case(siemens, name, value, reason):
    files = []
    for data in scans_of(siemens)["t2"]:
        one = pydicom.dcmread(io.BytesIO(data))
        setattr(one, name, value) if value else delattr(one, name)
        one.save_as(found := io.BytesIO())
        files.append(found.getvalue())
    with pytest.raises(CaseError, match=reason) as caught:
        dicom_seg.lattice_of(dicom_seg.read_source(files))
    assert caught.value.mend and caught.value.stage == "seg"


def test_another_result_of_the_same_model_is_another_object(t2):
    """A PACS drops an object that it has already: a study that was completed would keep its first SEG."""
    datasets, labels, places = t2
    more = labels.voxels.copy()
    more[4:8, 40:50, 30:40] = 2
    one, other = (
        pydicom.dcmread(io.BytesIO(dicom_seg.write_seg(datasets, image, places, "fast", "0123")))
        for image in (labels, Image(more, labels.lattice))
    )
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID == other.SeriesInstanceUID


def test_no_name_of_a_patient_is_in_a_warning(t2):
    datasets, labels, places = t2
    named = copy.deepcopy(datasets)
    for data in named:
        data.PatientName = f"{CANARY} John"  # without ^, as many hospitals write names
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seg = dicom_seg.write_seg(named, labels, places, "fast", "0123")
    assert CANARY.encode() in seg and not [one for one in caught if CANARY in str(one.message)]


@pytest.mark.parametrize(
    "charset", [["", "ISO 2022 IR 87"], ["ISO_IR 100", "ISO 2022 IR 87"], "ISO_IR 6", "ISO 2022 IR 100"]
)
def test_a_name_in_any_character_set_is_that_of_the_seg(siemens, t2, charset):
    """No Japanese study got a SEG: the first of its character sets is empty."""
    _, labels, places = t2
    name = "Sumisu=隅巣" if isinstance(charset, list) else "Smith"
    files = []
    for file in scans_of(siemens)["t2"]:
        data = pydicom.dcmread(io.BytesIO(file))
        data.SpecificCharacterSet, data.PatientName = charset, name
        files.append(encode(data))
    seg = dicom_seg.write_seg(dicom_seg.read_source(files), labels, places, "fast", "0123")
    assert str(pydicom.dcmread(io.BytesIO(seg)).PatientName) == name


def test_an_anonymised_study_that_lacks_tags_gets_its_seg(siemens, t2):
    _, labels, places = t2
    bare = []
    for file in scans_of(siemens)["t2"]:
        data = pydicom.dcmread(io.BytesIO(file))
        for name in dicom_seg.WANTED:
            data.pop(name, None)
        sink = io.BytesIO()
        data.save_as(sink)
        bare.append(sink.getvalue())
    seg = dicom_seg.write_seg(dicom_seg.read_source(bare), labels, places, "fast", "0123")
    assert pydicom.dcmread(io.BytesIO(seg)).NumberOfFrames == 4


def test_labels_are_written_as_they_are(taken):
    space = Lattice.from_json(taken.record["space"])
    voxels = np.zeros(space.shape, np.uint8)
    voxels[3:6, 7:9, 8:10] = 3
    labels = on_case_grid(read_nifti(write_labels(Image(voxels, space)), "x"), "x", taken.record)
    assert np.array_equal(labels.voxels, voxels)
