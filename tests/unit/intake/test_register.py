import numpy as np
import pytest
from scipy import ndimage

from bts.intake.grids import BRATS, Image, Lattice, isotropic, resample, resample_scan, turn_deg
from bts.intake.register import pyramid, register, shifted, similarity, starts_between

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("itk")]


def image_of(scan) -> Image:
    voxels = np.ascontiguousarray(scan.voxels_xyz.T)
    return Image(voxels, Lattice(voxels.shape, scan.affine))


def found_and_known(study, role):
    """(recovered matrix T1ce → role, the true one, T1ce's centre)."""
    fixed, moving = study.scan("t1ce"), study.scan(role)
    one, other = image_of(fixed), image_of(moving)
    found = register(pyramid(one), pyramid(other), starts_between(one.lattice, other.lattice))
    return found, moving.pose @ np.linalg.inv(fixed.pose), one.lattice.centre


@pytest.mark.parametrize("role", ["t1", "t2", "flair"])
@pytest.mark.parametrize("vendor", ["ge", "siemens"])
def test_the_known_pose_is_recovered(request, vendor, role):
    found, known, centre = found_and_known(request.getfixturevalue(vendor), role)
    apart = np.linalg.inv(known) @ found
    shift = np.linalg.norm((apart @ [*centre, 1])[:3] - centre)
    # A head of half the size with slices of 5 mm: a whole one is found to 0.3° and 0.3 mm.
    assert turn_deg(apart) < (1.5 if vendor == "ge" else 1.0)
    assert shift < 1.0
    assert turn_deg(known) > 1.0  # there was something to find


def test_twice_gives_the_same_bits(ge):
    assert np.array_equal(found_and_known(ge, "t2")[0], found_and_known(ge, "t2")[0])


def test_similarity_of_equal_and_of_independent_images():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 40000))
    assert similarity(one, one) == pytest.approx(2.0)
    assert similarity(one, other) < 1.02


def test_resampling_to_the_own_grid_changes_nothing():
    rng = np.random.default_rng(0)
    image = Image(rng.integers(0, 900, (12, 20, 16)).astype(np.int16), Lattice((12, 20, 16), BRATS.affine))
    assert np.array_equal(resample(image, image.lattice, np.eye(4)), image.voxels)


def test_a_stripped_brain_has_no_dark_rim():
    """What was taken away is no darkness: interpolated with it, a rim of the brain would be darker."""
    brain = np.zeros((8, 40, 40), np.float32)
    brain[2:6, 8:32, 8:32] = 100
    thick = Image(brain, Lattice(brain.shape, np.diag([1, 1, 5, 1.0])))
    onto = Lattice((40, 40, 40), np.array([[1, 0, 0, 0.4], [0, 1, 0, 0.4], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    assert len(np.unique(resample(thick, onto, np.eye(4)))) > 5, "there is a rim to be avoided"
    found = resample_scan(thick, onto, np.eye(4), stripped=True)
    assert set(np.unique(found.round(3))) == {0, 100}
    assert (found > 0).sum() == pytest.approx(brain.sum() / 100 * 5, rel=0.12)


def test_between_thick_slices_cubic_is_nearer_to_the_truth_and_does_not_ring():
    fine = ndimage.gaussian_filter(np.random.default_rng(0).uniform(0, 1000, (80, 40, 40)), 4) + 50
    fine[:, :, 30:] = 5000  # fat
    thick = Image(fine[2::4], Lattice((20, 40, 40), np.diag([1, 1, 4, 1.0])))
    onto = Lattice((60, 40, 40), np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 6], [0, 0, 0, 1.0]]))
    off = {
        how: np.abs(found - fine[8:68])[:, :, :28].mean()
        for how, found in (
            ("linear", resample(thick, onto, np.eye(4))),
            ("cubic", resample_scan(thick, onto, np.eye(4), stripped=False)),
        )
    }
    assert off["cubic"] < 0.6 * off["linear"]
    beside = resample_scan(thick, onto, np.eye(4) @ shifted(np.array([0.3, 0, 0])), stripped=False)
    assert beside.min() > 0.4 * fine.min()


@pytest.mark.parametrize("stripped", [False, True])
def test_values_below_zero_are_values(stripped):
    voxels = np.random.default_rng(0).normal(100, 30, (10, 20, 20)).astype(np.float32)
    voxels[:, :, :6] = 0
    lattice = Lattice(voxels.shape, np.diag([1, 1, 4, 1.0]))
    onto = Lattice((40, 20, 20), np.diag([1, 1, 1, 1.0]))
    above, below = (
        resample_scan(Image(sign * voxels, lattice), onto, np.eye(4), stripped=stripped) for sign in (1, -1)
    )
    assert np.allclose(below, -above, atol=1e-3)


def test_an_isotropic_grid_keeps_the_field_of_view():
    affine = np.array([[0, 0, 5.0, 1], [-0.9, 0, 0, 2], [0, -0.9, 0, 3], [0, 0, 0, 1]])
    lattice = Lattice((20, 100, 80), affine)
    found = isotropic(lattice, 1.0)
    assert np.allclose(np.abs(found.affine[:3, :3]), np.eye(3))
    assert np.allclose(found.centre, lattice.centre, atol=0.5)
    assert found.shape[::-1] == (100, 72, 90)
