"""MetaImage files against the NIfTI of the same voxels and affine."""

import gzip
import zlib

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.errors import CaseError
from bts.images.metaimage import MAX_HEADER, read_mha
from bts.images.nifti import read_nifti, write_labelmap
from bts.labels import from_internal
from bts.storage import Store
from tests import builders
from tests.unit.images.test_nifti import CODES

TYPES = {
    "MET_CHAR": np.int8,
    "MET_UCHAR": np.uint8,
    "MET_SHORT": np.int16,
    "MET_USHORT": np.uint16,
    "MET_INT": np.int32,
    "MET_UINT": np.uint32,
    "MET_LONG_LONG": np.int64,
    "MET_ULONG_LONG": np.uint64,
    "MET_FLOAT": np.float32,
    "MET_DOUBLE": np.float64,
}
RAMP = np.arange(60, dtype=np.int16).reshape(5, 4, 3)


def words(values) -> str:
    return " ".join(f"{v:.12g}" for v in np.ravel(values))


def mha(
    voxels_xyz: np.ndarray,
    affine=builders.LPS,
    *,
    compress=False,
    big=False,
    body=None,
    **changes: str | None,
) -> bytes:
    """A .mha of voxels in the file's own (x, y, z) order and an affine in RAS+, as NIfTI's.

    `changes` put other values into the header, None takes a line out; `body` replaces the voxels' bytes.
    """
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": str(big),
        "CompressedData": str(compress),
        "TransformMatrix": words([lps[:3, axis] / spacing[axis] for axis in range(3)]),
        "Offset": words(lps[:3, 3]),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": words(spacing),
        "DimSize": words(voxels_xyz.shape),
        "ElementType": next(k for k, v in TYPES.items() if v == voxels_xyz.dtype),
        **changes,
    }
    lines["ElementDataFile"] = lines.pop("ElementDataFile", "LOCAL")
    if body is None:
        body = voxels_xyz.astype(voxels_xyz.dtype.newbyteorder(">" if big else "<")).tobytes("F")
        body = zlib.compress(body) if compress else body
    header = "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)
    return header.encode() + body


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("rotation", [0.0, 0.2])
def test_is_the_nifti_of_the_same_image(codes, rotation):
    matrix = builders.affine(codes, (1.0, 1.2, 2.5), rotation)
    volume = read_mha(mha(RAMP, matrix), "x.mha")
    expected = read_nifti(builders.nifti(RAMP, matrix), "x.nii.gz")
    assert np.array_equal(volume.voxels, expected.voxels)
    assert volume.voxels.dtype == expected.voxels.dtype and volume.voxels.flags.writeable
    assert volume.grid.same_place(expected.grid, 1e-4)
    assert volume.grid.orientation == expected.grid.orientation
    assert np.allclose(volume.grid.zooms, expected.grid.zooms)


def test_the_matrix_names_the_axes_one_by_one():
    """x runs to the back, y up, z to the left: a matrix read by rows instead would turn the other way."""
    header = {"TransformMatrix": "0 1 0 0 0 1 1 0 0", "Offset": "10 20 30", "ElementSpacing": "2 3 4"}
    affine = read_mha(mha(RAMP, **header), "x.mha").grid.source_affine
    assert affine.tolist() == [[0, 0, -4, -10], [-2, 0, 0, -20], [0, 3, 0, 30], [0, 0, 0, 1]]


@pytest.mark.parametrize("matrix", [builders.LPS, builders.affine("SAR", (1, 1, 3), 0.3)])
def test_labelmaps_are_written_on_its_grid(matrix):
    labels = np.random.default_rng(1).integers(0, 4, (5, 6, 7)).astype(np.uint8)
    volume = read_mha(mha(labels, matrix), "OT.mha")
    raw = gzip.decompress(write_labelmap(volume.voxels, volume.grid, "test"))
    back = nib.Nifti1Image.from_bytes(raw)
    assert np.array_equal(np.asarray(back.dataobj), labels)
    for affine, code in (back.get_sform(coded=True), back.get_qform(coded=True)):
        assert code == 1 and np.allclose(affine, matrix, atol=1e-4)
    assert back.header.get_xyzt_units()[0] == "mm"


def test_a_file_without_a_place_is_read_as_nifti_without_one():
    nifti = nib.Nifti1Image(RAMP, None)
    nifti.header.set_zooms((0.5, 1, 2))
    expected = read_nifti(nifti.to_bytes(), "x.nii")
    given = {"ElementSpacing": "0.5 1 2", "TransformMatrix": None, "Offset": None}
    volume = read_mha(mha(RAMP, **given), "x.mha")
    assert volume.grid.guessed and expected.grid.guessed and not read_mha(mha(RAMP), "x.mha").grid.guessed
    assert np.array_equal(volume.voxels, expected.voxels) and volume.grid.same_place(expected.grid)
    assert volume.grid.orientation == "LAS" and volume.grid.zooms == (2, 1, 0.5)
    back = nib.Nifti1Image.from_bytes(
        gzip.decompress(write_labelmap(volume.voxels.astype(np.uint8), volume.grid, "test"))
    )
    assert back.header["qform_code"] == back.header["sform_code"] == 0, "a guess is not written as known"


def test_a_sheared_grid_has_no_qform():
    matrix = builders.affine("LPS")
    matrix[0, 1] = 0.4
    grid = read_mha(mha(RAMP, matrix), "x.mha").grid
    header = nib.Nifti1Header(grid.header, check=False)
    assert np.allclose(grid.source_affine, matrix)
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
    assert np.allclose(header.get_zooms(), np.linalg.norm(matrix[:3, :3], axis=0))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("compress", [False, True])
def test_every_element_type(kind, big, compress):
    values = (RAMP - (0 if np.dtype(TYPES[kind]).kind == "u" else 30)).astype(TYPES[kind])
    voxels = read_mha(mha(values, builders.affine("LPS"), compress=compress, big=big), "x.mha").voxels
    assert voxels.dtype == TYPES[kind] and voxels.dtype.isnative
    assert np.array_equal(voxels, values.T)


SYNONYMS = {
    "Rotation": ("TransformMatrix", "1 0 0 0 1 0 0 0 1"),
    "Orientation": ("TransformMatrix", "1 0 0 0 1 0 0 0 1"),
    "Position": ("Offset", "0 -239 0"),
    "Origin": ("Offset", "0 -239 0"),
}


@pytest.mark.parametrize("key", SYNONYMS)
def test_synonyms(key):
    replaced, value = SYNONYMS[key]
    grid = read_mha(mha(RAMP, **{replaced: None, key: value}), "x.mha").grid
    assert np.array_equal(grid.source_affine, builders.LPS)


def test_byte_order_by_its_other_name():
    data = mha(RAMP, big=True, BinaryDataByteOrderMSB=None, ElementByteOrderMSB="True")
    assert np.array_equal(read_mha(data, "x.mha").voxels, RAMP.T)


RAW = RAMP.tobytes("F")
TOLERATED = {
    "Windows' line ends": mha(RAMP, body=b"").replace(b"\n", b"\r\n") + RAW,
    "no spaces around =": mha(RAMP, body=b"").replace(b" = ", b"=") + RAW,
    "one channel, said": mha(RAMP, ElementNumberOfChannels="1"),
    "bytes behind the voxels": mha(RAMP) + b"\n",
    "bytes behind the zlib stream": mha(RAMP, compress=True) + b"garbage",
    "gzip instead of zlib": mha(RAMP, CompressedData="True", body=gzip.compress(RAW)),
    "only what is needed": mha(RAMP, ObjectType=None, BinaryData=None, CompressedData=None),
}


@pytest.mark.parametrize("what", TOLERATED)
def test_is_read_all_the_same(what):
    assert np.array_equal(read_mha(TOLERATED[what], "x.mha").voxels, RAMP.T)


PACKED = zlib.compress(RAW)
BAD = {
    "empty": (b"", "not a MetaImage"),
    "text": (b"<html>404</html>\n" * 100, "not a MetaImage"),
    "NIfTI": (builders.nifti(RAMP, compress=False), "not a MetaImage"),
    "no end of the header": (b"Comment = x\n" * 5000, "not a MetaImage"),
    "a header too long": (b"Comment = x\n" * (MAX_HEADER // 12) + mha(RAMP), "not a MetaImage"),
    "another file": (mha(RAMP, ElementDataFile="/etc/passwd"), r"not in the file but in '/etc/passwd'"),
    "a list of files": (mha(RAMP, ElementDataFile="LIST"), "not in the file"),
    "2D": (mha(RAMP, NDims="2", DimSize="5 12"), "NDims"),
    "4D": (mha(RAMP, NDims="4", DimSize="5 4 3 1"), "NDims"),
    "a mesh": (mha(RAMP, ObjectType="Mesh"), "ObjectType"),
    "channels": (mha(RAMP, ElementNumberOfChannels="3"), "ElementNumberOfChannels"),
    "as text": (mha(RAMP, BinaryData="False"), "BinaryData"),
    "voxels elsewhere": (mha(RAMP, HeaderSize="4096"), "HeaderSize"),
    "no DimSize": (mha(RAMP, DimSize=None), "no DimSize"),
    "no NDims": (mha(RAMP, NDims=None), "no NDims"),
    "no ElementType": (mha(RAMP, ElementType=None), "no ElementType"),
    "no ElementSpacing": (mha(RAMP, ElementSpacing=None), "no ElementSpacing"),
    "no TransformMatrix": (mha(RAMP, TransformMatrix=None), "no TransformMatrix"),
    "no place, no spacing": (
        mha(RAMP, TransformMatrix=None, Offset=None, ElementSpacing=None),
        "no ElementSpacing",
    ),
    "no place, voxels of 900 mm": (
        mha(RAMP, TransformMatrix=None, Offset=None, ElementSpacing="900 1 1"),
        "voxels of 900",
    ),
    "no Offset": (mha(RAMP, Offset=None), "no Offset"),
    "empty size": (mha(RAMP, DimSize="0 4 3"), "shape 0×4×3"),
    "negative size": (mha(RAMP, DimSize="-5 4 3"), "shape"),
    "broken size": (mha(RAMP, DimSize="5.5 4 3"), "DimSize"),
    "two sizes": (mha(RAMP, DimSize="5 4"), "DimSize"),
    "a size of 4000 digits": (mha(RAMP, DimSize="9" * 4000 + " 4 3"), "DimSize"),
    "a size of 9000 digits": (mha(RAMP, DimSize="9" * 9000 + " 4 3"), "DimSize"),
    "a side beyond 16 bits": (mha(RAMP, DimSize="40000 4 4"), "32,767"),
    "no 16-bit size": (mha(RAMP, DimSize="32768 1 1"), "32,767"),
    "claims 60 TB": (mha(RAMP, DimSize="32000 32000 32000"), "claims"),
    "claims more than it holds": (mha(RAMP, DimSize="500 500 500"), "claims"),
    "unknown type": (mha(RAMP, ElementType="MET_LONG"), "MET_LONG"),
    "RGB": (mha(RAMP, ElementType="MET_UCHAR_ARRAY"), "MET_UCHAR_ARRAY"),
    "no number": (mha(RAMP, Offset="a b c"), "Offset"),
    "NaN offset": (mha(RAMP, Offset="nan 0 0"), "Offset"),
    "infinite spacing": (mha(RAMP, ElementSpacing="inf 1 1"), "ElementSpacing"),
    "overflowing matrix": (mha(RAMP, TransformMatrix="1e300 0 0 0 1e300 0 0 0 1e300"), "TransformMatrix"),
    "NaN matrix": (mha(RAMP, TransformMatrix="nan 0 0 0 1 0 0 0 1"), "TransformMatrix"),
    "2×2 matrix": (mha(RAMP, TransformMatrix="1 0 0 1"), "TransformMatrix"),
    "zero spacing": (mha(RAMP, ElementSpacing="0 1 1"), "the spacing is 0, 1, 1 mm"),
    "negative spacing": (mha(RAMP, ElementSpacing="1 -1 1"), "the spacing"),
    "vanishing spacing": (mha(RAMP, ElementSpacing="1 1 1e-300"), "affine"),
    "flat matrix": (mha(RAMP, TransformMatrix="1 0 0 1 0 0 0 0 1"), "affine"),
    "zero matrix": (mha(RAMP, TransformMatrix="0 0 0 0 0 0 0 0 0"), "affine"),
    "flat to NIfTI's 32 bits": (mha(RAMP, TransformMatrix="1e6 1 0 1e6 1.0000000001 0 0 0 1"), "affine"),
    "truncated": (mha(RAMP)[:-3], "ends after 117 of 120"),
    "without voxels": (mha(RAMP, body=b""), "ends after 0"),
    "truncated zlib": (mha(RAMP, compress=True)[:-20], "truncated"),
    "zlib without its checksum": (mha(RAMP, compress=True)[:-4], "truncated"),
    "broken checksum": (mha(RAMP, CompressedData="True", body=PACKED[:-4] + b"\0" * 4), "corrupt"),
    "no zlib": (mha(RAMP, CompressedData="True"), "corrupt"),
    "zlib without voxels": (mha(RAMP, CompressedData="True", body=b""), "truncated"),
    "too few voxels in zlib": (mha(RAMP, CompressedData="True", body=zlib.compress(RAW[:-2])), "ends after"),
    "too many voxels in zlib": (mha(RAMP, CompressedData="True", body=zlib.compress(RAW + b"\0")), "goes on"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_the_file_s_fault(what):
    data, reason = BAD[what]
    with pytest.raises(CaseError, match=reason) as caught:
        read_mha(data, "case/file.mha")
    assert "case/file.mha" in str(caught.value) and caught.value.mend
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_refused(value):
    voxels = np.ones((4, 4, 4), np.float32)
    voxels[1, 2, 3] = value
    with pytest.raises(CaseError, match="1 voxels are NaN or infinite"):
        read_mha(mha(voxels), "t1.mha")


def test_a_bomb_is_not_unpacked(monkeypatch):
    unpacked = []

    class Counting:
        """zlib's decompressor, and how much came out of it."""

        def __init__(self, **options):
            self.stream = REAL(**options)

        def decompress(self, body, most):
            unpacked.append(len(out := self.stream.decompress(body, most)))
            return out

    REAL = zlib.decompressobj
    bomb = mha(RAMP, CompressedData="True", body=zlib.compress(RAW + bytes(50 << 20)))
    monkeypatch.setattr(zlib, "decompressobj", Counting)
    with pytest.raises(CaseError, match="goes on after"):
        read_mha(bomb, "t1.mha")
    assert unpacked == [RAMP.nbytes + 1]


FUZZED = [mha(RAMP), mha(RAMP, compress=True), mha(RAMP.astype(np.float32), big=True)]
KEYS = ["NDims", "DimSize", "ElementType", "ElementSpacing", "TransformMatrix", "Offset", "CompressedData"]
WORDS = st.sampled_from(
    ["0", "1", "-1", "3", "nan", "inf", "1e308", "1e-30", "9" * 30, "MET_FLOAT", "True", "x"]
)
PLACES = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4)


@settings(max_examples=200)
@given(
    data=st.sampled_from(FUZZED),
    places=PLACES,
    splice=st.none() | st.tuples(st.integers(0, 600), st.integers(0, 600), st.binary(max_size=8)),
    lines=st.dictionaries(st.sampled_from(KEYS), st.lists(WORDS, max_size=9), max_size=2),
)
def test_any_bytes_are_an_image_or_a_case_s_error(data, places, splice, lines):
    extra = "".join(f"{key} = {' '.join(value)}\n" for key, value in lines.items()).encode()
    mutated = bytearray(data.replace(b"ElementDataFile", extra + b"ElementDataFile", 1))
    for place, byte in places:
        mutated[place % len(mutated)] = byte
    if splice:
        start, length, inserted = splice
        mutated[start : start + length] = inserted
    try:
        volume = read_mha(bytes(mutated), "x.mha")
    except CaseError as error:
        assert error.file == "x.mha" and error.mend
        return
    assert volume.voxels.shape == volume.grid.shape and len(volume.grid.orientation) == 3
    assert write_labelmap(np.zeros(volume.grid.shape, np.uint8), volume.grid, "")


ARCHIVE = {
    "t1": "O.MR_T1.54513",
    "t1ce": "O.MR_T1c.54514",
    "t2": "O.MR_T2.54515",
    "flair": "O.MR_Flair.54512",
}


def test_a_case_of_2015_and_its_labelmap(tmp_path):
    images, _ = builders.voxels()
    truth = np.zeros((20, 24, 12), np.uint8)
    truth[6:10, 8, 4] = 1, 2, 3, 4
    files = {f"VSD.Brain.XX.{ARCHIVE[role]}": mha(image, compress=True) for role, image in images.items()}
    files["VSD.Brain_3more.XX.XX.OT.54517"] = mha(truth, compress=True)
    store = Store(tmp_path)
    builders.put_all(store, {f"HGG/brats_2013_pat0001_1/{n}/{n}.mha": data for n, data in files.items()})
    (case,) = find_cases(store.list()).cases
    volume = load_case(case, store)
    mask = volume.whole(volume.mask)
    assert mask[4, 8, 6:10].tolist() == [1, 2, 1, 3] and np.count_nonzero(mask) == 4
    whole = volume.whole(volume.images)
    for modality, image in zip(volume.modalities, whole, strict=True):
        assert np.array_equal(image, images[modality].T)
    back = read_nifti(write_labelmap(from_internal(mask, case.labels), volume.grid, ""), "x.nii.gz")
    assert back.voxels[4, 8, 6:10].tolist() == [1, 2, 1, 4] and back.grid.same_place(volume.grid)


def test_an_mha_among_niftis(tmp_path):
    """The extension alone tells the reader, one file at a time."""
    files = builders.case_files("X", names=builders.NAMES_2021)
    images, _ = builders.voxels()
    del files["X/X_t1.nii.gz"]
    store = Store(tmp_path)
    builders.put_all(store, {**files, "X/X_t1.MHA": mha(images["t1"])})
    (case,) = find_cases(store.list(), "brats2023").cases
    volume = load_case(case, store)
    assert np.array_equal(volume.whole(volume.images)[0], images["t1"].T)


def test_a_bad_mha_names_its_case(tmp_path):
    store = Store(tmp_path)
    builders.put_all(store, {f"X/X_{role}.mha": mha(RAMP)[:-1] for role in builders.NAMES_2021})
    (case,) = find_cases(store.list(), "brats2023").cases
    with pytest.raises(CaseError, match=r"case X, X/X_t1\.mha: the file ends after") as caught:
        load_case(case, store)
    assert caught.value.stage == "read"


def test_the_real_file(real_data):
    (path,) = (real_data / "oddities" / "mha-single-modality_BraTS2015-test").glob("*.mha")
    volume = read_mha(path.read_bytes(), path.name)
    blank = read_nifti(builders.nifti(np.zeros((240, 240, 155), np.uint8), compress=False), "blank.nii")
    assert volume.voxels.dtype == np.int16 and volume.grid.same_place(blank.grid, 1e-6)
    assert volume.grid.orientation == "LPS" and not volume.voxels[0].any() and volume.voxels.min() == 0
