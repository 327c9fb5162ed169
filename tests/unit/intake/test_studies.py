import io

import pytest

from bts.intake.identity import Identity
from bts.intake.rules import read_rules
from bts.intake.studies import find_studies, sort_entries
from bts.phantom.study import CANARY, encode, make_study, write_dicom, write_nifti
from bts.storage import Entry
from tests.unit.intake.conftest import IDENTITY, SIZE, headers


def find(files, rules=None, allowed=(), identity=IDENTITY):
    niftis, maybe, _ = sort_entries([Entry(key, len(data), "1") for key, data in files.items()])
    dicoms = {identity.opaque(entry.key): entry for entry in maybe}
    rows = headers({entry.key: files[entry.key] for entry in maybe}, rules, identity)
    return find_studies(niftis, dicoms, rows, identity, rules or read_rules(), allowed)


def decode(data):
    return pytest.importorskip("pydicom").dcmread(io.BytesIO(data))


def test_the_complete_series_of_each_modality(ge, ge_files):
    (study,) = find(ge_files).studies
    assert {role: told["number"] for role, told in study.series.items()} == {
        "t1": 2,
        "t1ce": 7,
        "t2": 5,
        "flair": 6,
    }
    assert len(study.files["t2"]) == ge.scan("t2").voxels_xyz.shape[2]
    assert study.uid == ge.uid("study")
    assert CANARY not in study.case_id and study.case_id.startswith("Scan-")


def test_dcm2niix_names_and_the_raw_study(ge):
    (study,) = find(write_nifti(ge)).studies
    numbers = {role: files[0].key.rpartition("_")[2] for role, files in study.files.items()}
    assert numbers == {"t1": "2.nii.gz", "t1ce": "7.nii.gz", "t2": "5.nii.gz", "flair": "6.nii.gz"}
    names = ("MRHR_FLAIR_AX", "MRHR_T1_AX_POST_GAD", "MRHR_T2_AX", "T1_AX")
    (raw,) = find({f"study_1/{name}.nii.gz": b"x" for name in names}).studies
    assert {role: files[0].key for role, files in raw.files.items()} == {
        "t1": "study_1/T1_AX.nii.gz",
        "t1ce": "study_1/MRHR_T1_AX_POST_GAD.nii.gz",
        "t2": "study_1/MRHR_T2_AX.nii.gz",
        "flair": "study_1/MRHR_FLAIR_AX.nii.gz",
    }


def test_a_folder_for_each_series():
    keys = (f"p1/{folder}/{folder}.nii.gz" for folder in ("T1", "T1_post", "T2", "FLAIR"))
    (study,) = find({key: b"x" for key in keys}).studies
    assert set(study.files) == {"t1", "t1ce", "t2", "flair"}


FOUR = ("T1", "T1CE", "T2", "FLAIR")


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ([f"scans/P{n}_{role}.nii.gz" for n in (1, 2) for role in FOUR], ()),
        ([f"P1/v{n}_{role}.nii.gz" for n in (1, 2) for role in FOUR[n - 1 :]], ()),
        ([f"scans/P{n}_T1CE.nii.gz" for n in (1, 2)], ("t1", "t2", "flair")),
    ],
    ids=["two patients", "two visits", "one modality"],
)
def test_files_named_after_several_cases_are_not_mixed(files, allowed):
    """The largest file of each modality would be taken, whoever it is of."""
    found = find({key: b"x" * (10 + 5 * n) for n, key in enumerate(files)}, allowed=allowed)
    assert not found.studies and "named after 2 cases" in str(*found.problems)
    assert not any(name in str(found.problems[0]) for name in ("P1", "v1", "scans"))
    case = found.problems[0].case
    rules = read_rules(f'[study."{case}"]\nt1 = 1\nt1ce = 2\nt2 = 3\nflair = 4\n'.encode())
    if not allowed:
        told = found.problems[0].mend
        assert case in told and not find({key: b"x" for key in files}, rules).problems


def test_series_of_one_examination_in_several_planes_are_one_study():
    keys = [f"P1/{plane}_{role}.nii.gz" for plane in ("AX", "SAG") for role in FOUR]
    (study,) = find({key: b"x" * (9 if "AX" in key else 5) for key in keys}).studies
    assert all("/AX_" in entries[0].key for entries in study.files.values())
    keys = [
        f"sub-1/anat/sub-1_acq-{plane}_{role}.nii.gz" for plane in ("ax", "sag") for role in ("T1w", "T2w")
    ]
    (study,) = find(
        {key: b"x" * (9 if "ax" in key else 5) for key in keys}, allowed=("t1ce", "flair")
    ).studies
    assert set(study.files) == {"t1", "t2"}


def test_a_folder_with_one_image_that_is_named_after_it_is_an_examination():
    keys = [f"P{n}/P{n}_t1c.nii.gz" for n in range(3)]
    found = find({key: b"x" * (5 + 5 * n) for n, key in enumerate(keys)}, allowed=("t1", "t2", "flair"))
    assert not found.problems and sorted(s.files["t1ce"][0].key for s in found.studies) == keys


def test_a_tie_fails_alone_and_says_what_to_write(ge, ge_files):
    twice = {key.replace("SE000007", "SE000017"): data for key, data in ge_files.items() if "SE000007" in key}
    again = {}
    for n, (key, data) in enumerate(twice.items()):
        tags = decode(data)
        tags.SeriesInstanceUID, tags.SeriesNumber = "1.2.17", 17
        tags.SOPInstanceUID = tags.file_meta.MediaStorageSOPInstanceUID = f"1.2.17.{n}"
        again[key] = encode(tags)
    other = write_dicom(make_study(0, 3, vendor="ge", size=SIZE))
    found = find({**ge_files, **again, **other})
    assert len(found.studies) == 1
    (problem,) = found.problems
    said = str(problem)
    assert "2 series may be t1ce" in said and "series 7" in said and "series 17" in said
    assert f'[study."{ge.uid("study")}"] t1ce = "1.2.17"' in said
    assert CANARY not in said
    rules = read_rules(f'[study."{ge.uid("study")}"]\nt1ce = "1.2.17"\n'.encode())
    chosen = find({**ge_files, **again}, rules).studies[0]
    assert chosen.series["t1ce"]["number"] == 17
    latest = find({**ge_files, **again}, read_rules(b'prefer = ["complete", "latest"]')).studies[0]
    assert latest.series["t1ce"]["number"] == 17


def test_a_missing_modality_is_named_or_allowed(ge_files):
    without = {key: data for key, data in ge_files.items() if "SE000006" not in key}
    (problem,) = find(without).problems
    assert "no series of flair" in str(problem) and "--allow-missing flair" in str(problem)
    assert 'flair = "ITS NUMBER OR UID"' in str(problem), "no other series is proposed for it"
    (study,) = find(without, allowed=("flair",)).studies
    assert set(study.files) == {"t1", "t1ce", "t2"}


def test_the_key_makes_the_names(ge_files):
    here, there = (
        find(ge_files, identity=one).studies[0] for one in (IDENTITY, Identity("another key, also long"))
    )
    assert here.case_id != there.case_id
    kept = find(ge_files, identity=Identity(IDENTITY.key, keep=True)).studies[0]
    assert kept.patient == "CANARYID01" and "20260215" in kept.case_id


def test_a_study_of_two_patients_is_refused(ge_files):
    mixed = {}
    for n, (key, data) in enumerate(ge_files.items()):
        tags = decode(data)
        tags.PatientID = f"{CANARY}-{n % 2}"
        mixed[key] = encode(tags)
    (problem,) = find(mixed).problems
    assert "several patients" in str(problem) and CANARY not in str(problem)


def test_what_is_no_image_is_left_out(ge_files):
    others = {
        "DICOMDIR": b"x" * 900,
        "a/report.pdf": b"x" * 900,
        "a/.hidden": b"x" * 900,
        "_done/x.nii.gz": b"x",
    }
    niftis, maybe, count = sort_entries(
        [Entry(key, len(data), "1") for key, data in (others | ge_files).items()]
    )
    assert (niftis, len(maybe), count) == ([], len(ge_files), 3)
