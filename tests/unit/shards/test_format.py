"""bts.shards.format: a case written as Parquet slices and read back, without a loss."""

import io

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

from bts.cases import figshare
from bts.cases.case import CaseVolume
from bts.cases.layouts import find_cases
from bts.cases.read import fetch, load_case, read_role
from bts.errors import CaseError, UsageError
from bts.images.nifti import write_labelmap
from bts.labels import from_internal, to_internal
from bts.modalities import MODALITIES
from bts.scoring import tables
from bts.scoring.scores import Scored
from bts.shards.catalogue import read_catalogue
from bts.shards.format import SCHEMA, read_volume, write_shard
from bts.storage import Store
from tests import builders
from tests.unit.images.test_nifti import reread


def one_case(tmp_path, files: dict[str, bytes], **options) -> CaseVolume:
    store = Store(str(tmp_path))
    builders.put_all(store, files)
    (case,) = find_cases(store.list(), **options).cases
    return load_case(case, store)


def canonical(path) -> np.ndarray:
    """(D, H, W) of a file by nibabel alone."""
    image = nib.load(path)
    lps = nib.orientations.axcodes2ornt("LPS")
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), lps)
    return nib.orientations.apply_orientation(np.asarray(image.dataobj), turn).T


def test_a_file_too_large_for_a_scan_is_not_read_at_all(tmp_path):
    name = "BraTS-GLI-00001-000"
    builders.put_all(Store(str(tmp_path)), builders.case_files(name))
    with open(tmp_path / name / f"{name}-t2w.nii.gz", "r+b") as file:
        file.truncate(1 << 42)  # sparse: it takes no room
    (case,) = find_cases(Store(str(tmp_path)).list()).cases
    with pytest.raises(CaseError, match="4096 GiB large") as caught:
        load_case(case, Store(str(tmp_path)))
    assert (caught.value.case, caught.value.stage) == (name, "read")


def test_a_file_that_memory_does_not_hold_says_so(tmp_path):
    class Full(Store):
        def read(self, key):
            raise MemoryError

    with pytest.raises(CaseError, match=r"x\.nii: cannot be read: no memory for it"):
        fetch("x.nii", Full(str(tmp_path)))


def test_a_shard_whose_reading_would_run_code_is_refused(tmp_path):
    """Ray unpickles the values of a type that it registers, as soon as they are taken out of a table."""
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

    name = "BraTS-GLI-00001-000"
    sound = pq.read_table(io.BytesIO(write_shard(one_case(tmp_path, builders.case_files(name)), {})))
    trap = ArrowPythonObjectArray.from_objects([Trap(tmp_path / "sprung")] * len(sound))
    place, sink = sound.schema.get_field_index("case_id"), io.BytesIO()
    pq.write_table(sound.set_column(place, "case_id", trap), sink)
    with pytest.raises(ValueError, match="extension type"):
        read_volume(sink.getvalue())
    Store(str(tmp_path / "shards")).put(f"{name}.0123456789ab.parquet", sink.getvalue())
    with pytest.raises(UsageError, match="extension type"):
        read_catalogue(Store(str(tmp_path / "shards")))
    scores = {region: {"dice": 1.0} for region in ("WT", "TC", "ET")}
    table = pq.read_table(io.BytesIO(tables.write([Scored("a", "", "", scores)])["scores.parquet"]))
    trap = ArrowPythonObjectArray.from_objects([Trap(tmp_path / "sprung")] * len(table))
    pq.write_table(table.set_column(0, table.column_names[0], trap), sink := io.BytesIO())
    with pytest.raises(UsageError, match=r"no scores\.parquet"):
        tables.read(sink.getvalue(), "scores.parquet")
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "ASR"])
@pytest.mark.parametrize("rotation", [0.0, 0.15])
def test_truth_survives_crop_and_restore(tmp_path, codes, rotation):
    """Truth → crop → shard → restore → labelmap: the very voxels, on any axes."""
    name = "BraTS-GLI-00001-000"
    matrix = builders.affine(codes, rotation=rotation)
    volume = one_case(tmp_path, builders.case_files(name, matrix=matrix))
    again = read_volume(write_shard(volume, {}))
    data = write_labelmap(from_internal(again.whole(again.mask), again.labels), again.grid, "x")
    truth = nib.load(tmp_path / name / f"{name}-seg.nii.gz")
    assert np.array_equal(np.asarray(reread(data).dataobj), np.asarray(truth.dataobj))
    assert np.array_equal(reread(data).affine, truth.affine)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.uint8, np.int32, np.float64])
def test_pixels_are_lossless_in_the_smallest_type(tmp_path, dtype):
    images, _ = builders.voxels(dtype=dtype)
    if dtype == np.uint16:
        images["t1"][5, 5, 5] = 60000
    if dtype == np.float32:
        images["t1"][5, 5, 5] = 0.25
    for modality, image in images.items():
        (tmp_path / f"X_{modality}.nii.gz").write_bytes(builders.nifti(image))
    volume = one_case(tmp_path, {})
    expected = {np.uint16: "uint16", np.float32: "float32"}.get(dtype, "int16")
    assert volume.images.dtype == expected
    again = read_volume(write_shard(volume, {}))
    for modality, image in zip(MODALITIES, again.whole(again.images), strict=True):
        assert np.array_equal(image, images[modality].T)


def test_statistics_are_numpy_s(tmp_path):
    volume = one_case(
        tmp_path, builders.case_files("BraTS2021_00001", names=builders.NAMES_2021, enhancing=4)
    )
    for c, image in enumerate(volume.images):
        brain = image[image != 0].astype(float)
        expected = [brain.mean(), brain.std(), *np.percentile(brain, (1, 99))]
        assert np.allclose([s[c] for s in (volume.mean, volume.std, volume.p01, volume.p99)], expected)


def test_a_row_says_all_of_itself(tmp_path):
    volume = one_case(tmp_path, builders.case_files("BraTS-SSA-00001-000"))
    table = pq.read_table(io.BytesIO(write_shard(volume, {"t1": "etag"})))
    assert table.schema.remove_metadata() == SCHEMA
    row = table.slice(5, 1).to_pylist()[0]
    shape = row["height"], row["width"]
    assert np.array_equal(np.frombuffer(row["flair"], row["dtype"]).reshape(shape), volume.images[3, 5])
    assert row["z"] == volume.origin[0] + 5 and row["tumour_px"] == (volume.mask[5] > 0).sum()
    assert (row["case_id"], row["patient_id"]) == ("BraTS-SSA-00001-000", "BraTS-SSA-00001")


def test_modalities_come_in_the_order_asked_for(tmp_path):
    data = write_shard(one_case(tmp_path, builders.case_files("BraTS-SSA-00001-000")), {})
    whole, part = read_volume(data), read_volume(data, ("flair", "t1"))
    assert np.array_equal(part.images, whole.images[[3, 0]]) and np.array_equal(part.mean, whole.mean[[3, 0]])


def test_an_unlabelled_case_has_no_mask(tmp_path):
    volume = one_case(tmp_path, builders.case_files("BraTS-SSA-00001-000", truth=False))
    assert read_volume(write_shard(volume, {})).mask is None


def test_msd_channels_and_labels_are_put_in_order(tmp_path):
    images, labels = builders.voxels()
    stacked = np.stack([images[m] for m in ("flair", "t1", "t1ce", "t2")], axis=-1)
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "imagesTr" / "BRATS_001.nii.gz").write_bytes(builders.nifti(stacked))
    swapped = np.array([0, 2, 1, 3], np.uint8)[labels]
    (tmp_path / "labelsTr" / "BRATS_001.nii.gz").write_bytes(builders.nifti(swapped))
    volume = one_case(tmp_path, {})
    for modality, image in zip(MODALITIES, volume.whole(volume.images), strict=True):
        assert np.array_equal(image, images[modality].T)
    assert np.array_equal(volume.whole(volume.mask), labels.T)


def spoiled(**changes: np.ndarray) -> dict[str, bytes]:
    files = builders.case_files("BraTS-SSA-00001-000")
    for role, voxels in changes.items():
        (key,) = [k for k in files if k.endswith(f"-{role}.nii.gz")]
        files[key] = builders.nifti(voxels)
    return files


IMAGES, TRUTH = builders.voxels()
BAD_CASES = {
    "all zero": (spoiled(t1c=np.zeros((20, 24, 12), np.int16)), "t1c", "every voxel is zero"),
    "constant": (spoiled(t2w=(IMAGES["t2"] > 0).astype(np.int16)), "t2w", "the same value"),
    "other grid": (spoiled(t2f=IMAGES["flair"][:-1]), "t2f", "another grid"),
    "truth on another grid": (spoiled(seg=TRUTH[:, :, :-1]), "seg", "another grid"),
    "label 4 in 2023": (spoiled(seg=np.where(TRUTH == 3, 4, TRUTH).astype(np.uint8)), "seg", "labels 4"),
    "labels of a softmax": (spoiled(seg=TRUTH.astype(np.float32) * 0.5), "seg", "labels 0.5, 1.5"),
}


@pytest.mark.parametrize("what", BAD_CASES)
def test_bad_cases_say_which_file_and_why(tmp_path, what):
    files, role, reason = BAD_CASES[what]
    with pytest.raises(CaseError, match=reason) as caught:
        one_case(tmp_path, files)
    assert caught.value.case == "BraTS-SSA-00001-000" and f"-{role}.nii.gz" in caught.value.file
    assert caught.value.stage in ("read", "check") and caught.value.mend


def test_a_missing_modality_is_named(tmp_path):
    files = builders.case_files("BraTS-SSA-00001-000")
    del files["BraTS-SSA-00001-000/BraTS-SSA-00001-000-t1n.nii.gz"]
    with pytest.raises(CaseError, match="t1 missing"):
        one_case(tmp_path, files)


def test_images_shifted_in_space_are_another_grid(tmp_path):
    moved = builders.LPS.copy()
    moved[0, 3] += 1
    files = spoiled()
    files["BraTS-SSA-00001-000/BraTS-SSA-00001-000-t2w.nii.gz"] = builders.nifti(IMAGES["t2"], moved)
    with pytest.raises(CaseError, match="another grid"):
        one_case(tmp_path, files)


def test_a_relabelled_truth_is_not_taken_for_its_year(real_data):
    """BraTS 2021 by name, with 4 rewritten to 3: {1, 2, 3} must not pass as {1, 2, 4}."""
    store = Store(str(real_data / "oddities"))
    (case,) = [c for c in find_cases(store.list()).cases if c.id == "BraTS2021_00006"]
    with pytest.raises(CaseError, match="labels 3 are not of the convention brats2021"):
        to_internal(read_role(case, store, "seg").voxels, case.labels)


@pytest.mark.slow
def test_every_real_case_comes_back_voxel_for_voxel(real_cases):
    store = Store(str(real_cases))
    listing = find_cases(store.list())
    assert len(listing.cases) == len(list(real_cases.iterdir()))
    for case in listing.cases:
        volume = read_volume(write_shard(load_case(case, store), {}))
        for modality, image in zip(MODALITIES, volume.whole(volume.images), strict=True):
            assert np.array_equal(image, canonical(store.path(case.files[modality].key))), case.id
        labels = from_internal(volume.whole(volume.mask), case.labels)
        assert np.array_equal(labels, canonical(store.path(case.files["seg"].key))), case.id


def test_figshare_patients(real_data):
    store = Store(str(real_data / "figshare"))
    rows = [figshare.read_index_row(store.read(e.key), e) for e in find_cases(store.list()).slices]
    cases = figshare.cases_of(rows)
    assert (len(rows), len(cases)) == (54, 18)
    assert "MR026175" in {c.patient for c in cases}  # MR026175C without its letter
    glioma = next(c for c in cases if c.patient == "MR026175")
    volume = read_volume(write_shard(load_case(glioma, store), {}), ("t1ce",))
    areas = (volume.mask == 2).sum(axis=(1, 2)).tolist()
    assert (glioma.group, areas) == ("glioma", [1991, 9377, 5938])  # INDEX.csv: 1987, 1990, 1993
    assert volume.images.max() <= 12728 and set(np.unique(volume.mask)) == {0, 2}


def test_patients_with_a_letter_are_one():
    assert figshare.patient_of("MR048294B") == figshare.patient_of("MR048294") == "MR048294"
    assert figshare.patient_of("101797") == "101797"


@pytest.mark.parametrize("data", [b"", b"MATLAB 5.0 MAT-file" * 50, b"\x89HDF\r\n\x1a\n" + bytes(500)])
def test_rubbish_for_a_mat_file_is_the_file_s_fault(data):
    with pytest.raises(CaseError, match="cannot be decoded"):
        figshare.read_slice(data, "1.mat")
