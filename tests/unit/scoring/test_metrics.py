"""Overlap metrics: worked by hand, by symmetry, and against the challenge's own code."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bts.images.nifti import read_nifti
from bts.labels import CAVITY, REGIONS, regions_of
from bts.scoring.metrics import METRICS, confusion, mean_dice, measure, score
from bts.scoring.rules import GLIOMA, RULES, rules_of

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden"
SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)


@st.composite
def pairs(draw) -> tuple[np.ndarray, np.ndarray]:
    """Two labelmaps of one shape."""
    shape = draw(SHAPES)
    labels = hnp.arrays(np.uint8, shape, elements=st.integers(0, 4))
    return draw(labels), draw(labels)


def test_worked_by_hand():
    truth = np.array([[[0, 0, 1, 2, 3, 3, 2, 0]]], np.uint8)
    prediction = np.array([[[0, 2, 1, 1, 3, 2, 0, 0]]], np.uint8)
    scores = score(truth, prediction)
    assert list(scores) == ["WT", "TC", "ET"] and all(tuple(of) == METRICS for of in scores.values())
    assert scores["WT"] == pytest.approx(
        {"dice": 8 / 10, "iou": 4 / 6, "sensitivity": 4 / 5, "specificity": 2 / 3}
    )
    assert scores["TC"] == pytest.approx(
        {"dice": 4 / 6, "iou": 2 / 4, "sensitivity": 2 / 3, "specificity": 4 / 5}
    )
    assert scores["ET"] == pytest.approx(
        {"dice": 2 / 3, "iou": 1 / 2, "sensitivity": 1 / 2, "specificity": 1}
    )
    assert mean_dice(scores) == pytest.approx((0.8 + 2 / 3 + 2 / 3) / 3)


def test_empty_regions():
    empty, tumour = np.zeros((2, 3, 4), np.uint8), np.full((2, 3, 4), 3, np.uint8)
    nothing = dict.fromkeys(METRICS, 1.0)
    assert score(empty, empty) == {region: nothing for region in REGIONS}
    missed = score(tumour, empty)["ET"]
    assert missed == {"dice": 0, "iou": 0, "sensitivity": 0, "specificity": 1}
    invented = score(empty, tumour)["ET"]
    assert invented == {"dice": 0, "iou": 0, "sensitivity": 0, "specificity": 0}


def test_cavity_is_scored_only_where_it_occurs():
    truth = np.array([[[0, 3, 4, 4]]], np.uint8)
    prediction = np.array([[[0, 3, 4, 0]]], np.uint8)
    scores = score(truth, prediction)
    assert scores["RC"]["dice"] == pytest.approx(2 / 3)
    assert scores["WT"]["dice"] == 1, "the cavity is no tumour"
    assert "RC" in score(np.zeros_like(truth), prediction) and "RC" not in score(truth % 4, prediction % 4)


def test_tumour_types_are_scored_only_where_they_occur():
    truth = np.array([[[0, 2, 2, 2]]], np.uint8)
    prediction = np.array([[[0, 2, 1, 2]]], np.uint8)
    scores = score(truth, prediction, *regions_of("figshare"))
    dice = {region: of["dice"] for region, of in scores.items()}
    assert dice == {"tumour": 1, "meningioma": 0, "glioma": pytest.approx(0.8)} and mean_dice(scores) == 1
    assert list(score(truth, prediction, *regions_of("figshare_tumour"))) == ["tumour"]


def test_other_regions():
    truth = np.array([[[0, 1, 2]]], np.uint8)
    assert score(truth, truth, {"meningioma": (1,)})["meningioma"]["dice"] == 1


@pytest.mark.parametrize(
    "other", [np.zeros((1, 2), np.uint8), np.zeros((1, 3)), np.full((1, 3), 5, np.uint8)]
)
def test_refuses_what_is_no_labelmap(other):
    with pytest.raises(ValueError, match=r"shape|labels"):
        score(np.zeros((1, 3), np.uint8), other)


@given(pairs(), st.permutations(range(3)), st.sets(st.integers(0, 2)))
def test_the_way_voxels_are_stored_does_not_matter(pair, order, flipped):
    moved = [np.flip(labels.transpose(order), tuple(flipped)) for labels in pair]
    assert score(*moved) == score(*pair)


@given(pairs())
def test_dice_and_iou_are_symmetric_and_tied(pair):
    there, back = score(*pair), score(*pair[::-1])
    for region, of in there.items():
        assert of["dice"] == back[region]["dice"] and of["iou"] == back[region]["iou"]
        assert of["dice"] == pytest.approx(2 * of["iou"] / (1 + of["iou"]))
        assert all(0 <= value <= 1 for value in of.values())


@given(pairs())
def test_confusion_counts_every_voxel(pair):
    counts = confusion(*pair)
    assert counts.sum() == pair[0].size
    assert np.array_equal(counts.sum(axis=1), np.bincount(pair[0].ravel(), minlength=5))
    assert np.array_equal(counts.T, confusion(*pair[::-1]))


def test_a_labelmap_agrees_with_itself():
    truth = np.random.default_rng(0).integers(0, 5, (8, 9, 10)).astype(np.uint8)
    assert all(of == dict.fromkeys(METRICS, 1.0) for of in score(truth, truth).values())


@pytest.mark.parametrize("rules", [RULES[year]["met"] for year in RULES], ids=RULES)
def test_an_oblique_affine_changes_no_score(rules):
    """Its columns are 1.00000002 mm long, as float32 rounds: the next voxel lies within 1 mm all the same,
    and a lesion of 2 mm³ is one of 2 mm³."""
    truth, prediction = np.zeros((2, 12, 12, 12), np.uint8)
    truth[3:7, 3:7, 3:7], prediction[2:7, 3:7, 3:7] = 3, 3
    truth[10, 10, 9:11] = 1
    straight, oblique = (
        measure(truth, prediction, rules.regions, rules.where_present, spacing=spacing, rules=rules)
        for spacing in ((1.0, 1.0, 1.0), (1.0000000232, 1.0000000232, 1.0))
    )
    assert oblique == straight and straight["ET"]["nsd1"] == 1


def official() -> list:
    """One parameter a pair of labelmaps: what the challenge's code gives for its regions."""
    path = GOLDEN / "brats2023_official.json"
    if not path.exists():
        reason = "no reference scores on this machine: ../shared/golden is absent"
        return [pytest.param([], marks=pytest.mark.skip(reason=reason))]
    found: dict[tuple[str, str], list[dict]] = {}
    for row in json.loads(path.read_text()):
        found.setdefault((row["truth"], row["prediction"]), []).append(row)
    return [pytest.param(rows, id=prediction[: -len(".nii.gz")]) for (_, prediction), rows in found.items()]


RULES_OF = {"BraTS-GLI": GLIOMA, "BraTS-MET": rules_of("brats2023-met")}


@pytest.mark.slow
@pytest.mark.parametrize("rows", official())
def test_agrees_with_the_challenge(rows):
    truth, prediction = (read_labels(rows[0][side]) for side in ("truth", "prediction"))
    scores = {
        challenge: measure(truth, prediction, REGIONS, CAVITY, spacing=(1.0, 1.0, 1.0), rules=rules)
        for challenge, rules in RULES_OF.items()
    }
    for row in rows:
        of = scores[row["challenge"]][row["region"]]
        assert of["dice"] == pytest.approx(row["Legacy_Dice"], abs=1e-12)
        assert of["sensitivity"] == pytest.approx(row["Sensitivity"], abs=1e-12)
        assert of["specificity"] == pytest.approx(row["Specificity"], abs=1e-12)
        assert of["hd95"] == pytest.approx(row["Legacy_HD95"], abs=1e-6)
        assert of["lesion_dice"] == pytest.approx(row["LesionWise_Score_Dice"], abs=1e-6)
        assert of["lesion_hd95"] == pytest.approx(row["LesionWise_Score_HD95"], abs=1e-6)
        assert of["lesions_false"] == row["Num_FP"]


def read_labels(name: str) -> np.ndarray:
    return read_nifti((GOLDEN / name).read_bytes(), name).voxels.astype(np.uint8)
