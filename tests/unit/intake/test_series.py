import copy
import json
from dataclasses import asdict, replace

import pytest

from bts.errors import CaseError
from bts.intake.headers import read_header
from bts.intake.rules import read_rules
from bts.intake.series import group, make_series
from bts.phantom.study import CANARY, encode, slice_dataset, write_series
from tests.unit.intake.conftest import IDENTITY, headers, multi_frame


def series_of(study, number, change=lambda n, data: None):
    """One series of a study as Series, its datasets changed first."""
    series = next(one for one in study.series if one.number == number)
    files = {}
    for n in range(series.scan.voxels_xyz.shape[2]):
        data = slice_dataset(study, series, n)
        change(n, data)
        files[str(n)] = encode(data)
    return make_series(headers(files))


def test_a_study_by_its_series(ge, ge_files):
    (found,) = group(headers(ge_files)).values()
    told = {one.number: (one.what, one.plane, bool(one.problem)) for one in found}
    assert told[2] == ("t1", "axial", False)
    assert told[5] == ("t2", "axial", False)
    assert told[6] == ("flair", "coronal", False)
    assert told[7] == ("t1ce", "axial", False)
    assert told[1][0] == "localiser" and told[1][2]
    assert told[9][0] == "derived"
    assert found[1].zooms == pytest.approx((0.94, 0.94, 5.0))


def test_files_come_in_the_order_of_their_places(ge):
    (found,) = group(headers({str(n): d for n, d in enumerate(write_series(ge, ge.series[1]))})).values()
    heights = [file.positions[2] for file in found[0].files]
    assert heights == sorted(heights)


def test_no_name_is_in_an_index(ge_files):
    told = json.dumps([asdict(row) for row in headers(ge_files)])
    assert CANARY not in told and "19570213" not in told and "20260215" not in told
    assert not any(word in told for word in ("BRAIN TUMOR", "frFSE", "GE MEDICAL"))


def constant_place(n, data):
    data.ImagePositionPatient = [0, 0, 0]


def two_echoes(n, data):
    data.EchoTime = 20 if n % 2 else 90


def slanted(n, data):
    x, y, z = data.ImagePositionPatient
    data.ImagePositionPatient = [x, f"{float(y) + 0.4 * n:.6f}", z]


def other_size(n, data):
    if n == 3:
        data.Rows, data.PixelData = data.Rows - 2, data.PixelData[: -4 * data.Columns]


def no_place(n, data):
    del data.ImagePositionPatient


def two_kinds(n, data):
    if n % 2:
        data.ImageType = ["DERIVED", "SECONDARY"]


def other_spacing(n, data):
    if n == 3:
        data.PixelSpacing = ["0.5", "0.5"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (constant_place, "same place"),
        (two_echoes, "echo times"),
        (slanted, "gantry tilt"),
        (other_size, "different sizes"),
        (no_place, "where they lie"),
        (two_kinds, "several kinds"),
        (other_spacing, "pixel spacings"),
    ],
)
def test_series_that_are_no_volume_say_why(ge, change, words):
    assert words in series_of(ge, 5, change).problem


def test_missing_repeated_and_few_slices(ge):
    whole = series_of(ge, 5)
    assert not whole.problem
    files = list(whole.files)
    assert "1 seem to be missing" in make_series(files[:7] + files[8:]).problem
    assert "there twice" in make_series([*files, files[4]]).problem
    again = replace(files[4], instance="1.2.3")
    assert "more than one volume" in make_series([*files, again]).problem
    assert "8 are needed" in make_series(files[:5]).problem


def test_a_hostile_series_is_no_volume(ge_files):
    """One that would fill the memory is refused by its tags, before a file of it is read."""
    rows = headers({key: data for key, data in ge_files.items() if "SE000005" in key})
    many = [replace(rows[0], instance=f"1.2.{n}") for n in range(100_000)]
    one = replace(rows[0], positions=[0.0] * 300_000)
    for files in (many, [one]):
        assert make_series(files).describe().startswith("series 5 (t2, 100000 slices")
        assert "at most 2,048 slices are one volume" in make_series(files).problem
    vast = [replace(row, rows=60_000, columns=60_000) for row in rows]
    assert "60,000×60,000 would fill more than 2 GiB" in make_series(vast).problem


def test_a_file_that_is_no_mr_image_has_no_row(ge):
    data = slice_dataset(ge, ge.series[0], 0)
    other = copy.deepcopy(data)
    other.Modality = "CT"
    assert headers({"ct": encode(other), "text": b"x" * 200}) == []


def test_a_broken_file_is_a_failure_without_its_name(ge):
    data = encode(slice_dataset(ge, ge.series[0], 0))
    broken = data[:400] + b"\xff" * 40 + data[440:]
    with pytest.raises(CaseError) as raised:
        read_header(lambda n: broken[:n], len(broken), "f", "1", IDENTITY, read_rules())
    assert CANARY not in str(raised.value)


@pytest.mark.parametrize("kind", ["1", "4"], ids=["enhanced", "legacy converted"])
def test_an_enhanced_file_tells_the_same(ge, kind):
    series = next(one for one in ge.series if one.number == 5)
    slices = [slice_dataset(ge, series, n) for n in range(series.scan.voxels_xyz.shape[2])]
    whole = multi_frame(slices, kind)
    found = make_series(headers({"whole": encode(whole)}))
    assert (found.problem, found.slices, found.what) == ("", len(slices), "t2")
    assert found.zooms == pytest.approx((0.94, 0.94, 5.0))


@pytest.mark.parametrize(
    ("agent", "what"),
    [
        ("NONE GIVEN", "t1"),
        ("No contrast", "t1"),
        ("without", "t1"),
        ("0", "t1"),
        ("0.1 mmol/kg Gadovist", "t1ce"),
    ],
)
def test_what_stands_for_an_agent_may_say_that_there_was_none(ge, agent, what):
    data = slice_dataset(ge, next(one for one in ge.series if one.number == 2), 0)
    data.ContrastBolusAgent = agent
    (header,) = headers({"one": encode(data)})
    assert header.what == what
