"""bts.inference: from the voxels of a case to labels on its own grid."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bts.errors import CaseError
from bts.inference import Segmenter, drop_small_et, region_labels, working_size
from bts.model import Model
from bts.nets import build
from bts.presets import Inference, Network, Preset

PRESET = Preset(
    name="tiny",
    modalities=("t1ce", "flair"),
    size=(16, 16),
    network=Network(widths=(4, 8), stem=2),
    inference=Inference(batch=4, min_et_ml=0),
)


@dataclass
class Volume:
    """What a Segmenter looks at in a CaseVolume."""

    images: np.ndarray
    modalities: tuple[str, ...] = ("t1", "t1ce", "t2", "flair")
    zooms: tuple[float, float, float] = (1.0, 1.0, 1.0)
    case_id: str = "case-7"
    grid: SimpleNamespace = field(init=False)

    def __post_init__(self):
        self.grid = SimpleNamespace(zooms=self.zooms)
        brains = [image[image != 0] for image in self.images]
        self.mean = np.array([b.mean() for b in brains], np.float32)
        self.std = np.array([b.std() for b in brains], np.float32)


class Bright(torch.nn.Module):
    """Logits that say tumour where a channel is bright: WT by flair, TC and ET by t1ce."""

    def forward(self, x_BCHW):
        t1ce, flair = x_BCHW[:, 0], x_BCHW[:, 1]
        return torch.stack([flair, t1ce, t1ce - 0.1], dim=1).float() * 20 - 30


def bright(preset: Preset = PRESET) -> Model:
    return Model(Bright(), preset, {}, "")


def untrained(seed: int) -> Model:
    torch.manual_seed(seed)
    return Model(build(PRESET), PRESET, {}, "")


def volume(shape=(6, 21, 18), dtype=np.int16, **options) -> Volume:
    rng = np.random.default_rng(0)
    images = rng.integers(100, 200, (4, *shape)).astype(dtype)
    images[:, :, :3] = 0
    images[1, 2:4, 8:14, 6:12] = 400
    images[3, 1:5, 6:16, 4:14] = 400
    return Volume(images, **options)


def test_labels_lie_on_the_volumes_own_grid_and_in_the_brain():
    case = volume()
    labels = Segmenter([untrained(0)])(case)
    assert labels.shape == case.images.shape[1:] and labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1, 2, 3}
    assert (labels[(case.images == 0).all(axis=0)] == 0).all()


def test_modalities_are_picked_by_name():
    case = volume()
    expected = np.zeros(case.images.shape[1:], np.uint8)
    expected[1:5, 6:16, 4:14] = 2
    expected[2:4, 8:14, 6:12] = 3
    assert np.array_equal(Segmenter([bright()])(case), expected)
    turned = Volume(case.images[::-1], modalities=case.modalities[::-1])
    assert np.array_equal(Segmenter([bright()])(turned), expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_every_pixel_type_of_a_shard_gives_the_same(dtype):
    assert np.array_equal(Segmenter([bright()])(volume(dtype=dtype)), Segmenter([bright()])(volume()))


def test_a_missing_modality_fails_the_case_by_name():
    case = volume()
    with pytest.raises(CaseError, match="flair") as error:
        Segmenter([bright()])(Volume(case.images[:3], modalities=case.modalities[:3]))
    assert error.value.case == "case-7" and error.value.stage == "predict"


def test_the_same_case_gives_the_same_bytes_whatever_the_batch():
    case = volume()
    first = Segmenter([untrained(1)])(case)
    assert np.array_equal(first, Segmenter([untrained(1)])(case))
    assert np.mean(first != Segmenter([untrained(1)], batch=5)(case)) < 0.01


def test_an_ensemble_is_the_mean_of_its_models():
    case, models = volume(), [untrained(1), untrained(2)]
    singles = [Segmenter([model]).probabilities(case) for model in models]
    assert torch.allclose(Segmenter(models).probabilities(case), (singles[0] + singles[1]) / 2, atol=1e-6)


def test_flips_make_the_answer_symmetric():
    case = volume()
    mirrored = Volume(np.ascontiguousarray(case.images[..., ::-1]))
    segmenter = Segmenter([untrained(3)], flips=True)
    there, back = segmenter.probabilities(case), segmenter.probabilities(mirrored).flip(-1)
    assert torch.allclose(there, back, atol=0.02)  # bfloat16
    assert not torch.allclose(there, Segmenter([untrained(3)]).probabilities(case), atol=1e-3)


def test_other_spacings_are_predicted_at_one_millimetre():
    assert working_size((100, 80), (1.0, 1.04)) == (100, 80)
    assert working_size((100, 80), (2.0, 0.5)) == (200, 40)
    fine = volume(shape=(6, 42, 36), zooms=(1.0, 0.5, 0.5))
    labels = Segmenter([bright()])(fine)
    assert labels.shape == (6, 42, 36)
    assert (labels[2:4, 9:13, 7:11] == 3).all() and (labels[:, :3] == 0).all()


def test_later_regions_override():
    probabilities = torch.tensor(
        [[0.0, 0.9, 0.9, 0.9, 0.1], [0.0, 0.1, 0.9, 0.9, 0.1], [0.0, 0.1, 0.1, 0.9, 0.9]]
    )
    assert region_labels(probabilities[:, None, None], 0.5)[0, 0].tolist() == [0, 2, 1, 3, 3]


def test_too_little_enhancing_tumour_becomes_necrosis():
    labels = np.array([[[0, 2, 1, 3, 3]]], np.uint8)
    assert np.array_equal(drop_small_et(labels, 0.002, 1.0), labels)
    assert drop_small_et(labels, 0.003, 1.0).tolist() == [[[0, 2, 1, 1, 1]]]
    assert np.array_equal(drop_small_et(labels, 0.003, 2.0), labels)
    least = replace(PRESET, inference=Inference(batch=4, min_et_ml=1.0))
    assert 3 not in Segmenter([bright(least)])(volume())


def test_a_segmenter_needs_a_model():
    with pytest.raises(ValueError, match="at least one"):
        Segmenter([])
