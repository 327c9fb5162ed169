import numpy as np
import pytest

from bts.errors import CaseError, RunError
from bts.intake import atlas
from bts.intake.strip import brain_mask


@pytest.fixture(scope="module")
def sri24():
    """SRI24's head and its published brain."""
    try:
        return atlas.head().voxels, atlas.brain()
    except RunError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hdbet", "deepbet"])
def test_the_atlas_s_head_gives_its_published_brain(sri24, how):
    head, brain = sri24
    try:
        found = brain_mask(head, head, how)
    except RunError as error:
        pytest.skip(str(error))
    assert 2 * (found & brain).sum() / (found.sum() + brain.sum()) >= 0.95


def test_stripped_scans_keep_what_is_not_zero():
    image = np.zeros((20, 20, 20), np.float32)
    image[4:15, 4:15, 4:15] = 100
    image[9, 9, 9] = 0  # a hole within the brain
    image[1, 1, 1] = 5  # a speck outside
    found = brain_mask(image, image, "mask")
    assert found[9, 9, 9] and not found[1, 1, 1]
    assert found.sum() == 11**3


def test_an_empty_image_has_no_brain():
    with pytest.raises(CaseError, match="no brain"):
        brain_mask(np.zeros((8, 8, 8)), np.zeros((8, 8, 8)), "mask")
