"""bts.labels: values of a file to labels of the project and back, and what no convention has."""

import numpy as np
import pytest

from bts.errors import CaseError, UsageError
from bts.labels import CONVENTIONS, SAYABLE, fitting, from_internal, is_known, spelt, to_internal, values_of


@pytest.mark.parametrize("convention", [c for c, v in CONVENTIONS.items() if len({*v.values()}) == len(v)])
def test_conventions_are_undone_exactly(convention):
    values = np.array([0, *CONVENTIONS[convention]])
    labels = to_internal(values.astype(np.float32), convention)
    assert np.array_equal(from_internal(labels, convention), values)


def test_necrosis_and_non_enhancing_core_are_written_as_one():
    labels = to_internal(np.array([0, 1, 2, 3, 4]), "brats2015")
    values = from_internal(labels, "brats2015")
    assert values.tolist() == [0, 1, 2, 1, 4]
    assert np.array_equal(to_internal(values, "brats2015"), labels)


def test_known_numbers_of_each_convention():
    assert to_internal(np.array([1, 2, 3, 4]), "brats2015").tolist() == [1, 2, 1, 3]
    assert to_internal(np.array([1, 2, 4]), "brats2021").tolist() == [1, 2, 3]
    assert to_internal(np.array([1, 2, 3]), "brats2023").tolist() == [1, 2, 3]
    assert to_internal(np.array([3, 4]), "brats2024").tolist() == [3, 4]
    assert to_internal(np.array([1, 2, 3]), "msd").tolist() == [2, 1, 3]


@pytest.mark.parametrize("value", [3, 5, 255, 256, -1, 0.5])
def test_a_label_outside_the_convention_is_refused(value):
    with pytest.raises(CaseError, match=r"labels .* are not of the convention brats2021"):
        to_internal(np.array([0, 1, value]), "brats2021", file="seg.nii.gz")


def test_an_unknown_convention_is_never_guessed():
    with pytest.raises(CaseError, match=r"--labels brats2021\|brats2023\|brats2024\|msd\|ped2024, or"):
        to_internal(np.array([0, 1, 2]), "")


def test_a_resection_cavity_never_becomes_background():
    with pytest.raises(ValueError, match="label 4"):
        from_internal(np.array([0, 4], np.uint8), "brats2023")


def test_a_message_offers_only_conventions_that_fit():
    every = np.arange(5)
    assert fitting(every) == ["brats2024", "ped2024"]
    with pytest.raises(CaseError) as caught:
        to_internal(every, "", among=("ped2023", "ped2024"))
    assert "--labels ped2024, or" in str(caught.value) and "2023" not in str(caught.value)
    with pytest.raises(CaseError, match=r"not of the convention brats2023 .* --labels met2025,"):
        to_internal(every, "brats2023", among=("brats2023", "met2025"))
    with pytest.raises(CaseError, match="no known convention has these values; spell them out"):
        to_internal(np.array([0, 7]), "")


def test_a_convention_can_be_spelt_out():
    said = spelt("4=ED, 1=et,2=NCR,3=CYST")
    assert said == "1=ET,2=NCR,3=CYST,4=ED" and is_known(said) and spelt(said) == said
    assert values_of(said) == CONVENTIONS["ped2024"]
    assert to_internal(np.arange(5), said).tolist() == [0, 3, 1, 1, 2]
    assert from_internal(np.arange(4, dtype=np.uint8), said).tolist() == [0, 2, 4, 1]
    assert all(spelt(name) == name for name in ("auto", *SAYABLE))


@pytest.mark.parametrize(
    "said", ["", "brats", "1=ET,1=ED", "1", "0=ET", "256=ET", "1=tumour", "x=ET", "figshare"]
)
def test_pairs_that_are_none_are_refused(said):
    with pytest.raises(UsageError, match="--labels"):
        spelt(said)
    assert not is_known("brats")


def test_scaled_labels_are_rounded_where_they_cannot_be_mistaken():
    scaled = np.array([0, 1.00392163, 1.99215698, 4.00000024], np.float32)
    assert to_internal(scaled, "brats2021").tolist() == [0, 1, 2, 3]
    for mixed in ([0, 0.5, 1], [0, 0.99, 1.0, 1.01]):
        with pytest.raises(CaseError, match="resampled, or its header scales"):
            to_internal(np.array(mixed), "brats2021")


def test_a_value_near_zero_is_not_taken_for_the_background_beside_it():
    with pytest.raises(CaseError, match="resampled, or its header scales"):
        to_internal(np.array([0, 0, 0.0039, 0]), "brats2021")
    everywhere = np.array([0.0039, 1.0039, 4.0039])  # the scale has an offset: there is no other 0
    assert to_internal(everywhere, "brats2021").tolist() == [0, 1, 3]


@pytest.mark.parametrize("count", [0, 1, 40])
def test_labels_stay_where_they_are(count):
    rng = np.random.default_rng(count)
    values = np.zeros((6, 7, 8), np.int16)
    values.flat[rng.permutation(values.size)[:count]] = rng.choice([1, 2, 4], count)
    expected = np.select([values == 4, values > 0], [3, values], 0)
    for dtype in (np.int16, np.float32, np.uint8):
        assert np.array_equal(to_internal(values.astype(dtype), "brats2021"), expected)
