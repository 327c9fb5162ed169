"""bts.intake.grids: a lattice's numbers, there and back; SimpleITK is not needed for them."""

import json

import numpy as np
import pytest

from bts.intake.grids import Lattice, isotropic
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
