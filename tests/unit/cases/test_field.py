"""Names, headers and values that public sets and tools really use: ../shared/field is read as its README
says. The essentials are listed here once more from keys alone, for where that folder is not."""

import gzip
import json
import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from bts.cases.case import Case, CaseVolume, exchanged
from bts.cases.layouts import Listing, find_cases
from bts.cases.read import foreseen, load_case, reader_of
from bts.cases.said import layouts_of, list_folder, patients_of
from bts.cases.sidecars import channels_of
from bts.errors import CaseError, Failure, UsageError
from bts.images.nifti import read_nifti
from bts.inference import quality
from bts.modalities import MODALITIES
from bts.results.match import match, read_pair
from bts.shards.format import read_volume, write_shard
from bts.storage import Entry, Store
from bts.training.splits import split_patients
from jobs.driver.listing import describe, list_cases
from jobs.driver.outcome import failures_by_cause
from tests import builders
from tests.unit.images.test_nrrd import nrrd

FIELD = Path(__file__).resolve().parents[4] / "shared" / "field"
WHOLE = sorted((*MODALITIES, "seg"))


def field(name: str) -> Store:
    if not FIELD.is_dir():
        pytest.skip("no ../shared/field here")
    return Store(str(FIELD / name))


def listed(*keys: str, **options) -> Listing:
    return find_cases([Entry(key, 1, "v") for key in keys], **options)


def roles(listing: Listing) -> dict[str, list[str]]:
    return {case.id: sorted(case.files) for case in listing.cases}


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cases"),
    [("names/pdgm", 1), ("names/upenn", 1), ("bids", 2), ("kaggle_folders", 3), ("nrrd_truth", 6),
     ("backslash", 2), ("hidden_folders/apple", 2), ("hidden_folders/trash", 2), ("visits/ses", 10),
     ("visits/mu", 10), ("ucsf_alptdg", 4), ("axis_order/cases", 2)],
)  # fmt: skip
def test_every_case_has_its_files(name, cases):
    listing = list_folder(field(name), "auto")
    assert list(roles(listing).values()) == [WHOLE] * cases and not listing.problems
    for case in listing.cases:
        volume = load_case(Case(**{**as_dict(case), "labels": case.labels or "brats2023"}), field(name))
        assert volume.mask.any()


def as_dict(case: Case) -> dict:
    return {name: getattr(case, name) for name in Case.__dataclass_fields__}


@pytest.mark.parametrize(
    "keys",
    [
        [f"P/P_{role}.nii.gz" for role in ("T1", "T1c", "T2", "FLAIR", "tumor_segmentation")],
        [*(f"images_structural/P/P_{role}.nii.gz" for role in ("T1", "T1GD", "T2", "FLAIR")),
         "images_segm/P_segm.nii.gz"],
        ["d/P_brain_t1n.nii.gz", "d/P_brain_t1c.nii.gz", "d/P_brain_t2w.nii.gz", "d/P_brain_t2f.nii.gz",
         "d/P_tumorMask.nii.gz"],
        [*(f"sub-1/anat/sub-1_{role}.nii.gz" for role in ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR")),
         "derivatives/manual/sub-1/anat/sub-1_dseg.nii.gz"],
        ["P-t1n.nii/a.nii", "P-t1c.nii/b_t1ce.nii", "P-t2w.nii/c.nii", "P-t2f.nii/d.nii", "P-seg.nii/e.nii"],
        [f"P/P-{role}.nii.gz" for role in ("t1n", "t1c", "t2w", "t2f")] + ["P/P.seg.nrrd"],
        [f"P/P-{role}.nii.gz" for role in ("t1n", "t1c", "t2w", "t2f")] + ["P/P-seg-label.nii.gz"],
        [f"P\\P-{role}.nii.gz" for role in ("t1n", "t1c", "t2w", "t2f", "seg")],
        [f"P/{role}_to_SRI_brain.nii.gz" for role in ("T1", "T1CE", "T2", "FL")] + ["P/P_seg.nii.gz"],
        [*(f"P/P_brain_{role}.nii.gz" for role in ("t1", "t1gd", "t2", "flair")), "P/P_final_seg.nii.gz"],
        [f"sub-1/anat/sub-1_{role}.nii.gz" for role in (
            "acq-3d_run-1_T1w", "acq-3d_ce-gd_run-1_T1w", "acq-3d_run-1_T2w", "acq-3d_run-1_FLAIR",
            "acq-3d_run-1_dseg")],
        [*(f"sub-1/anat/sub-1_space-SRI_{role}.nii.gz" for role in ("T1w", "T2w", "FLAIR", "dseg")),
         "sub-1/anat/sub-1_ce-gadolinium_space-SRI_T1w.nii.gz"],
        [*(f"d/sub-1_space-SRI_desc-brain_{role}.nii.gz" for role in ("T1w", "T2w", "FLAIR")),
         "d/sub-1_ce-gd_space-SRI_desc-brain_T1w.nii.gz", "d/sub-1_space-SRI_dseg.nii.gz"],
        [f"d/P/{role}.nii.gz" for role in ("T1", "T1ce", "T2", "FLAIR", "seg")],
        [f"P/anat/{role}.nii" for role in ("t1n", "t1c", "t2w", "t2f")] + ["P/seg.nii"],
        [f"P/P-{role}.nii.gz" for role in ("T1pre", "T1post", "T2", "T2-FLAIR")] + ["P/seg.nii.gz"],
        [*(f"BraTS20_Training_355/BraTS20_Training_355_{role}.nii" for role in ("t1", "t1ce", "t2", "flair")),
         "BraTS20_Training_355/W39_1998.09.19_Segm.nii"],
        [f"P/brain_{role}.nii.gz" for role in ("t1", "t1ce", "t2", "fl")] + ["P/P_seg.nii.gz"],
        [f"P/{role}/P_{role}.nii.gz" for role in ("T1", "T1ce", "T2", "FLAIR", "seg")],
        [f"d/P/{role}/x.nii.gz" for role in ("1_T1", "2_T1GD", "3_T2", "4_FLAIR")] + ["d/P/P_seg.nii.gz"],
        [f"d/P/{role}/NIFTI/{role}.nii.gz" for role in ("T1", "T1GD", "T2", "FLAIR")] + ["d/P/seg.nii.gz"],
    ],
    ids=["ucsf-pdgm", "upenn-gbm", "mu", "bids", "kaggle", "slicer", "slicer label", "backslash", "captk",
         "fets tool", "bids, entities behind ce", "bids, in another space", "bids, described",
         "a folder a case", "a folder in it", "pre and post", "BraTS 2020's case 355", "utsw",
         "a folder a modality", "of any name", "egd"],
)  # fmt: skip
def test_names_of_public_sets(keys):
    listing = listed(*keys)
    (case,) = listing.cases
    assert sorted(case.files) == WHOLE and not listing.problems and not listing.strays
    assert sorted(entry.key for entry in case.files.values()) == sorted(keys)


@pytest.mark.parametrize(
    ("visits", "names"),
    [
        ("week-000-1 week-000-2", ("T1", "CT1", "T2", "FLAIR")),
        ("visit1 visit2", ("T1", "T1CE", "T2", "FLAIR")),
        ("2011-06-18 2012-01-30", ("T1", "T1CE", "T2", "FLAIR")),
    ],
)
def test_visits_in_folders_are_cases_of_one_patient(visits, names):
    keys = [
        f"Imaging/Patient-{n:03}/{visit}/{name}.nii.gz"
        for n in (1, 2)
        for visit in visits.split()
        for name in names
    ]
    listing = listed(*keys)
    expected = [f"Patient-{n:03}_{visit}" for n in (1, 2) for visit in visits.split()]
    assert roles(listing) == {name: sorted(MODALITIES) for name in expected} and not listing.problems
    assert [case.patient for case in listing.cases] == ["Patient-001"] * 2 + ["Patient-002"] * 2


def test_files_without_a_cases_name_give_way_to_those_with_it():
    case = [f"P/P_{role}.nii.gz" for role in ("t1", "t1ce", "t2", "flair")]
    for beside in ("P/T1.nii.gz", "P/nifti/T1.nii.gz", "P/nifti/CT1.nii.gz", "P/mni/T1.nii.gz"):
        listing = listed(*case, beside)
        assert roles(listing) == {"P": sorted(MODALITIES)} and listing.strays == [beside]
        assert listing.cases[0].files["t1"].key == case[0] and not listing.problems
    for inside in ("raw", "Q/mni"):
        derived = [f"P/{inside}/{role}.nii.gz" for role in ("T1", "T2")]
        for own in (case, [f"P/{role}.nii.gz" for role in ("T1", "T1ce", "T2", "FLAIR")]):
            listing = listed(*own, *derived)
            assert roles(listing) == {"P": sorted(MODALITIES)} and listing.strays == derived, "not of P/raw"
    later = [f"P/visit2/{role}.nii.gz" for role in ("T1", "T2")]
    assert roles(listed(*case, *later)) == {"P": sorted(MODALITIES), "P_visit2": ["t1", "t2"]}
    flat = listed("all/P_t1.nii.gz", "all/P_t2.nii.gz", "all/Q/T1.nii.gz", "all/Q/T2.nii.gz")
    assert roles(flat) == {"P": ["t1", "t2"], "Q": ["t1", "t2"]}
    elsewhere = [f"raw/P/{role}.nii.gz" for role in ("T1", "T2", "seg")]
    listing = listed(*case, *elsewhere)
    assert roles(listing) == {"P": sorted(MODALITIES)} and listing.strays == sorted(elsewhere)
    apart = listed(*(f"{folder}/{role}.nii.gz" for folder in ("a/P", "b/P") for role in ("T1", "T2")))
    assert not apart.cases and "lies in 2 folders: a/P, b/P" in str(*apart.problems)
    two = [f"Q/{key}.nii.gz" for key in ("T1/a", "T1/b", "T2/c", "seg/aseg")]
    listing = listed(*two)
    assert not listing.cases and "t1 is there 2 times" in str(*listing.problems)
    assert listing.strays == ["Q/seg/aseg.nii.gz"], "of any name are images alone"
    for one in ("visit1", "anat", "1_T1", "T1"):
        assert not listed(f"{one}/T1.nii.gz", f"{one}/T2.nii.gz").cases, "no case's name"


@pytest.mark.parametrize(
    ("key", "said"),
    [("", "no image is there; check the path"),
     ("_held/P/P_t1.nii.gz", "no image is there; check the path"),
     ("S/IM0001", "no image is there; .* jobs.intake"),
     ("P/P_t1.img", "no image is there; .* to .nii.gz"),
     ("P/P_PRE.nii.gz", "no case found; expected .*; other names are said by --roles")],
)  # fmt: skip
def test_where_there_is_no_case_it_is_said_what_to_do(tmp_path, key, said):
    builders.put_all(Store(tmp_path), {key: b"x"} if key else {})
    with pytest.raises(UsageError, match=said):
        list_cases(Store(tmp_path), "auto")


@pytest.mark.parametrize(
    ("end", "flair"), [(" {}_bet.nii.gz", "T2-FLAIR"), (" {}.nii.gz", "FLAIR"), (".{}.nii", "fla")]
)
def test_roles_are_proposed_that_make_cases_of_what_is_there(tmp_path, end, flair):
    keys = [f"set/P{n}/P{n}{end.format(role)}" for n in (7, 8) for role in ("T1", "t1c", "T2", flair)]
    masks = [key.replace(".nii", "_mask.nii") for key in keys if "T1" in key]
    builders.put_all(Store(tmp_path), dict.fromkeys([*keys, *masks], b"x"))
    with pytest.raises(UsageError, match="no case found") as caught:
        list_cases(Store(tmp_path), "auto")
    proposed = shlex.split(str(caught.value).partition("--roles ")[2])
    assert roles(listed(*keys, *masks, layouts=layouts_of(proposed))) == {
        "P7": sorted(MODALITIES),
        "P8": sorted(MODALITIES),
    }


def test_channels_of_nnunet_are_named_by_its_dataset_json(tmp_path):
    names = {"0": "T2-FLAIR", "1": "T1w", "2": "T1-Gd", "3": "T2w", "4": "ADC"}
    builders.put_all(Store(tmp_path), {
        "D/dataset.json": json.dumps({"channel_names": names}).encode(),
        **{f"D/imagesTr/P_{n:04}.nii.gz": b"x" for n in range(5)}, "D/labelsTr/P.nii.gz": b"x",
    })  # fmt: skip
    listing = list_folder(Store(tmp_path))
    assert roles(listing) == {"P": WHOLE} and "0002" in listing.cases[0].files["t1ce"].key
    assert listing.strays == ["D/dataset.json", "D/imagesTr/P_0004.nii.gz"]
    assert channels_of(b'{"modality": {"0": "T1"}}') == {"0000": "t1"} and channels_of(b"[") == {}
    without = listed("D/imagesTr/P_0000.nii.gz", "D/labelsTr/P.nii.gz")
    assert not without.cases and "no dataset.json names its channels 0000" in str(without.problems[0])
    said = listed("imagesTr/P_0000.nii.gz", "labelsTr/P.nii.gz", layouts=layouts_of(["flair=*_0000.nii.gz"]))
    assert roles(said) == {"P": ["flair", "seg"]}


def test_nnunets_raw_data_of_the_decathlon_has_a_file_a_modality(tmp_path):
    """The decathlon itself has one file of all four; its values are 1 for oedema and 2 for necrosis."""
    store, (images, truth) = Store(tmp_path), builders.voxels()
    roles = ("flair", "t1", "t1ce", "t2")
    builders.put_all(store, {
        "dataset.json": b'{"channel_names": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}',
        **{f"imagesTr/BRATS_001_{n:04}.nii.gz": builders.nifti(images[m]) for n, m in enumerate(roles)},
        "labelsTr/BRATS_001.nii.gz": builders.nifti(np.array([0, 2, 1, 3], np.uint8)[truth]),
    })  # fmt: skip
    (case,) = list_folder(store).cases
    found = load_case(case, store)
    assert case.dataset == "msd" and np.array_equal(found.whole(found.mask), truth.T)
    for role in roles:
        assert np.array_equal(found.source(role), images[role].T)
        assert np.array_equal(reader_of(case).read_modality(case, store, role).voxels, images[role].T)


def test_what_is_beside_the_data_is_no_data():
    keys = [f"P/P-{role}.nii.gz" for role in ("t1n", "t1c", "t2w", "t2f", "seg")]
    beside = (".Trash-1000/files", "P/.AppleDouble", "$RECYCLE.BIN/S-1-5/$RX1", "d/#recycle", "P/@eaDir")
    hidden = [f"{folder}/{key}" for folder in beside for key in keys]
    listing = listed(*keys, *hidden)
    assert roles(listing) == {"P": WHOLE} and not listing.strays
    markers = [Entry("P/", 0, "v"), Entry("P_$folder$", 0, "v"), Entry("Q/", 1, "v")]
    assert find_cases(markers).strays == ["Q/"]
    named = [Entry("A", 0, "v"), Entry("A/P", 0, "v"), *(Entry(f"A/{key}", 9, "v") for key in keys)]
    listing = find_cases([*named, Entry("B", 0, "v")])
    assert roles(listing) == {"P": WHOLE} and listing.strays == ["B"], "an empty object of a folder's name"


def test_images_computed_from_a_case_are_strays():
    visit = [f"7/7_time1_{role}.nii.gz" for role in ("t1", "t1ce", "t2", "flair", "seg")]
    derived = ["7/7_flair_subtraction.nii.gz", "7/7_flair_subtraction_seg.nii.gz", "7/7_time1_t1ce-t1.nii.gz"]
    listing = listed(*visit, *derived)
    assert roles(listing) == {"7_time1": WHOLE} and listing.strays == derived
    apart = listed(*visit, "7/7_time2_flair.nii.gz", "7/7_time1_2_t1.nii.gz")
    assert len(apart.cases) == 3, "what lacks files is a case that fails, not a stray"


def test_the_alptdg_folder_has_no_false_case():
    listing = list_folder(field("ucsf_alptdg"))
    assert [case.id for case in listing.cases] == [f"10000{p}_time{t}" for p in (1, 2) for t in (1, 2)]
    assert len(listing.strays) == 12 and not listing.problems
    assert {case.labels for case in listing.cases} == {"brats2024"}


def test_a_truth_that_is_not_read_is_named_with_its_case():
    images = [f"P/P-{role}.nii.gz" for role in ("t1n", "t1c", "t2w", "t2f")]
    assert listed(*images, "P/P_my_mask.nii.gz").truth_like == {"P": "P/P_my_mask.nii.gz"}
    assert listed(*images, "P/W39_Segm.nii").truth_like == {"P": "P/W39_Segm.nii"}
    assert not listed(*images, "P/P-seg.nii.gz", "P/P_my_mask.nii.gz").truth_like
    assert not listed(*images, "P/notes_on_mask.txt").truth_like
    assert listed(*images, "labels/P.nii.gz").truth_like == {"P": "labels/P.nii.gz"}
    brains = [
        "P/P_brain_segmentation.nii.gz",
        "P/P_brain_parenchyma_segmentation.nii.gz",
        "P/brainMask_SRI.nii",
    ]
    assert not listed(*images, *brains).truth_like
    tcga = [f"P/P_GlistrBoost{end}.nii.gz" for end in ("", "_ManuallyCorrected")]
    assert listed(*images, *tcga).truth_like == {"P": tcga[1]}
    other = (
        "_tumour.nii.gz -ET.nii.gz _gt.nii _msk.nii _seg.img _seg.mgz _seg.nii.gz.part _seg.mhd _seg.nii.zip"
    )
    apart = ["P/Segmentation.seg.nrrd", "masks/P/seg.nii.gz", "gt/P.nii.gz"]
    for key in (*(f"P/P{end}" for end in other.split()), *apart):
        listing = listed(*images, key)
        assert listing.truth_like == {"P": key} and len(listing.cases) == 1, key
    for key in ("tumours/P_adc.nii.gz", "P/P_t1n_bet_mask.nii.gz", "P/P_seg.json", "masks/Q/seg.nii.gz"):
        assert not listed(*images, key).truth_like, key


def test_roles_are_said_by_pattern_or_table(tmp_path):
    keys = ["a/P1_PRE.nii.gz", "a/P1_POST.nii.gz", "b/P1/mask.nii.gz", "a/P1_t2.nii.gz"]
    said = ["t1=*_PRE.nii.gz", "t1ce=*_POST.nii.gz", "seg=*/mask.nii.gz"]
    listing = listed(*keys, layouts=layouts_of(said))
    assert roles(listing) == {"P1": ["seg", "t1", "t1ce", "t2"]} and not listing.strays
    table = tmp_path / "roles.csv"
    table.write_text("case,t1ce,seg\nP1,a/P1_POST.nii.gz,b/P1/mask.nii.gz\n")
    listing = listed(*keys, layouts=layouts_of([str(table)]))
    assert roles(listing) == {"P1": ["seg", "t1ce", "t2"]} and listing.strays == ["a/P1_PRE.nii.gz"]
    for wrong in ("t1ce", "t1ce=POST.nii.gz", "dwi=*_D.nii.gz", str(tmp_path / "none.csv")):
        with pytest.raises(UsageError):
            layouts_of([wrong])


def test_what_roles_say_counts_more_than_a_name(tmp_path):
    """UCSF's metastases have two truths a case; one of them had to be deleted to read the other."""
    ends = ("T1pre", "T1post", "T2Synth", "FLAIR", "BraTS-seg", "seg")
    keys = [f"100101A/100101A_{end}.nii.gz" for end in ends]
    table = tmp_path / "roles.csv"
    table.write_text(f"case,t2,seg\n100101A,{keys[2]},{keys[4]}\n")
    for said in (["t2=*_T2Synth.nii.gz", "seg=*_BraTS-seg.nii.gz"], [str(table)]):
        listing = listed(*keys, layouts=layouts_of(said))
        assert roles(listing) == {"100101A": WHOLE} and listing.strays == keys[5:]
        assert listing.cases[0].files["seg"].key == keys[4]
    both = listed(*keys, layouts=layouts_of(["seg=*_BraTS-seg.nii.gz", "seg=*_seg.nii.gz"]))
    assert "seg is there 2 times" in str(*both.problems)


def test_a_table_that_names_what_is_not_there_fails_its_cases(tmp_path):
    """A key with the folder of the cases in front, or a slip: the truth, or the case, was gone unsaid."""
    files = {f"d/P{n}_{role}.nii.gz": b"x" for n in (1, 2) for role in ("a", "b", "c", "d", "s")}
    builders.put_all(Store(tmp_path / "cases"), files)
    rows = [f"P{n}," + ",".join(f"d/P{n}_{role}.nii.gz" for role in "abcd") for n in (1, 2)]
    table = tmp_path / "roles.csv"
    for end, gone in (("d/P2_seg.nii.gz\nP3,./d/P1_a.nii.gz,,,,", ["P2", "P3"]), ("d/P2_s.nii.gz", [])):
        text = f"case,t1,t1ce,t2,flair,seg\n{rows[0]},d/P1_s.nii.gz\n{rows[1]},{end}\n"
        table.write_text(text)
        listing = list_folder(Store(tmp_path / "cases"), "brats2021", [str(table)])
        assert [problem.case for problem in listing.problems] == gone
        assert [case.id for case in listing.cases] == [name for name in ("P1", "P2") if name not in gone]
        assert all("names this file, and it is not there" in str(problem) for problem in listing.problems)
    table.write_text("case,t1,seg\nP1,d/P1_a.nii.gz,d/P1_s.nii.gz\nP2,d/P2_a.nii.gz,d/P1_s.nii.gz\n")
    with pytest.raises(UsageError, match=r"d/P1_s\.nii\.gz is named twice"):
        layouts_of([str(table)])


@pytest.mark.parametrize("visit", ["*", "Patient-*/*"])
def test_folders_of_one_name_are_not_joined_as_one_case(visit):
    """Two patients of LUMIERE have a week-044; where each lacks what the other has, they would fit."""
    names = {"t1": "T1", "t1ce": "CT1", "t2": "T2", "flair": "FLAIR", "seg": "seg"}
    said = layouts_of([f"{role}={visit}/{name}.nii.gz" for role, name in names.items()])
    *images, truth = (f"Imaging/Patient-001/week-044/{name}.nii.gz" for name in names.values())
    assert roles(listed(*images, truth, layouts=said)) == {"week-044": WHOLE}
    listing = listed(*images, truth.replace("001", "002"), layouts=said)
    assert not listing.cases
    assert "lies in 2 folders: Imaging/Patient-001, Imaging/Patient-002" in str(*listing.problems)


@pytest.mark.parametrize(
    "truth", ["labels/P1_seg.nii.gz", "my labels/P1/P1_seg.nii.gz", "labelsTr/P1.nii.gz", "d\\s\\P1-seg.nii"]
)
def test_a_truth_in_a_folder_of_its_own_is_read_as_its_message_says(truth):
    images = [f"images/P1_{role}.nii.gz" for role in ("t1", "t1ce", "t2", "flair")]
    (problem,) = listed(*images, truth).problems
    said = shlex.split(problem.mend.partition("is its ground truth: ")[2])
    assert said[0] == "--roles" and roles(listed(*images, truth, layouts=layouts_of(said[1:]))) == {
        "P1": WHOLE
    }
    twice = listed(*images, "images/P1_seg.nii.gz", truth)
    assert "keep one" in str(*twice.problems), "a second ground truth is no matter of roles"


def test_folders_that_the_patterns_name_are_of_one_case():
    said = layouts_of(["t1=images/*/T1.nii.gz", "seg=labels/*/mask.nii.gz"])
    assert roles(listed("d/images/P1/T1.nii.gz", "d/labels/P1/mask.nii.gz", layouts=said)) == {
        "P1": ["seg", "t1"]
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "ucsf_alptdg",
            ["4 cases of 2 patients", "ground truth (1 NCR, 2 ED, 3 ET, 4 RC); set: ucsf-alptdg"],
        ),
        ("visits/ses", ["10 cases of 5 patients", "10 × t1, t1ce, t2, flair", "labels not known"]),
        ("ped2024/cases", ["  ped2023: 1 NCR, 2 ED, 3 ET\n  ped2024: 1 ET, 2 NCR, 3 NCR, 4 ED", "brats-ped"]),
        ("bids", ["2 cases of 2 patients", "--labels takes\n  brats2021, fets2022: 1 NCR, 2 ED, 4 ET\n"]),
        ("backslash", ["2 cases of 2 patients", "ground truth (1 NCR, 2 ED, 4 ET); set: brats2021"]),
    ],
)
def test_a_set_is_described_to_who_sees_it_first(name, said):
    lines = list(describe(list_folder(field(name))))
    assert len(lines) < 20 and max(map(len, lines)) < 110
    assert all(one in "\n".join(lines) for one in said), lines


def test_what_nothing_tells_is_described_with_the_flag_that_tells_it():
    keys = [
        f"{name}/{name}_{role}.nii.gz" for name in ("Ann", "Bea") for role in ("t1", "t1ce", "t2", "flair")
    ]
    lines = "\n".join(describe(listed(*keys, "Cleo/Cleo_t1.nii.gz")))
    assert "2 × t1, t1ce, t2, flair, no ground truth" in lines and "1 × t1, no ground truth" in lines
    assert "in 3 cases (Ann, Bea, Cleo)" in lines and "--patients" in lines and "--labels" not in lines
    many = [
        f"A{n}/A{n}_{role}.nii.gz"
        for n in range(1 << 4)
        for bit, role in enumerate(MODALITIES)
        if n >> bit & 1
    ]
    assert "  … and 7 kinds more" in list(describe(listed(*many)))


# --- labels -----------------------------------------------------------------------------------------------


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def scored(name: str, cases: str, labels: str) -> list[dict[str, float]]:
    source, tool = field(f"{name}/{cases}"), field(f"{name}/tool")
    pairs = match(list_folder(source, labels).cases, tool.list()).pairs
    assert pairs
    found = [read_pair(pair, source, tool) for pair in pairs]
    return [
        {region: dice(np.isin(f.truth, of), np.isin(f.prediction, of))
         for region, of in (("WT", (1, 2, 3)), ("TC", (1, 3)), ("ET", (3,)))}
        for f in found
    ]  # fmt: skip


@pytest.mark.parametrize("labels", ["ped2024", "1=ET,2=NCR,3=CYST,4=ED"])
def test_ped_of_2024_by_name_or_pairs(labels):
    scores = scored("ped2024", "cases", labels)
    assert [case["ET"] for case in scores] == [1.0] * 3 and all(case["WT"] < 1 for case in scores)


@pytest.mark.parametrize("cases", ["cases", "sound"])
def test_scaled_labels_are_read_as_whole_ones(cases):
    assert all(value == 1 for case in scored("scaled_labels", cases, "auto") for value in case.values())


def slicer(names: dict[int, str]) -> bytes:
    """A truth as 3D Slicer saves it, with the names of its segments."""
    said = "".join(
        f"Segment{n}_ID:=Segment_{n}\nSegment{n}_LabelValue:={value}\nSegment{n}_Name:={name}\n"
        for n, (value, name) in enumerate(names.items())
    )
    truth = builders.voxels()[1].astype(np.uint8)
    return nrrd(truth).replace(b"NRRD0005\n", b"NRRD0005\n" + said.encode())


@pytest.mark.parametrize(
    ("names", "labels", "refused"),
    [
        ({1: "Segment_1", 2: "Segment_2", 3: "Segment_3"}, "auto", ""),
        ({1: "necrotic core", 2: "edema", 3: "enhancing tumor"}, "auto", ""),
        (
            {1: "ET", 2: "NCR", 3: "Edema"},
            "auto",
            "value 1 is named 'ET'.*--labels 1=ET,2=NCR,3=ED, or rename",
        ),
        ({1: "ET", 2: "NCR", 3: "Edema"}, "1=ET,2=NCR,3=ED", ""),
        ({1: "lesion", 2: "enhancing"}, "auto", "value 2 is named 'enhancing'.*spell them out"),
    ],
)
def test_segments_that_slicer_names_are_not_read_as_others(tmp_path, names, labels, refused):
    """Slicer numbers segments in the order in which they were made."""
    files = builders.case_files("BraTS-GLI-00001-000", truth=False)
    builders.put_all(
        Store(tmp_path), {**files, "BraTS-GLI-00001-000/BraTS-GLI-00001-000.seg.nrrd": slicer(names)}
    )
    (case,) = list_folder(Store(tmp_path), labels).cases
    if refused:
        with pytest.raises(CaseError, match=refused) as caught:
            load_case(case, Store(tmp_path))
        assert caught.value.file.endswith(".seg.nrrd") and caught.value.case == case.id
        assert load_case(case, Store(tmp_path), truth=False).mask is None
    else:
        assert load_case(case, Store(tmp_path)).mask.any()


def test_named_segments_of_a_case_whose_labels_nothing_tells_fail_as_any_such_truth(tmp_path):
    files = builders.case_files("hospital 1", names=builders.NAMES_2021, truth=False)
    builders.put_all(Store(tmp_path), {**files, "hospital 1/hospital 1.seg.nrrd": slicer({1: "ET"})})
    (case,) = list_folder(Store(tmp_path)).cases
    with pytest.raises(CaseError, match="does not tell which labels"):
        load_case(case, Store(tmp_path))


# --- patients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case_ids", "patients"),
    [
        (["UPENN-GBM-00001_11", "UPENN-GBM-00001_21"], 1),
        (["PatientID_0003_Timepoint_1", "PatientID_0003_Timepoint_2_brain"], 1),
        (["100001_time1", "100001_time2", "100002_time1"], 2),
        (["sub-01_ses-a", "sub-01_ses-b", "sub-02_ses-a"], 2),
        (["Patient-001_week-000-1", "Patient-001_week-044"], 1),
        (["UCSF-PDGM-0004", "UCSF-PDGM-0004_FU003d"], 1),
        (["H7_visit1", "H7_visit2", "site_visit1", "other_visit1"], 3),
        (["RHUH-0001_0", "RHUH-0001_1", "RHUH-0002_0"], 2),
        (["UCSD-PTGBM-0002_01", "UCSD-PTGBM-0002_02"], 1),
        (["BraTSReg_001_00_0000", "BraTSReg_001_01_0106", "BraTSReg_002_00_0000"], 2),
        (["YG_0001_2011-06-18", "YG_0001_2012-01-30", "AAC_0_2008.03.30_brain", "AAC_0_2008.05.01_brain"], 2),
        (["TCGA-02-0006_1996.08.23", "TCGA-02-0009_1997.06.14"], 2),
        (["P01_20190531", "P01_20200101_brain", "P02_20190531"], 2),
        (["P01_V1", "P01_V2", "P02_V1"], 2),
        (["100101A", "100101B", "100102A"], 2),
        (["P01_baseline", "P01_fu1", "P02_preop", "P02_post-op_brain"], 2),
    ],
)
def test_visits_of_one_patient(case_ids, patients):
    listing = listed(*(f"{name}/{name}_t1.nii.gz" for name in case_ids))
    assert len(listing.cases) == len(case_ids) and len({case.patient for case in listing.cases}) == patients
    assert set(listing.unnamed) <= {"site_visit1", "other_visit1"}


@pytest.mark.parametrize("name", ["visits/ses", "visits/mu"])
def test_no_fold_has_a_patient_on_both_sides(name):
    cases = list_folder(field(name)).cases
    groups = {case.patient: case.dataset for case in cases}
    assert len(groups) == 5
    for fold in range(5):
        training, held_out = split_patients(groups, seed=0, fold=fold)
        who = re.compile(r"sub-\d+|PatientID_\d+")
        first, second = (
            {who.match(c.id)[0] for c in cases if c.patient in side} for side in (training, held_out)
        )
        assert not first & second and len(second) == 1


def test_patients_are_said_by_pattern_or_table(tmp_path):
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\nA_x,Ann\nA_y,Ann\n")
    for said in ("*_?", r"([A-Z])_\w", str(table)):
        of = patients_of(said)
        assert of("A_x") == of("A_y") != "" and of("longer_name_xy") == "", said
    listing = listed("A_x_t1.nii.gz", "A_y_t1.nii.gz", "B_z_t1.nii.gz", patients=patients_of(str(table)))
    assert [case.patient for case in listing.cases] == ["Ann", "Ann", "B_z"] and listing.unnamed == ["B_z"]
    for wrong in ("no star", "(", str(tmp_path / "none.csv")):
        with pytest.raises(UsageError):
            patients_of(wrong)


def test_patients_that_fit_no_case_are_refused(tmp_path, capsys):
    """A slip in a pattern or in the names of a table would put visits of one patient on both sides."""
    builders.put_all(Store(tmp_path / "cases"), {f"{name}_t1.nii.gz": b"x" for name in ("A_x", "A_y", "B")})
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\nA-x,Ann\nA-y,Ann\n")
    for said in ("*_visit?", str(table)):
        with pytest.raises(UsageError, match="tells the patient of none of the 3 cases, such as A_x"):
            list_folder(Store(tmp_path / "cases"), patients=said)
    list_cases(Store(tmp_path / "cases"), "auto", patients="*_?")
    assert "--patients tells nothing of 1 case, each its own patient: B" in capsys.readouterr().err


def test_every_case_that_has_a_truth_says_so():
    for name in ("names/pdgm", "names/upenn", "bids", "nrrd_truth"):
        assert all(reader_of(case).has_truth(case) for case in list_folder(field(name)).cases)


# --- grids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", ["RAS", "PLS", "SAL"])
def test_a_truth_in_another_axis_order_is_read_where_it_lies(codes):
    _, truth = builders.voxels()
    image = nib.Nifti1Image(truth, builders.LPS)
    to = ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
    turned = image.as_reoriented(to)
    first, second = (read_nifti(i.to_bytes(), "seg.nii") for i in (image, turned))
    assert second.grid.orientation == codes and second.grid.same_place(first.grid)
    assert np.array_equal(first.voxels, second.voxels)
    moved = turned.affine.copy()
    moved[0, 3] += 0.1
    shifted = nib.Nifti1Image(truth.astype(np.uint8).reshape(turned.shape), moved)
    assert not read_nifti(shifted.to_bytes(), "seg.nii").grid.same_place(first.grid)


def test_an_axis_order_does_not_change_scores():
    for cases in ("cases", "same"):
        assert all(value == 1 for case in scored("axis_order", cases, "auto") for value in case.values())


def test_a_header_whose_forms_contradict_each_other_is_flagged(tmp_path):
    """Its sform is read; programs that read the qform see left as right."""
    turned = np.diag([1.0, -1.0, 1.0, 1.0])
    for codes, flags in ((0, 0), (1, 1)):
        files = {}
        for key, data in builders.case_files("BraTS-GLI-00001-000").items():
            image = nib.Nifti1Image.from_bytes(gzip.decompress(data))
            image.header.set_qform(turned, codes)
            image.header["vox_offset"] = 352
            files[key] = image.header.binaryblock + gzip.decompress(data)[348:]
        builders.put_all(Store(tmp_path), files)
        (case,) = list_folder(Store(tmp_path)).cases
        found = quality.of_place(load_case(case, Store(tmp_path)))
        assert len(found) == flags and all("sform says LPS, as it is read, its qform RPS" in f for f in found)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_labelmap_is_not_taken_for_an_image(tmp_path, dtype):
    """A pattern of --roles that fits the mask too, or a slip in a table."""
    files = builders.case_files("BraTS-GLI-00001-000")
    builders.put_all(Store(tmp_path), files)
    store, key = Store(tmp_path), "BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1c.nii.gz"
    store.put(key, builders.nifti(builders.voxels()[1].astype(dtype)))
    (case,) = list_folder(store).cases
    with pytest.raises(CaseError, match="holds the values 1, 2, 3 alone: a labelmap") as caught:
        load_case(case, store)
    assert caught.value.file == key


@pytest.mark.parametrize(
    ("stored", "advice"),
    [
        (lambda seg: builders.nifti(seg, np.eye(4)), "only its header is wrong, give it an image's affine"),
        (lambda seg: builders.nifti(seg[1:-1]), "resample it to the images' grid, by nearest neighbour"),
        (lambda seg: builders.nifti(np.stack([seg == 1, seg == 3], -1) * np.uint8(1)), "one for all labels"),
    ],
    ids=["header lost", "cropped", "a channel a label"],
)
def test_a_truth_that_does_not_lie_on_the_images_says_what_to_do(tmp_path, stored, advice):
    """Not that it should be registered: most tools that lose a header leave the voxels in their order."""
    store = Store(tmp_path)
    builders.put_all(store, builders.case_files("BraTS-GLI-00001-000"))
    store.put("BraTS-GLI-00001-000/BraTS-GLI-00001-000-seg.nii.gz", stored(builders.voxels()[1]))
    with pytest.raises(CaseError, match=advice):
        load_case(list_folder(store).cases[0], store)


# --- background -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["plus 100", "z-scored", "plus 100 float"])
def test_a_border_that_is_not_zero_is_the_background(tmp_path, how):
    plain, odd = tmp_path / "plain", tmp_path / "odd"
    files = builders.case_files("BraTS-GLI-00001-000")
    builders.put_all(Store(plain), files)
    images, _ = builders.voxels()
    changed, sources = dict(files), {}
    for role, voxels in images.items():
        values = voxels.astype(np.float64) + 100 if "100" in how else (voxels - voxels.mean()) / voxels.std()
        values = values.astype(np.int16 if how == "plus 100" else np.float32)
        key = f"BraTS-GLI-00001-000/BraTS-GLI-00001-000-{builders.NAMES_2023[role]}.nii.gz"
        changed[key], sources[role] = builders.nifti(values), values
    builders.put_all(Store(odd), changed)
    first, second = (load_case(find_cases(Store(at).list()).cases[0], Store(at)) for at in (plain, odd))
    assert not first.background and len(second.background) == 4 and all(second.background)
    assert np.array_equal(first.brain, second.brain) and np.array_equal(first.mask, second.mask)
    assert first.origin == second.origin and not second.noisy
    high = [(volume.p99 - volume.mean) / volume.std for volume in (first, second)]
    assert np.allclose(*high, rtol=1e-3)
    again = read_volume(write_shard(second, {}))
    described = CaseVolume.described(second.images, second.describe())
    for volume in (second, again, described):
        for role, values in sources.items():
            source = volume.grid.to_source(volume.source(role)).T
            assert np.array_equal(source, values), (how, role)


def test_zeros_inside_such_a_background_are_not_lost():
    voxels = np.full((6, 6, 6), 100, np.int16)
    voxels[2:4, 2:4, 2:4] = np.arange(8).reshape(2, 2, 2)
    assert np.array_equal(exchanged(exchanged(voxels, 100), 100), voxels)
    assert exchanged(voxels, 100)[0, 0, 0] == 0 and exchanged(voxels, 100)[2, 2, 2] == 100


def test_noise_around_the_head_is_said(tmp_path):
    files = builders.case_files("BraTS-GLI-00001-000")
    noise = np.random.default_rng(0).integers(1, 9, (20, 24, 12)).astype(np.int16)
    key = "BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1n.nii.gz"
    builders.put_all(Store(tmp_path), {**files, key: builders.nifti(builders.voxels()[0]["t1"] + noise)})
    volume = load_case(find_cases(Store(tmp_path).list()).cases[0], Store(tmp_path))
    assert quality.of_noise(volume) == [
        "background: t1 has noise around the head; take off the skull, or set it to 0"
    ]


# --- what the listing foretells ---------------------------------------------------------------------------


def test_a_case_that_must_fail_is_foreseen():
    (whole,) = listed(*builders.case_files("BraTS-GLI-00001-000")).cases
    assert foreseen(whole, truth=True) is None
    (partial,) = listed("X/X_t1ce.nii.gz", "X/X_seg.nii.gz").cases
    assert (
        "t1, t2, flair missing" in str(foreseen(partial)) and foreseen(partial, ("t1", "t2", "flair")) is None
    )
    assert "--labels" in str(foreseen(partial, ("t1", "t2", "flair"), truth=True))
    (ped,) = listed(*builders.case_files("BraTS-PED-00001-000")).cases
    assert "--labels ped2023|ped2024, or" in str(foreseen(ped, truth=True))


def test_a_header_without_a_place_is_flagged(tmp_path):
    files = builders.case_files("BraTS-GLI-00001-000")
    for key, data in files.items():
        image = nib.Nifti1Image.from_bytes(gzip.decompress(data))
        image.header["qform_code"] = image.header["sform_code"] = 0
        image.header["vox_offset"] = 352
        files[key] = gzip.compress(
            bytes(image.header.binaryblock) + bytes(4) + image.dataobj.get_unscaled().tobytes("F")
        )
    builders.put_all(Store(tmp_path), files)
    (case,) = find_cases(Store(tmp_path).list()).cases
    (flag,) = quality.of_place(load_case(case, Store(tmp_path)))
    assert flag.startswith("place: ") and "a guess" in flag


def test_failures_of_one_cause_are_one_line():
    alike = [
        Failure(case_id=f"c{n}", stage="list", error="x", mend="y", message=f"c{n}: x; y") for n in range(5)
    ]
    assert failures_by_cause(alike) == ["failed at list: 5 cases (c0, c1, c2, …): x; y"]
    assert failures_by_cause(alike[:2]) == ["failed at list: c0: x; y", "failed at list: c1: x; y"]
