import subprocess
import tempfile

import numpy as np
import pytest

from bts.errors import CaseError, RunError
from bts.intake.convert import convert
from bts.phantom.study import encode, slice_dataset, write_series
from tests.unit.intake.conftest import multi_frame

pytest.importorskip("dcm2niix", reason="requirements-intake.txt is not installed")
pydicom = pytest.importorskip("pydicom", reason="requirements-intake.txt is not installed")


@pytest.mark.parametrize("number", [5, 6, 7])
def test_voxels_and_places_are_exact(request, number):
    for name in ("ge", "siemens"):
        study = request.getfixturevalue(name)
        series = next(one for one in study.series if one.number == number)
        image = convert(list(write_series(study, series)), "t2", dicom=True)
        assert_same(image, series.scan)


def assert_same(image, scan):
    """Every voxel of the scan lies in the image where it was."""
    move = np.linalg.inv(image.lattice.affine) @ scan.affine
    whole = np.rint(move)
    assert np.abs(move - whole).max() < 1e-4
    x, y, z = np.indices(scan.voxels_xyz.shape).reshape(3, -1)
    i, j, k = (whole[:3, :3] @ np.stack([x, y, z]) + whole[:3, 3:]).astype(int)
    assert np.array_equal(image.voxels[k, j, i], scan.voxels_xyz.ravel())


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"])
def test_compressed_slices(ge, syntax):
    pytest.importorskip("jpeg_ls", reason="requirements-intake.txt is not installed")
    series = next(one for one in ge.series if one.number == 5)
    files = []
    for n in range(series.scan.voxels_xyz.shape[2]):
        data = slice_dataset(ge, series, n)
        data.PixelRepresentation = 0
        data.compress(syntax)
        files.append(encode(data))
    assert_same(convert(files, "t2", dicom=True), series.scan)


def test_spoilt_slices_fail_by_the_modality_s_name(ge):
    series = next(one for one in ge.series if one.number == 5)
    files = list(write_series(ge, series))
    with pytest.raises(CaseError, match="t2: "):
        convert([data[: len(data) // 2] for data in files], "t2", dicom=True)


def test_an_empty_series_is_refused(ge):
    series = next(one for one in ge.series if one.number == 5)
    files = []
    for n in range(series.scan.voxels_xyz.shape[2]):
        data = slice_dataset(ge, series, n)
        data.PixelData = bytes(len(data.PixelData))
        files.append(encode(data))
    with pytest.raises(CaseError, match="equal"):
        convert(files, "t2", dicom=True)


@pytest.mark.parametrize("share", [0.7, 1.2])
def test_a_full_disk_for_temporary_files_is_not_the_scan_s_fault(ge, tmp_path, monkeypatch, share):
    """It ends the run; as failures of their studies, some nights of it would leave all of them aside."""
    series = next(one for one in ge.series if one.number == 5)
    files = list(write_series(ge, series))
    size = f"size={int(share * sum(map(len, files))) // 1024}k"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", tmp_path], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with pytest.raises(RunError, match="No space left on device; make room"):
            convert(files, "t2", dicom=True)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize(
    ("order", "told", "scaled", "refusal"),
    [
        ([*range(1, 14, 2), *range(0, 14, 2)], True, False, ""),
        ([3, 0, 1, 2, *range(4, 14)], False, False, "mm away from where their tags say"),
        (range(14), True, True, "its frames have 2 scales"),
    ],
    ids=["interleaved", "another order", "scales"],
)
def test_frames_that_dcm2niix_does_not_read_as_they_are_meant(ge, order, told, scaled, refusal):
    """It took the distance of the first two for that of all: the volume was squeezed, without a word."""
    series = next(one for one in ge.series if one.number == 5)
    count = series.scan.voxels_xyz.shape[2]
    slices = [slice_dataset(ge, series, n) for n in [*order, *range(14, count)]]
    file = multi_frame(slices)
    if not told:
        del file.SpacingBetweenSlices
    if scaled:
        for n, frame in enumerate(file.PerFrameFunctionalGroupsSequence):
            frame.PixelValueTransformationSequence = [pydicom.Dataset()]
            frame.PixelValueTransformationSequence[0].RescaleSlope = 1 + n % 2
    if not refusal:
        assert_same(convert([encode(file)], "t2", dicom=True), series.scan)
        return
    with pytest.raises(CaseError, match=f"t2: .*{refusal}"):
        convert([encode(file)], "t2", dicom=True)
