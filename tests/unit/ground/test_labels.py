"""bts.labels: values of a file to labels of the project and back, and what no convention has."""

import numpy as np
import pytest

from bts.errors import CaseError
from bts.labels import CONVENTIONS, from_internal, to_internal


@pytest.mark.parametrize("convention", [c for c in CONVENTIONS if c != "brats2015"])
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
    with pytest.raises(CaseError, match=r"--labels brats2021\|brats2023\|brats2024\|msd$"):
        to_internal(np.array([0, 1, 2]), "")


def test_a_resection_cavity_never_becomes_background():
    with pytest.raises(ValueError, match="label 4"):
        from_internal(np.array([0, 4], np.uint8), "brats2023")
