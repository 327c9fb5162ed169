"""bts.intake.grids and native: a lattice's numbers, there and back, and labels written on one."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from bts.errors import CaseError
from bts.intake.grids import Image, Lattice, isotropic, to_itk
from bts.intake.native import volumes_ml, write_labels
from tests import builders

OBLIQUE = Lattice((3, 4, 6), builders.affine("PIR", (1.0, 1.25, 3.0), 0.2))


def test_a_lattice_comes_back_from_a_record():
    told = OBLIQUE.to_json()
    assert told["shape_xyz"] == [6, 4, 3]
    back = Lattice.from_json(json.loads(json.dumps(told)))
    assert back.shape == OBLIQUE.shape and np.array_equal(back.affine, OBLIQUE.affine)
    assert back.zooms == pytest.approx((1.0, 1.25, 3.0)) and back.voxel_ml == pytest.approx(0.00375)
    assert np.allclose(back.centre, (back.affine @ (2.5, 1.5, 1, 1))[:3])


def test_an_isotropic_lattice_covers_the_same_field_of_view_in_lps_order():
    """6 mm to the back, 5 mm up, 9 mm to the left."""
    found = isotropic(OBLIQUE)
    assert found.shape == (5, 6, 9) and found.zooms == pytest.approx((1, 1, 1))
    assert np.allclose(found.centre, OBLIQUE.centre)
    assert (np.diag(found.affine)[:3] * (-1, -1, 1) > 0.9).all()


@pytest.mark.parametrize("shear", [0.1, -0.1])
def test_axes_that_are_not_at_right_angles_are_refused(shear):
    pytest.importorskip("SimpleITK", reason="requirements-intake.txt is not installed")
    sheared = Lattice(
        OBLIQUE.shape, OBLIQUE.affine @ (np.eye(4) + shear * np.eye(4, k=1) * [[1], [0], [0], [0]])
    )
    with pytest.raises(CaseError, match="right angles"):
        to_itk(Image(np.zeros(OBLIQUE.shape, np.uint8), sheared))


def test_labels_are_written_as_they_are_and_measured():
    """None enhances: regions count what is there."""
    labels = Image(np.arange(72, dtype=np.uint8).reshape(OBLIQUE.shape) % 3, OBLIQUE)
    data = write_labels(labels)
    back = nib.Nifti1Image.from_bytes(gzip.decompress(data))
    assert np.array_equal(np.asarray(back.dataobj).T, labels.voxels) and np.allclose(
        back.affine, OBLIQUE.affine
    )
    assert back.get_data_dtype() == np.uint8 and back.header.get_intent()[0] == "label"
    assert back.header.get_xyzt_units()[0] == "mm" and data[4:8] == bytes(4), "no time in the gzip stream"
    assert volumes_ml(labels) == {"WT": 0.18, "TC": 0.09, "ET": 0.0}
