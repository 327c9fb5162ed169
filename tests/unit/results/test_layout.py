"""bts.results.layout and files: in which convention a labelmap is written, and which labelmaps are ours."""

import nibabel as nib
import numpy as np
import pytest

from bts.cases.layouts import find_cases
from bts.images.nifti import read_nifti, write_labelmap
from bts.results.files import SIGNATURE, is_ours
from bts.results.layout import convention_of, left_to_do, marker_key
from bts.storage import Entry
from tests import builders


@pytest.mark.parametrize(
    ("case", "asked", "targets", "convention"),
    [
        ("BraTS2021_00001", "auto", "regions", "brats2021"),
        ("BraTS2021_00001", "msd", "regions", "msd"),
        ("BraTS2021_00001", "msd", "tumour", "figshare_tumour"),
        ("BraTS-MEN-RT-0001-1", "auto", "regions", "brats2023"),  # its own has one value, of the whole tumour
        ("hospital 1", "auto", "regions", "brats2023"),
    ],
)
def test_the_case_tells_the_convention_unless_a_flag_or_the_model_does(case, asked, targets, convention):
    (found,) = find_cases([Entry(f"{case}/{case}_t1.nii.gz", 1, "v")]).cases
    assert convention_of(found, asked, targets) == convention


def test_a_case_that_two_runs_wrote_at_once_is_done_again():
    """Their labelmaps have one name: whose is there, nothing tells."""
    (case,) = find_cases([Entry("A/A_t1.nii.gz", 1, "v")]).cases
    one, two = (marker_key("A", mark * 12) for mark in "ab")
    assert left_to_do([(case, "a" * 12)], {one}, set(), 0).done == 1
    (again,) = left_to_do([(case, "a" * 12)], {one, two}, set(), 0).todo
    assert set(again.older) == {one, two}
    assert left_to_do([(case, "a" * 12)], {one, two}, {two}, 0).done == 1


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_labelmap_of_ours_is_known_by_its_header(kind, order):
    image = kind(np.zeros((4, 5, 6), np.int16), builders.LPS)
    image = kind(image.dataobj, builders.LPS, image.header.as_byteswapped(order))
    grid = read_nifti(image.to_bytes(), "t1.nii").grid
    labels = np.zeros(grid.shape, np.uint8)
    assert is_ours(write_labelmap(labels, grid, f"{SIGNATURE}1.0"))
    assert not is_ours(write_labelmap(labels, grid, "another tool")) and not is_ours(b"no gzip")
