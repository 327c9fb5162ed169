"""bts.model.normalise: what the network sees of raw pixels."""

import numpy as np
import pytest
import torch

from bts.model.normalise import constants, fill_background, normalise
from bts.settings import Normalisation


def brain_zscore(raw: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    known = constants(raw.numpy(), np.array(mean), np.array(std), Normalisation())
    return normalise(raw, torch.from_numpy(known))


def test_zscore_of_the_brain_leaves_background_at_zero():
    raw = torch.zeros(1, 2, 4, 4, dtype=torch.int16)
    raw[:, :, 1:3, 1:3] = torch.tensor([[[10, 20], [30, -40]]], dtype=torch.int16)
    normal = brain_zscore(raw, [10, 0], [5, 10])
    assert normal.dtype == torch.float32
    assert normal[0, 0, 1:3, 1:3].tolist() == [[0, 2], [4, -10]]
    assert normal[0, 1, 1:3, 1:3].tolist() == [[1, 2], [3, -4]]
    assert normal[0, :, 0].abs().sum() == 0


def test_minmax_of_a_range_beyond_int16():
    raw = np.array([[[[-12000, 0], [5000, 25000]]]], np.int16)
    known = constants(raw, np.ones(1), np.ones(1), Normalisation(kind="slice_minmax"))
    normal = normalise(torch.from_numpy(raw), torch.from_numpy(known))[0, 0]
    assert normal[0, 0] == 0 and normal[1, 1] == 1 and normal[1, 0] == pytest.approx(17 / 37)


def test_zscore_of_a_flat_image_is_finite():
    assert brain_zscore(torch.full((1, 1, 2, 2), 7.0), [7], [0]).abs().sum() == 0


@pytest.mark.parametrize(
    ("settings", "background"),
    [
        (Normalisation(), 0),
        (Normalisation(kind="slice_zscore", background=-9), -9),
        (Normalisation(kind="slice_minmax"), 0),
        (Normalisation(kind="fixed", scale=50), 0),
        (Normalisation(kind="global_zscore", mean=(20, 10), std=(10, 5)), -2),
    ],
)
def test_background_has_the_value_that_its_kind_says_and_brain_is_left_alone(settings, background):
    raw = torch.zeros(1, 2, 4, 4)
    raw[:, :, 1:3, 1:3] = torch.tensor([[15.0, 25.0], [30.0, 100.0]])
    known = torch.from_numpy(constants(raw.numpy(), np.full(2, 25.0), np.full(2, 7.0), settings))
    normal = normalise(raw, known)
    seen = fill_background(normal, known, settings)
    assert (seen[raw == 0] == background).all()
    assert torch.equal(seen[raw != 0], normal[raw != 0])


def test_a_slice_without_brain_is_all_background():
    blank = np.zeros((1, 1, 4, 4), np.int16)
    for kind in ("slice_zscore", "slice_minmax"):
        settings = Normalisation(kind=kind, background=-9)
        known = torch.from_numpy(constants(blank, np.ones(1), np.ones(1), settings))
        assert (fill_background(normalise(torch.from_numpy(blank), known), known, settings) == -9).all()
