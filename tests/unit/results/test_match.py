"""Labelmaps matched with cases by name, and pairs read with every check."""

import json
import os
import time
from dataclasses import replace

import numpy as np
import pytest

from bts.cases.layouts import find_cases
from bts.cases.read import read_role
from bts.cases.sidecars import told_beside
from bts.errors import CaseError, UsageError
from bts.images.nifti import write_labelmap
from bts.results.marker import digest
from bts.results.match import Labels, Pair, match, read_images, read_markers, read_pair, read_prediction
from bts.storage import Entry, Store
from tests.builders import LPS, NAMES_2021, affine, case_files, nifti, put_all, voxels
from tests.unit.images.test_nrrd import nrrd

ONE, TWO = "BraTS2021_00001", "BraTS2021_00002"
MOVED = LPS + np.outer([0, 0, 2, 0], [0, 0, 0, 1])  # 2 mm up


def entries(*keys: str) -> list[Entry]:
    return [Entry(key, 1, "v") for key in keys]


def cases(*ids: str, roles=("seg",)):
    return find_cases(entries(*(f"{case}/{case}_{role}.nii.gz" for case in ids for role in roles))).cases


NAMES = ["{}.nii.gz", "{}.nii", "{}-seg.nii.gz", "{}_seg.nii.gz", "{}_seg.nii"]
NAMES += ["{}.seg.nrrd", "{}.nrrd", "{}_seg.mha", "{}_flair_seg.nii.gz"]
NAMES += ["{0}/{0}_seg.nii.gz", "{0}/{0}_trans.nii", "{0}_t1/{0}_t1_trans.nii.gz", "{0}/{0}_t1ce_seg.nii.gz"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_labelmaps(name):
    matched = match(cases(ONE, TWO), entries(name.format(ONE)))
    assert [(pair.case.id, pair.labelmap) for pair in matched.pairs] == [(ONE, name.format(ONE))]
    assert not matched.without_truth


def test_what_another_tool_saves_gives_way_to_a_labelmap_at_the_top():
    for other in (f"{ONE}.seg.nrrd", f"{ONE}/{ONE}_seg.nii.gz", f"{ONE}_t1/{ONE}_t1_seg.nii.gz"):
        (pair,) = match(cases(ONE), entries(other, f"{ONE}.nii.gz")).pairs
        assert pair.labelmap == f"{ONE}.nii.gz"


@pytest.mark.parametrize(
    "copy",
    [
        [f"{ONE}/{ONE}_{role}.nii.gz" for role in (*NAMES_2021.values(), "seg")],
        [f"{ONE}_{role}.nrrd" for role in ("t1", "seg")],
        [f"{ONE}/{ONE}_seg.nii.gz", f"{ONE}/{ONE}_POST.nii.gz"],
        [f"{ONE}/{ONE}_seg.nii.gz", f"{ONE}/scans/a.nii.gz"],
        [f"{ONE}/{ONE}_t1.nii.gz"],
        [f"{ONE}_t1/{ONE}_t1.nii.gz"],
    ],
)
def test_ground_truth_and_images_of_a_copy_of_the_cases_are_no_labelmaps(copy):
    assert not match(cases(ONE), entries(*copy)).pairs


def test_a_case_whose_own_name_ends_as_a_ground_truth_s():
    found = match(cases(ONE, f"{ONE}_seg"), entries(f"{ONE}.nii.gz", f"{ONE}_seg.nii.gz"))
    assert {pair.case.id: pair.labelmap for pair in found.pairs} == {
        ONE: f"{ONE}.nii.gz", f"{ONE}_seg": f"{ONE}_seg.nii.gz",
    }  # fmt: skip
    left = entries(f"{ONE}.nii.gz", f"{ONE}_seg.nii.gz", f"_done/{ONE}_seg.0123456789ab.json")
    assert [pair.labelmap for pair in match(cases(ONE), left).pairs] == [f"{ONE}.nii.gz"]  # the other is gone


def test_what_does_not_match_is_named():
    found = [*cases(ONE, TWO), *cases("BraTS2021_00003", roles=("flair",))]
    keys = ["BraTS2021_00003.nii.gz", "other.nii.gz", "notes.txt", f"deep/{ONE}.nii.gz", f"._{ONE}.nii.gz"]
    matched = match(found, entries(f"{TWO}.nii.gz", *keys))
    assert [pair.case.id for pair in matched.pairs] == [TWO]
    assert matched.without_labelmap == [ONE]
    assert matched.without_truth == ["BraTS2021_00003.nii.gz", "other.nii.gz"]


def test_two_labelmaps_of_a_case_are_a_problem():
    matched = match(cases(ONE), entries(f"{ONE}.nii.gz", f"{ONE}-seg.nii.gz"))
    assert not matched.pairs and "2 labelmaps" in str(matched.problems[0])


def test_a_labelmap_of_before_a_failure_is_a_problem():
    note = f"_failed/{ONE}.0123456789ab.2.json"
    matched = match(cases(ONE, TWO), entries(f"{ONE}.nii.gz", f"{TWO}.nii.gz", note))
    assert [pair.case.id for pair in matched.pairs] == [TWO]
    assert matched.problems[0].case == ONE and "failed when it was last segmented" in str(matched.problems[0])


def test_markers_are_of_the_project_s_own_labelmaps():
    marker = f"_done/{ONE}.0123456789ab.json"
    assert match(cases(ONE), entries(f"{ONE}.nii.gz", marker)).pairs[0].markers == (marker,)
    assert match(cases(ONE), entries(f"{ONE}_seg.nii.gz", marker)).pairs[0].markers == ()
    assert match(cases(TWO), entries(f"{TWO}.nii.gz", marker)).pairs[0].markers == ()


def test_a_pair_survives_its_way_through_ray():
    pair = Pair(cases(ONE)[0], f"{ONE}.nii.gz", ("_done/a.b.json",))
    assert Pair.from_row(pair.to_row()) == pair


@pytest.fixture
def stores(tmp_path) -> tuple[Store, Store]:
    """Cases, with ONE complete in the convention of 2021, and an empty folder for labelmaps."""
    source = Store(tmp_path / "cases")
    put_all(source, case_files(ONE, names=NAMES_2021, enhancing=4))
    return source, Store(tmp_path / "labelmaps")


def pair_of(stores, labels_xyz: np.ndarray, matrix=LPS, marker: object = None) -> Pair:
    source, labelmaps = stores
    labelmaps.put(f"{ONE}.nii.gz", nifti(labels_xyz, matrix))
    if marker is not None:
        labelmaps.put(f"_done/{ONE}.0123456789ab.json", json.dumps(marker).encode())
    return match(find_cases(source.list()).cases, labelmaps.list()).pairs[0]


def test_labels_are_read_in_the_case_s_convention(stores):
    truth = voxels()[1]
    labels, prediction, *_ = read_pair(
        pair_of(stores, np.where(truth == 3, 4, truth).astype(np.float32)), *stores
    )
    assert np.array_equal(labels, prediction) and np.array_equal(labels, truth.T)
    assert labels.dtype == prediction.dtype == np.uint8


def test_a_segmentation_of_3d_slicer_is_read_as_what_it_names(stores):
    source, labelmaps = stores
    truth = np.where(voxels()[1] == 3, 4, voxels()[1]).astype(np.uint8)
    labelmaps.put(f"{ONE}.seg.nrrd", nrrd(truth))
    (pair,) = match(find_cases(source.list()).cases, labelmaps.list()).pairs
    labels, prediction, *_ = read_pair(pair, *stores)
    assert np.array_equal(labels, prediction) and prediction.any()
    named = nrrd(truth).replace(b"\n\n", b"\nSegment0_LabelValue:=1\nSegment0_Name:=edema\n\n", 1)
    labelmaps.put(f"{ONE}.seg.nrrd", named)
    with pytest.raises(CaseError, match=r"its segment of value 1 is named 'edema'.*; number the segments as"):
        read_pair(pair, *stores)  # not by --labels, which would read the ground truth in other labels too


REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}


def test_the_dataset_json_that_nnunet_leaves_beside_its_labelmaps_tells_their_labels(stores):
    """Its values have no gap, and 1 is oedema: a case without enhancing tumour would be swapped unsaid."""
    source, labelmaps = stores
    truth = np.where(voxels()[1] == 3, 1, voxels()[1])
    source.put(f"{ONE}/{ONE}_seg.nii.gz", nifti(truth))
    labelmaps.put(f"{ONE}.nii.gz", nifti(np.array([0, 2, 1], np.uint8)[truth]))
    labelmaps.put("dataset.json", json.dumps({"labels": REGIONS}).encode())
    told = told_beside(labelmaps, labelmaps.list(), "auto")
    (pair,) = match(find_cases(source.list()).cases, labelmaps.list(), labels=told).pairs
    again = Pair.from_row(pair.to_row())
    labels, prediction, _, convention, _ = read_pair(again, *stores)
    assert convention == "msd" and np.array_equal(labels, prediction)
    assert pair.fingerprint != replace(pair, labels="").fingerprint
    assert told_beside(labelmaps, labelmaps.list(), "brats2021") == ""


@pytest.mark.parametrize(
    ("regions", "order", "told"),
    [
        ({"WT": [1, 2, 3], "TC": [2, 3], "ET": [3]}, [1, 2, 3], "msd"),
        ({"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}, [2, 1, 3], "brats2023"),
        ({"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}, [1, 2, 3], None),  # oedema is painted as 1
        ({"ET": [3], "TC": [1, 3], "WT": [1, 2, 3]}, [3, 1, 2], None),  # WT is painted over all
        ({"TC": [1, 3], "WT": [1, 2, 3], "ET": [3]}, [2, 1, 3], None),
    ],
)
def test_what_nnunet_paints_for_its_regions_is_what_the_labelmaps_beside_hold(stores, regions, order, told):
    """regions_class_order may paint other values than those of the ground truth."""
    _, labelmaps = stores
    said = {"labels": {"background": 0, **regions}, "regions_class_order": order}
    labelmaps.put("dataset.json", json.dumps(said).encode())
    if told:
        assert told_beside(labelmaps, labelmaps.list(), "auto") == told
    else:
        with pytest.raises(UsageError, match=r"dataset\.json: .*regions_class_order"):
            told_beside(labelmaps, labelmaps.list(), "auto")


def test_a_dataset_json_of_unknown_labels_stops_the_scoring(stores):
    _, labelmaps = stores
    assert told_beside(labelmaps, labelmaps.list(), "auto") == ""
    labelmaps.put("dataset.json", json.dumps({"labels": {"background": 0, "tumor": 1}}).encode())
    with pytest.raises(UsageError, match=r"dataset\.json: names labels that are not known"):
        told_beside(labelmaps, labelmaps.list(), "auto")


def test_a_marker_is_believed_over_the_case(stores):
    truth = voxels()[1]
    labels, prediction, *_ = read_pair(pair_of(stores, truth, marker={"labels": "brats2023"}), *stores)
    assert np.array_equal(labels, prediction)


MADE = {"labels": "brats2021", "models": [{"digest": "0123456789ab"}], "options": {"flips": False}}


@pytest.mark.parametrize(
    ("marker", "maker"),
    [
        (MADE, "0123456789ab"),
        (MADE | {"options": {"flips": True}}, "0123456789ab flips"),
        (
            MADE | {"models": [{"digest": "0123456789ab"}, {"digest": "ba9876543210"}]},
            "0123456789ab+ba9876543210",
        ),
        ({"labels": "brats2021"}, ""),
        (["brats2021"], ""),
        (None, ""),
    ],
)
def test_a_marker_tells_what_made_the_labelmap(stores, marker, maker):
    markers = read_markers(pair_of(stores, voxels()[1], marker=marker), stores[1])
    assert Labels(*[None] * 4, markers).maker == maker


def test_a_labelmap_of_an_older_scan_is_not_scored(stores):
    truth = voxels()[1]
    files = find_cases(stores[0].list()).cases[0].files
    inputs = {role: {"key": entry.key, "version": entry.version} for role, entry in files.items()}
    marker = {"labels": "brats2023", "cases": stores[0].uri, "inputs": inputs}
    before = pair_of(stores, truth, marker=marker)
    assert np.array_equal(*read_pair(before, *stores)[:2])
    stores[0].put(files["flair"].key, stores[0].read(files["t1"].key))
    pair = match(find_cases(stores[0].list()).cases, stores[1].list()).pairs[0]
    assert pair.fingerprint != before.fingerprint, "a score that is known is of the older scan"
    with pytest.raises(CaseError, match="flair changed since the labelmap was made") as caught:
        read_pair(pair, *stores)
    assert (caught.value.case, caught.value.file) == (ONE, pair.labelmap)
    missing = {**marker, "inputs": {"t1": inputs["t1"]}}
    with pytest.raises(CaseError, match=r"flair, t1ce, t2 changed|t1ce, t2, flair changed"):
        read_pair(pair_of(stores, truth, marker=missing), *stores)
    elsewhere = pair_of(stores, truth, marker={**marker, "cases": "s3://another/place"})
    read_pair(elsewhere, *stores)  # a copy has versions of its own


def test_labelmaps_out_of_two_zips_are_told_apart(stores):
    path = stores[1].path(f"{ONE}.nii.gz")
    found = []
    for labels in (voxels()[1], voxels()[1][:, ::-1]):
        pair_of(stores, labels)
        with open(path, "r+b") as file:
            file.truncate(1000)  # equal in size
        os.utime(path, (315532800, 315532800))
        time.sleep(0.02)
        found.append(match(find_cases(stores[0].list()).cases, stores[1].list()).pairs[0].fingerprint)
    assert found[0] != found[1]


def test_scores_are_of_the_rules_of_the_data_set_or_of_those_asked_for(stores):
    pair_of(stores, voxels()[1])
    cases, entries = find_cases(stores[0].list()).cases, list(stores[1].list())
    auto, named, later = (match(cases, entries, rules=rules).pairs[0] for rules in ("auto", "2023", "2026"))
    assert auto == named and (named.rules, later.rules) == ("2023", "2026")
    assert later.fingerprint != named.fingerprint, "kept scores are of one year"
    assert named.fingerprint == replace(named, rules="").fingerprint, "those of before there were rules stay"
    assert Pair.from_row(later.to_row()) == later


def test_a_marker_is_believed_of_its_own_bytes_alone(stores):
    """An msd labelmap's 1 is the other conventions' 2: the marker of another file would swap them."""
    pair = pair_of(stores, voxels()[1], marker={})
    written = {"blake2b": digest(stores[1].read(pair.labelmap))}
    stores[1].put(pair.markers[0], json.dumps({"labels": "msd", "labelmap": written}).encode())
    assert read_pair(pair, *stores).convention == "msd"
    stores[1].put(pair.labelmap, nifti(np.roll(voxels()[1], 1, axis=0)))
    with pytest.raises(CaseError, match="not the one that its result record") as caught:
        read_pair(pair, *stores)
    assert (caught.value.stage, caught.value.file) == ("labels", pair.labelmap)


@pytest.mark.parametrize(
    ("change", "stage", "says"),
    [
        ({"labels_xyz": voxels()[1]}, "labels", "labels 3 are not of the convention brats2021"),
        ({"labels_xyz": voxels()[1] * 0.5}, "labels", "labels 0.5"),
        ({"labels_xyz": voxels()[1][1:]}, "grid", "19×24×12 LPS"),
        ({"matrix": affine("RAS")}, "grid", "20×24×12 RAS"),
        ({"matrix": MOVED}, "grid", "LPS, spacing 1×1×1, origin 0, 239, 2"),
        ({"marker": {"labels": "klingon"}}, "labels", "one label convention"),
        ({"marker": {"label": "brats2023"}}, "labels", "one label convention"),
        ({"marker": ["brats2023"]}, "labels", "one label convention"),
    ],
)
def test_what_cannot_be_scored_says_why(stores, change, stage, says):
    truth = voxels()[1]
    pair = pair_of(stores, **{"labels_xyz": np.where(truth == 3, 4, truth).astype(np.uint8), **change})
    with pytest.raises(CaseError, match=says) as caught:
        read_pair(pair, *stores)
    assert (caught.value.stage, caught.value.case) == (stage, ONE)
    assert caught.value.file.startswith((ONE, "_done/"))


def test_a_labelmap_that_is_none(stores):
    pair = pair_of(stores, voxels()[1])
    stores[1].put(f"{ONE}.nii.gz", b"no NIfTI")
    with pytest.raises(CaseError, match="not a NIfTI") as caught:
        read_pair(pair, *stores)
    assert caught.value.stage == "read"
    stores[1].delete(f"{ONE}.nii.gz")
    with pytest.raises(CaseError, match="cannot be read"):
        read_pair(pair, *stores)


def test_images_that_cannot_be_shown_are_left_out(stores):
    source, _ = stores
    images, _ = voxels()
    source.put(f"{ONE}/{ONE}_t1ce.nii.gz", b"broken")
    source.put(f"{ONE}/{ONE}_t1.nii.gz", nifti(images["t1"], affine("RAS")))
    case = find_cases(source.list()).cases[0]
    grid = read_role(case, source, "seg").grid
    found = dict(read_images(case, source, grid, ("flair", "t1ce", "t1")))
    assert list(found) == ["flair"] and np.array_equal(found["flair"], images["flair"].T)


def test_images_of_msd_are_in_one_file(tmp_path):
    source, (images, truth) = Store(tmp_path), voxels()
    stacked = np.stack([images[m] for m in ("flair", "t1", "t1ce", "t2")], axis=-1)
    source.put("imagesTr/BRATS_001.nii.gz", nifti(stacked))
    source.put("labelsTr/BRATS_001.nii.gz", nifti(truth))
    case = find_cases(source.list()).cases[0]
    found = dict(read_images(case, source, read_role(case, source, "seg").grid, ("flair", "t1ce")))
    assert all(np.array_equal(found[m], images[m].T) for m in ("flair", "t1ce"))


def test_our_own_labelmap_without_its_marker_is_refused(tmp_path):
    """A run was cut off between the two: nobody knows in which convention it was written."""
    store = Store(tmp_path)
    put_all(store, case_files(ONE, names=NAMES_2021, enhancing=4))
    case = find_cases(store.list()).cases[0]
    truth = read_role(case, store, "seg")
    for descrip, refused in (("bts 0123456789ab", True), ("another tool", False)):
        store.put("lab.nii.gz", write_labelmap(truth.voxels.astype(np.uint8), truth.grid, descrip))
        pair = Pair(case, "lab.nii.gz", (), "v")
        for read in (
            lambda pair=pair: read_pair(pair, store, store),
            lambda pair=pair: read_prediction(pair, store),
        ):
            if refused:
                with pytest.raises(CaseError, match="result record in _done is missing"):
                    read()
            else:
                read()
