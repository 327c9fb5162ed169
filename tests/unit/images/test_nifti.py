"""bts.images.nifti and grid: voxels of any orientation and type, there and back; what is refused."""

import gzip
import io
import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bts.errors import CaseError
from bts.images.nifti import read_nifti, write_labelmap
from tests import builders

CODES = [
    "".join(pair[0 if up else 1] for pair, up in zip(order, ups, strict=True))
    for order in itertools.permutations(("RL", "AP", "SI"))
    for ups in itertools.product((0, 1), repeat=3)
]


def reread(data: bytes) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(data))


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("rotation", [0.0, 0.2])
def test_labels_come_back_to_the_very_voxels(codes, rotation):
    labels = np.random.default_rng(1).integers(0, 4, (5, 6, 7)).astype(np.uint8)
    matrix = builders.affine(codes, (1.0, 1.2, 2.5), rotation)
    volume = read_nifti(builders.nifti(labels, matrix), "seg.nii.gz")
    back = reread(write_labelmap(volume.voxels, volume.grid, "test"))
    assert np.array_equal(np.asarray(back.dataobj), labels)
    assert np.allclose(back.affine, matrix, atol=1e-5)
    assert np.allclose(back.header.get_zooms(), (1.0, 1.2, 2.5))


@pytest.mark.parametrize("codes", ["LPS", "LAS", "RPS", "PIR", "SAL"])
def test_a_qform_alone_tells_the_place_of_left_handed_grids_too(codes):
    labels = np.random.default_rng(1).integers(0, 4, (5, 6, 7)).astype(np.uint8)
    raw = bytearray(builders.nifti(labels, builders.affine(codes, (1, 1.2, 2.5), 0.2), compress=False))
    both = read_nifti(bytes(raw), "x")
    raw[254:256] = bytes(2)  # sform_code
    found = read_nifti(bytes(raw), "x")
    assert np.array_equal(found.voxels, both.voxels) and found.grid.same_place(both.grid, 1e-4)
    back = reread(write_labelmap(found.voxels, found.grid, ""))
    assert np.array_equal(np.asarray(back.dataobj), labels)
    assert np.allclose(back.affine, builders.affine(codes, (1, 1.2, 2.5), 0.2), atol=1e-5)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SAL"])
def test_canonical_axes_point_left_back_and_up(codes):
    """A ramp along one world direction must rise along the axis that the docstring promises."""
    matrix = builders.affine(codes)
    index = np.stack(np.meshgrid(*map(np.arange, (5, 6, 7)), indexing="ij"), -1)
    world = index @ matrix[:3, :3].T  # RAS mm
    for axis, (direction, sign) in enumerate([(2, 1), (1, -1), (0, -1)]):  # D up, H back, W left
        ramp = (sign * world[..., direction] + 50).astype(np.int16)
        voxels = read_nifti(builders.nifti(ramp, matrix), "x.nii").voxels
        assert (np.diff(voxels.astype(int), axis=axis) == 1).all()


def test_header_is_the_source_s():
    labels = np.zeros((5, 6, 7), np.uint8)
    image = nib.Nifti1Image(labels.astype(np.float32), builders.affine("RAS"))
    image.header.set_qform(image.affine, 2)
    image.header.set_sform(image.affine, 4)
    image.header.set_xyzt_units("mm", "sec")
    volume = read_nifti(image.to_bytes().replace(b"n+1\0", b"n+1 "), "t1.nii")  # as a careless tool ends it
    header = reread(write_labelmap(labels.T.copy(), volume.grid, "bts 0123")).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (2, 4)
    assert header.get_data_dtype() == np.uint8 and header.get_intent()[0] == "label"
    assert header["dim"].tolist() == [3, 5, 6, 7, 1, 1, 1, 1]
    assert header.get_xyzt_units() == ("mm", "sec") and bytes(header["descrip"]).startswith(b"bts 0123")


def test_equal_voxels_are_equal_bytes():
    labels = np.ones((4, 5, 6), np.uint8)
    grid = read_nifti(builders.nifti(labels.T.copy()), "a").grid
    assert write_labelmap(labels, grid, "x") == write_labelmap(labels.copy(), grid, "x")


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(["i1", "u1", "<i2", ">i2", "<u2", "<i4", ">i4", "<f4", ">f4", "<f8", ">f8"]),
    slope=st.sampled_from([None, 2.0, 0.5]),
    compress=st.booleans(),
)
def test_reads_what_nibabel_reads(dtype, slope, compress):
    values = np.arange(5 * 4 * 3).reshape(5, 4, 3).astype(np.dtype(dtype))
    image = nib.Nifti1Image(values, builders.affine("LPS"))
    image = nib.Nifti1Image(
        values, image.affine, image.header.as_byteswapped(">" if dtype[0] == ">" else "<")
    )
    raw = bytearray(image.to_bytes())
    if slope is not None:
        order = image.header.endianness
        raw[112:120] = np.array([slope, 1.0], order + "f4").tobytes()
    data = gzip.compress(bytes(raw)) if compress else bytes(raw)
    expected = np.asarray(nib.Nifti1Image.from_bytes(bytes(raw)).dataobj)
    assert np.array_equal(read_nifti(data, "x").voxels, expected.T)


GOOD = builders.nifti(np.arange(60, dtype=np.int16).reshape(5, 4, 3), compress=False)


def patched(offset: int, value: np.ndarray) -> bytes:
    return GOOD[:offset] + value.tobytes() + GOOD[offset + value.nbytes :]


BAD = {
    "empty": (b"", "not a NIfTI file"),
    "text": (b"<html>404</html>" * 100, "not a NIfTI file"),
    "truncated": (GOOD[:-3], "ends after"),
    "longer": (GOOD + b"\0", "goes on after"),
    "truncated gzip": (gzip.compress(GOOD)[:-20], "truncated or corrupt"),
    "broken checksum": (gzip.compress(GOOD)[:-8] + b"\0" * 8, "truncated or corrupt"),
    "claims 60 GB": (patched(42, np.array([32000, 32000, 30], "<i2")), "claims"),
    "claims more than it holds": (patched(42, np.array([500, 500, 500], "<i2")), "claims"),
    "negative size": (patched(42, np.array([-5], "<i2")), "shape"),
    "4D": (patched(40, np.array([4, 5, 2, 3, 2], "<i2")), "3D image is due"),
    "no dimensions": (patched(40, np.array([0], "<i2")), "dimensions"),
    "RGB": (patched(70, np.array([128, 24], "<i2")), "no plain number"),
    "unknown type": (patched(70, np.array([999, 16], "<i2")), "no plain number"),
    "NaN affine": (patched(280, np.array([np.nan], "<f4")), "affine"),
    "flat affine": (patched(280, np.zeros(12, "<f4")), "affine"),
    "voxels within the header": (patched(108, np.array([0], "<f4")), "voxels at byte 0"),
    "voxels nowhere": (patched(108, np.array([np.nan], "<f4")), "voxels at byte nan"),
    "infinite scale": (patched(112, np.array([np.inf], "<f4")), "scale"),
}


@pytest.mark.parametrize("beyond", [0, 7])
def test_sizes_beyond_the_rank_mean_nothing(beyond):
    """dim[4] and on of a 3D file: some tools leave 0 there, or what they had."""
    found = read_nifti(patched(48, np.full(4, beyond, "<i2")), "x")
    assert np.array_equal(found.voxels, read_nifti(GOOD, "x").voxels)


@pytest.mark.parametrize("axis", range(3))
def test_a_spacing_that_the_header_lacks_is_that_of_its_sform(axis):
    zooms = (1.0, 1.2, 2.5)
    raw = bytearray(
        builders.nifti(np.zeros((5, 4, 3), np.int16), builders.affine("PIR", zooms), compress=False)
    )
    raw[80 + 4 * axis : 84 + 4 * axis] = bytes(4)  # pixdim
    assert read_nifti(bytes(raw), "x").grid.source_zooms == pytest.approx(zooms)


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_the_file_s_fault(what):
    data, reason = BAD[what]
    with pytest.raises(CaseError, match=reason) as caught:
        read_nifti(data, "case/file.nii.gz")
    assert "case/file.nii.gz" in str(caught.value) and caught.value.mend


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_refused(value):
    voxels = np.ones((4, 4, 4), np.float32)
    voxels[1, 2, 3] = value
    with pytest.raises(CaseError, match="1 voxels are NaN or infinite"):
        read_nifti(builders.nifti(voxels), "t1.nii.gz")


def test_a_gzip_bomb_is_not_unpacked():
    bomb = gzip.compress(GOOD + bytes(200 << 20))
    assert len(bomb) < 300_000
    with pytest.raises(CaseError, match="goes on after"):
        read_nifti(bomb, "t1.nii.gz")


@pytest.mark.parametrize("folder", ["nan-voxels", "not-nifti", "onehot-4d-labels"])
def test_real_oddities_are_refused(real_data, folder):
    for path in sorted((real_data / "oddities" / folder).iterdir()):
        with pytest.raises(CaseError):
            read_nifti(path.read_bytes(), path.name)


def test_a_real_permuted_scan_comes_back(real_data):
    for path in sorted((real_data / "oddities" / "orientation-PIR_healthy-brain").iterdir()):
        source = nib.load(path)
        volume = read_nifti(path.read_bytes(), path.name)
        labels = (volume.voxels > 0).astype(np.uint8)
        back = nib.Nifti1Image.from_stream(
            io.BytesIO(gzip.decompress(write_labelmap(labels, volume.grid, "")))
        )
        assert np.array_equal(np.asarray(back.dataobj), np.asarray(source.dataobj) > 0)
        assert np.allclose(back.affine, source.affine)


@pytest.mark.parametrize("degrees", [1e-3, 1e-4])
def test_axes_that_a_rounding_would_exchange_are_not_the_same_place(degrees):
    """At 45° two images that lie within a micrometre of each other would be turned to different axes."""
    before, after = (
        read_nifti(builders.nifti(np.zeros((4, 4, 4), np.int16), turned(45 + d)), "x").grid
        for d in (-degrees, degrees)
    )
    assert before.orientation != after.orientation and not before.same_place(after)
    assert before.same_place(before)


@pytest.mark.parametrize(("degrees", "same"), [(0.005, True), (0.02, False)])
def test_the_farthest_voxel_decides_whether_two_images_lie_at_one_place(degrees, same):
    """Of 100 columns: turned by 0.02° around the first voxel, the last is 0.035 mm away."""
    first, second = (
        read_nifti(builders.nifti(np.zeros((100, 4, 4), np.int16), builders.LPS @ turned(d)), "x").grid
        for d in (0, degrees)
    )
    assert first.same_place(second) == same


def turned(degrees: float) -> np.ndarray:
    """An affine turned around the head-foot axis."""
    turn, matrix = np.deg2rad(degrees), np.eye(4)
    matrix[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    return matrix
