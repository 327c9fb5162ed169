"""NRRD files against the NIfTI of the same voxels and affine."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from bts.errors import CaseError
from bts.images.nifti import read_nifti
from bts.images.nrrd import names_of, read_nrrd
from tests import builders
from tests.unit.images.test_nifti import CODES

RAMP = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
KINDS = {
    "int8": "i1",
    "uchar": "u1",
    "short": "i2",
    "uint16": "u2",
    "int": "i4",
    "long long int": "i8",  # as ITK writes them
    "unsigned long long int": "u8",
    "float": "f4",
    "double": "f8",
}
NO_PLACE = {"space": None, "space directions": None, "space origin": None}


def vector(values) -> str:
    return f"({','.join(f'{v:.12g}' for v in values)})"


def nrrd(voxels_xyz=RAMP, affine=builders.LPS, *, body=None, **changes: str | None) -> bytes:
    """A .nrrd of voxels in the file's own (x, y, z) order and an affine in RAS+, as NIfTI's.

    `changes` put other values into the header (_ for a space), None takes a line out; `body` replaces the
    voxels' bytes.
    """
    lps = np.diag([-1, -1, 1, 1]) @ affine
    kind = next(name for name, code in KINDS.items() if voxels_xyz.dtype.str[1:] == code)
    lines = {
        "type": kind,
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, voxels_xyz.shape)),
        "space directions": " ".join(vector(lps[:3, axis]) for axis in range(3)),
        "endian": "big" if voxels_xyz.dtype.byteorder == ">" else "little",
        "encoding": "raw",
        "space origin": vector(lps[:3, 3]),
        **{name.replace("_", " "): value for name, value in changes.items()},
    }
    header = "".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None)
    data = voxels_xyz.tobytes("F") if body is None else body
    return f"NRRD0005\n# by a test\n{header}\n".encode() + data


@pytest.mark.parametrize("codes", CODES)
def test_is_the_nifti_of_the_same_image(codes):
    matrix = builders.affine(codes, (1.0, 1.2, 2.5), 0.2)
    volume, expected = (
        read_nrrd(nrrd(RAMP, matrix), "x.nrrd"),
        read_nifti(builders.nifti(RAMP, matrix), "x.nii"),
    )
    assert np.array_equal(volume.voxels, expected.voxels) and volume.voxels.dtype == expected.voxels.dtype
    assert volume.grid.same_place(expected.grid, 1e-4) and not volume.grid.guessed
    assert volume.grid.orientation == expected.grid.orientation
    assert volume.grid.source_zooms == pytest.approx((1.0, 1.2, 2.5))


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_in_either_order_raw_or_packed(kind):
    for order in "<>":
        voxels = (RAMP % 100).astype(order + KINDS[kind])
        for data in (nrrd(voxels), nrrd(voxels, encoding="gzip", body=gzip.compress(voxels.tobytes("F")))):
            found = read_nrrd(data, "x.nrrd").voxels
            assert np.array_equal(found, voxels.T) and found.dtype == KINDS[kind]


@pytest.mark.parametrize(
    ("space", "signs"),
    [("RAS", (1, 1, 1)), ("right-anterior-superior", (1, 1, 1)), ("LPS", (-1, -1, 1))]
    + [(name, (-1, 1, 1)) for name in ("LAS", "left-anterior-superior")],
)
def test_a_file_in_another_space_lies_where_one_in_lps_does(space, signs):
    matrix = builders.affine("RAS", (1.0, 1.2, 2.5), 0.2)
    there = np.diag([*signs, 1]) @ matrix
    other = {
        "space": space,
        "space directions": " ".join(vector(there[:3, axis]) for axis in range(3)),
        "space origin": vector(there[:3, 3]),
    }
    first, second = (read_nrrd(nrrd(RAMP, matrix, **more), "x.nrrd").grid for more in ({}, other))
    assert first.same_place(second, 1e-4)


def test_a_file_without_a_place_is_read_as_nifti_without_one():
    nifti = nib.Nifti1Image(RAMP, None)
    nifti.header.set_zooms((0.5, 1, 2))
    expected = read_nifti(nifti.to_bytes(), "x.nii")
    volume = read_nrrd(nrrd(spacings="0.5 1 2", **NO_PLACE), "x.nrrd")
    assert volume.grid.guessed and volume.grid.same_place(expected.grid)
    assert np.array_equal(volume.voxels, expected.voxels)


PACKED = gzip.compress(RAMP.tobytes("F"))
BAD = {
    "empty": (b"", "not a NRRD"),
    "another format": (b"ObjectType = Image\n" * 9, "not a NRRD"),
    "a header without end": (nrrd().replace(b"\n\n", b"\n"), "not a NRRD"),
    "voxels elsewhere": (nrrd(**{"data file": "../../etc/passwd"}), "another file"),
    "layers": (nrrd(dimension="4", sizes="2 5 4 3"), "layers"),
    "2D": (nrrd(dimension="2", sizes="5 12"), "sizes"),
    "no sizes": (nrrd(sizes=None), "sizes"),
    "a side of none": (nrrd(sizes="0 4 3"), "sizes"),
    "sizes that are no numbers": (nrrd(sizes="a b c"), "sizes"),
    "a side of 10^308": (nrrd(sizes="5 4 1e308"), "sizes '5 4 1e308'"),
    "claims 60 TB": (nrrd(sizes="32000 32000 32000"), "claims"),
    "no type": (nrrd(type=None), "type"),
    "blocks": (nrrd(type="block"), "type 'block'"),
    "unknown space": (nrrd(space="scanner-xyz"), "does not tell its place"),
    "no origin": (nrrd(**{"space origin": None}), "does not tell its place"),
    "two directions": (nrrd(**{"space directions": "(1,0,0) (0,1,0)"}), "does not tell its place"),
    "a direction of none": (nrrd(**{"space directions": "none (0,1,0) (0,0,1)"}), "does not tell its place"),
    "flat directions": (nrrd(**{"space directions": "(1,0,0) (1,0,0) (0,0,1)"}), "affine"),
    "infinite origin": (nrrd(**{"space origin": "(inf,0,0)"}), "does not tell its place"),
    "an origin that float32 does not hold": (nrrd(**{"space origin": "(1e39,0,0)"}), "affine"),
    "voxels of a micrometre": (nrrd(**{"space directions": "(1e-3,0,0) (0,1,0) (0,0,1)"}), "mm; 0"),
    "voxels of a kilometre": (nrrd(**{"space directions": "(1e6,0,0) (0,1,0) (0,0,1)"}), "mm"),
    "no place, no spacings": (nrrd(**NO_PLACE), "neither its place nor its spacings"),
    "no place, a spacing below zero": (nrrd(spacings="1 -1 1", **NO_PLACE), "neither its place"),
    "bzip2": (nrrd(encoding="bzip2"), "encoding 'bzip2'"),
    "no gzip": (nrrd(encoding="gzip"), "corrupt"),
    "cut off": (nrrd()[:-3], "117 of 120"),
    "too long": (nrrd() + b"\0", "121 of 120"),
    "cut-off gzip": (nrrd(encoding="gzip", body=PACKED[:-20]), "truncated, after"),
    "gzip without its checksum": (nrrd(encoding="gzip", body=PACKED[:-8]), "truncated"),
    "NaN": (nrrd(np.full((4, 4, 4), np.nan, np.float32)), "64 voxels are NaN"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_the_file_s_fault(what):
    data, reason = BAD[what]
    with pytest.raises(CaseError, match=reason) as caught:
        read_nrrd(data, "case/file.nrrd")
    assert "case/file.nrrd" in str(caught.value) and caught.value.mend and len(str(caught.value)) < 300


def test_a_bomb_is_not_unpacked():
    bomb = nrrd(encoding="gzip", body=gzip.compress(bytes(50 << 20)))
    with pytest.raises(CaseError, match="121 of 120"):
        read_nrrd(bomb, "x.nrrd")


def test_the_name_of_a_value_that_no_label_has_is_passed_over():
    lines = b"Segment0_LabelValue:=%s\nSegment0_Name:=ET\n\n"
    for value, found in ((b"3", {3: "ET"}), (b"9" * 5000, {})):
        assert names_of(nrrd().replace(b"\n\n", b"\n" + lines % value, 1), "x.nrrd") == found
