"""bts.inference.confidence: the soft Dice of a labelmap and its probabilities, and the Dice to expect."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bts.inference import confidence

LABELS = np.array([[[0, 0, 2, 2, 1, 3]]], np.uint8)


def of_regions(wt, tc, et) -> np.ndarray:
    return np.array([wt, tc, et], np.float32).reshape(3, 1, 1, 6)


def agreement(sure_KDHW: np.ndarray, labels_DHW: np.ndarray, targets: str) -> dict[str, float]:
    return confidence.agreement(sure_KDHW, labels_DHW, sure_KDHW.sum(axis=(1, 2, 3)), targets)


def test_certain_probabilities_agree_wholly():
    sure = of_regions([0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1])
    assert agreement(sure, LABELS, "regions") == {"WT": 1.0, "TC": 1.0, "ET": 1.0}


def test_agreement_by_hand():
    half = of_regions([0, 0.5, 1, 1, 1, 0.5], [0] * 6, [0, 0, 0, 0, 0, 0.6])
    found = agreement(half, LABELS, "regions")
    # WT: 2 × (1 + 1 + 1 + 0.5) over 4 voxels and a sum of 4.
    assert found == pytest.approx({"WT": 7 / 8, "TC": 0.0, "ET": 1.2 / 1.6})


def test_labels_and_types_are_added_up_to_regions():
    labels = np.zeros((3, 1, 1, 6), np.float32)
    labels[0, ..., 4], labels[1, ..., 2:4], labels[2, ..., 5] = 0.9, 0.8, 0.7  # NCR, ED, ET
    found = agreement(labels, LABELS, "labels")
    total = 0.9 + 1.6 + 0.7
    assert found["WT"] == pytest.approx(2 * total / (4 + total))
    assert found["TC"] == pytest.approx(2 * 1.6 / (2 + 1.6))
    types = agreement(labels, LABELS, "tumour_types")
    assert types == pytest.approx({"tumour": 2 * total / (4 + total)})


def test_a_region_that_the_labelmap_lacks_is_left_out():
    assert agreement(np.full((3, 1, 1, 6), 0.4), LABELS * 0, "regions") == {}
    # Label 1 alone: a core that does not enhance.
    core = agreement(np.full((3, 1, 1, 6), 0.4), LABELS % 2, "regions")
    assert set(core) == {"WT", "TC"}


KNOWN = {"dice/WT": 0.8, "agreement/WT": 0.9}


def test_what_is_expected_is_scaled_by_what_held_out_cases_got():
    assert confidence.expected_dice({"WT": 0.9}, KNOWN) == pytest.approx({"WT": 0.8})
    assert confidence.expected_dice({"WT": 0.8, "TC": 0.5}, KNOWN) == pytest.approx({"WT": 0.6})
    assert confidence.expected_dice({"WT": 0.3}, KNOWN) == {"WT": 0.0}
    assert confidence.expected_dice({"WT": 0.9}, {}) == {}


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.99))
def test_the_surer_the_better_and_never_beyond_0_and_1(one, other, dice, mean):
    known = {"dice/WT": dice, "agreement/WT": mean}
    low, high = (confidence.expected_dice({"WT": a}, known)["WT"] for a in sorted((one, other)))
    assert 0 <= low <= high <= 1


def test_a_poor_whole_tumour_is_flagged():
    assert confidence.flag({"WT": 0.69, "TC": 0.9}) == ["unsure: Dice of WT is expected to be 0.69"]
    assert confidence.flag({"WT": 0.71, "TC": 0.1}) == confidence.flag({}) == []
    assert confidence.flag({"tumour": 0.2}) == ["unsure: Dice of tumour is expected to be 0.20"]
