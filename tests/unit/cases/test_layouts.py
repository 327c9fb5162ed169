"""bts.cases.layouts: keys of a listing become cases, by the names of every year; what is no case is said."""

import pytest

from bts.cases.case import Case
from bts.cases.layouts import find_cases
from bts.modalities import MODALITIES
from bts.storage import Entry, Store


def listed(*keys: str, labels: str = "auto"):
    return find_cases([Entry(key, 1, "v") for key in keys], labels)


def case_keys(folder: str, case_id: str, join: str, roles, suffix=".nii.gz") -> list[str]:
    return [f"{folder}/{case_id}{join}{role}{suffix}" for role in roles]


OLD, NEW = ("t1", "t1ce", "t2", "flair", "seg"), ("t1n", "t1c", "t2w", "t2f", "seg")


@pytest.mark.parametrize(
    ("folder", "case_id", "join", "roles", "dataset", "labels", "patient", "group"),
    [
        ("HGG/Brats17_A_1_1", "Brats17_A_1_1", "_", OLD, "brats2017", "brats2021", "Brats17_A_1", "HGG"),
        ("LGG/Brats18_B_0_1", "Brats18_B_0_1", "_", OLD, "brats2018", "brats2021", "Brats17_B_0", "LGG"),
        ("a", "BraTS20_Training_001", "_", OLD, "brats2020", "brats2021", "BraTS20_Training_001", ""),
        ("BraTS2021_00000", "BraTS2021_00000", "_", OLD, "brats2021", "brats2021", "BraTS-GLI-00000", ""),
        ("a", "FeTS21_Training_001", "_", OLD, "fets2022", "fets2022", "FeTS21_Training_001", ""),
        ("a", "FeTS2022_00001", "_", OLD, "fets2022", "fets2022", "FeTS2022_00001", ""),
        ("a", "BraTS-GLI-00000-000", "-", NEW, "brats2023-gli", "brats2023", "BraTS-GLI-00000", ""),
        ("a", "BraTS-GLI-02064-101", "-", NEW, "brats2024-gli", "brats2024", "BraTS-GLI-02064", ""),
        ("a", "BraTS-SSA-00002-000", "-", NEW, "brats2023-ssa", "brats2023", "BraTS-SSA-00002", ""),
        ("a", "BraTS-PED-00010-000", "-", NEW, "brats-ped", "", "BraTS-PED-00010", ""),
        ("HGG/x", "brats_2013_pat0001_1", "_", OLD, "brats2015", "brats2015", "brats_2013_pat0001", "HGG"),
        ("a", "hospital 7 é", "_", OLD, "other", "", "hospital 7 é", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha"])
def test_names_of_every_year(folder, case_id, join, roles, dataset, labels, patient, group, suffix):
    listing = listed(*case_keys(folder, case_id, join, roles, suffix))
    (case,) = listing.cases
    assert (case.id, case.dataset, case.labels, case.patient, case.group) == (
        case_id,
        dataset,
        labels,
        patient,
        group,
    )
    assert sorted(case.files) == sorted((*MODALITIES, "seg"))
    assert not listing.strays and not listing.problems


def test_many_cases_in_one_flat_folder():
    keys = [k for n in range(3) for k in case_keys("all", f"BraTS2021_0000{n}", "_", OLD)]
    assert [c.id for c in listed(*keys).cases] == [f"BraTS2021_0000{n}" for n in range(3)]


def test_msd_task01():
    listing = listed("Task01/imagesTr/BRATS_001.nii.gz", "Task01/labelsTr/BRATS_001.nii.gz",
                     "Task01/imagesTs/BRATS_485.nii.gz", "Task01/dataset.json",
                     "Task01/imagesTr/._BRATS_001.nii.gz")  # fmt: skip
    first, second = listing.cases
    assert (first.id, first.labels, sorted(first.files)) == ("BRATS_001", "msd", ["image", "seg"])
    assert (second.id, sorted(second.files)) == ("BRATS_485", ["image"])
    assert listing.strays == ["Task01/dataset.json"]


ARCHIVE = ("O.MR_Flair.54512", "O.MR_T1.54513", "O.MR_T1c.54514", "O.MR_T2.54515")


def archive_keys(case: str, truth: str, *, own_folders: bool) -> list[str]:
    """Keys of a case of BraTS 2013–2015 as its archive lays them out."""
    names = [*(f"VSD.Brain.XX.{name}" for name in ARCHIVE), truth]
    return [f"{case}/{name}/{name}.mha" if own_folders else f"{case}/{name}.mha" for name in names]


@pytest.mark.parametrize("own_folders", [True, False])
@pytest.mark.parametrize("truth", ["VSD.Brain_3more.XX.XX.OT.54517", "VSD.Brain.XX.O.OT.54517"])
@pytest.mark.parametrize(
    ("folder", "case_id", "patient", "group"),
    [
        ("train/HGG/", "brats_2013_pat0001_1", "brats_2013_pat0001", "HGG"),
        ("LGG/", "brats_tcia_pat105_0001", "brats_tcia_pat105", "LGG"),
        ("", "brats_tcia_pat105_0001", "brats_tcia_pat105", ""),
        ("Image_Data/HG/", "0001", "0001", ""),
        ("Image_Data/LG/", "LG_0001", "LG_0001", ""),  # renamed, beside HG/0001
    ],
)
def test_names_of_2013_to_2015(folder, case_id, patient, group, truth, own_folders):
    listing = listed(*archive_keys(folder + case_id, truth, own_folders=own_folders))
    (case,) = listing.cases
    assert (case.id, case.patient, case.group) == (case_id, patient, group)
    assert (case.dataset, case.labels) == ("brats2015", "brats2015")
    assert sorted(case.files) == sorted((*MODALITIES, "seg"))
    assert "MR_T1c." in case.files["t1ce"].key and ".OT." in case.files["seg"].key
    assert not listing.strays and not listing.problems


def test_what_is_wrong_with_names_of_2013_to_2015():
    flair = "VSD.Brain.XX.O.MR_Flair"
    twice = listed(f"C/{flair}.1/{flair}.1.mha", f"C/{flair}.2.mha")
    assert not twice.cases and "flair is there 2 times" in str(twice.problems[0])
    apart = listed(f"HG/0001/{flair}.1.mha", f"LG/0001/{flair}.2.mha")
    assert not apart.cases and "rename its folder" in str(apart.problems[0])
    nowhere = [f"{flair}.1.mha", f"{flair}.1/{flair}.1.mha", "C/VSD.Brain.XX.O.MR_DWI.1.mha", "C/x.mha"]
    assert listed(*nowhere).strays == nowhere


def test_what_is_no_case_is_said():
    listing = listed("BraTS20_Training_356/W40_1998.09.19_Segm.nii", "notes.txt", "1.mat", "cvind.mat")
    assert listing.strays == ["BraTS20_Training_356/W40_1998.09.19_Segm.nii", "notes.txt", "cvind.mat"]
    assert [e.key for e in listing.slices] == ["1.mat"]


def test_a_patient_of_several_years_is_one_patient():
    """The sets of 2018 and 2019 repeat cases of 2017, with the centre's number added after TCIA."""
    names = ("Brats17_TCIA_131_1", "Brats18_TCIA01_131_1", "BraTS19_TCIA01_131_1")
    keys = [key for name in names for key in case_keys(name, name, "_", OLD)]
    assert {case.patient for case in listed(*keys).cases} == {"Brats17_TCIA_131"}
    names = ("Brats17_2013_27_1", "BraTS19_2013_27_1")
    keys = [key for name in names for key in case_keys(name, name, "_", OLD)]
    assert {case.patient for case in listed(*keys).cases} == {"Brats17_2013_27"}


def test_cases_among_the_jobs_own_records_are_said_to_be_left_out():
    hidden = ["_failed/P7/P7_t1.nii.gz", "P7/_labels/P7_seg.nii.gz"]
    assert listed(*hidden).strays == hidden and not listed(*hidden).cases


def test_the_jobs_own_records_are_no_strays():
    listing = listed("_runs/20260101T0Z-abcdef.json", "sub/_done/X.0123456789ab.json", "_index/x.parquet")
    assert not listing.cases and not listing.strays


def test_a_case_in_two_folders_is_refused_by_name():
    listing = listed(
        *case_keys("a", "BraTS2021_00001", "_", OLD), *case_keys("b", "BraTS2021_00001", "_", OLD)
    )
    assert not listing.cases
    (problem,) = listing.problems
    assert "lies in 2 folders" in str(problem) and "BraTS2021_00001" in str(problem)


def test_a_file_twice_is_refused_by_name():
    for other in ("a/X_t1.nii.gz", "a/X_t1.mha"):
        listing = listed("a/X_t1.nii", other)
        assert not listing.cases and "t1 is there 2 times" in str(listing.problems[0])


@pytest.mark.parametrize("case_id", ["a\x1b[31m", "x..y", "new\nline", "x" * 300])
def test_ids_that_are_no_file_names_are_refused(case_id):
    listing = listed(f"a/{case_id}_t1.nii.gz")
    assert not listing.cases and "cannot be used as a file name" in str(listing.problems[0])


def test_labels_can_be_said():
    assert listed("a/X_t1.nii.gz", labels="brats2024").cases[0].labels == "brats2024"


def test_a_case_travels_as_json():
    (case,) = listed("a/X_t1.nii.gz").cases
    assert Case.from_json(case.to_json()) == case


def test_the_real_folder(real_cases):
    listing = find_cases(Store(str(real_cases)).list())
    folders = sorted(p.name for p in real_cases.iterdir())
    assert sorted(c.id for c in listing.cases) == folders and not listing.strays and not listing.problems
    assert {c.labels for c in listing.cases if c.id.startswith("BraTS-SSA")} == {"brats2023"}
    assert {c.labels for c in listing.cases if not c.id.startswith("BraTS-SSA")} == {"brats2021"}
