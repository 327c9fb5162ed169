"""bts.inference.segmenter: from the voxels of a case to labels on its own grid."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bts.cases.datasets import OTHER, Dataset
from bts.errors import CaseError, UsageError
from bts.inference.segmenter import Segmenter
from bts.model.file import Model
from bts.model.nets import build
from bts.model.spacing import working_size
from bts.settings import Budget, Inference, Layers, Loss, Normalisation, Preset, Sampling

PRESET = Preset(
    name="tiny",
    modalities=("t1ce", "flair"),
    size=(16, 16),
    layers=Layers(widths=(4, 8), stem=2, norm="batch"),
    loss=Loss(bce=1),
    budget=Budget(epochs=1),
    inference=Inference(batch=4),
)


@dataclass
class Volume:
    """What a Segmenter looks at in a CaseVolume."""

    images: np.ndarray
    modalities: tuple[str, ...] = ("t1", "t1ce", "t2", "flair")
    zooms: tuple[float, float, float] = (1.0, 1.0, 1.0)
    case_id: str = "case-7"
    traits: Dataset = OTHER
    grid: SimpleNamespace = field(init=False)

    def __post_init__(self):
        self.grid = SimpleNamespace(zooms=self.zooms, shape=tuple(n + 3 for n in self.images.shape[1:]))
        brains = [image[image != 0] for image in self.images]
        self.mean = np.array([b.mean() for b in brains], np.float32)
        self.std = np.array([b.std() for b in brains], np.float32)
        self.origin = (1, 2, 3)

    @property
    def brain(self) -> np.ndarray:
        return (self.images != 0).any(axis=0)

    def whole(self, cropped: np.ndarray) -> np.ndarray:
        return np.pad(cropped, [(0, 0)] * (cropped.ndim - 3) + [(1, 2), (2, 1), (3, 0)])


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


def test_probabilities_as_bytes_agree_with_the_labels():
    one, segmenter = volume(), Segmenter([bright()])
    found = segmenter.probabilities(one)
    found[1, 2, 10, 8:12] = torch.tensor([0.5, 0.5 + 1e-6, 0.5 - 1e-6, 1.0])  # TC, where ET is sure
    found[2, 2, 10, 8:12] = 0
    segmenter.models[0].probabilities = lambda volume: found.clone()
    labels, (wt, tc, et) = segmenter(one), segmenter.predict(one, one.brain, probabilities=True).whole
    assert (wt.dtype, wt.shape) == (np.uint8, one.images.shape[1:])
    assert list(tc[2, 10, 8:12]) == [127, 128, 127, 255]
    assert np.array_equal(et >= 128, labels == 3) and (labels == 3).any()
    assert np.array_equal((tc >= 128) | (et >= 128), np.isin(labels, (1, 3))) and (labels == 1).any()
    assert np.array_equal(np.max([wt, tc, et], axis=0) >= 128, labels > 0)
    assert not wt[:, :3].any(), "outside the brain"


def test_a_lone_voxel_far_from_the_brain_is_predicted_by_an_instance_norm_too():
    """The only one of its batch of slices: at the network's deepest it would stand alone."""
    preset = replace(PRESET, layers=replace(PRESET.layers, norm="instance"), inference=Inference(batch=1))
    torch.manual_seed(0)
    case = volume()
    case.images[:, 0] = 0
    case.images[:, 0, 20, 17] = 300
    assert Segmenter([Model(build(preset), preset, {}, "")])(case).shape == case.images.shape[1:]


def test_a_network_that_gives_no_numbers_fails_the_case_by_name():
    broken = untrained(0)
    with torch.no_grad():
        next(broken.network.parameters()).fill_(float("nan"))
    with pytest.raises(CaseError, match=r"case case-7: the network tiny .* no numbers") as caught:
        Segmenter([broken])(volume())
    assert caught.value.stage == "predict"


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


def test_it_makes_no_difference_where_the_crop_begins():
    """Pooling falls on the same pixels of the slice."""
    torch.manual_seed(0)
    model = Model(build(PRESET).eval(), PRESET, {}, "")
    whole = volume((3, 61, 58))
    for side in (slice(0, 12), slice(-12, None)):
        whole.images[:, :, side] = whole.images[..., side] = 0
    whole.origin = (1, 2, 3)
    less = Volume(np.ascontiguousarray(whole.images[:, :, 3:, 1:]))
    less.mean, less.std, less.origin = whole.mean, whole.std, (1, 5, 4)
    found = Segmenter([model]).probabilities(less)
    assert torch.equal(Segmenter([model]).probabilities(whole)[:, :, 3:, 1:], found)
    less.origin = (1, 2, 3)
    assert not torch.equal(Segmenter([model]).probabilities(less), found)


def test_a_modality_that_may_be_missing_is_nothing_to_the_network():
    whole = volume()
    lacking = volume()
    lacking.images = np.delete(lacking.images, 3, axis=0)
    lacking.mean, lacking.std = lacking.mean[:3], lacking.std[:3]
    lacking.modalities = ("t1", "t1ce", "t2")
    whole.images[3] = 0
    expected = Segmenter([bright()]).probabilities(whole)
    found = Segmenter([bright()], allow_missing=["flair", "t2"]).probabilities(lacking)
    assert torch.equal(found, expected) and not torch.equal(
        found, Segmenter([bright()]).probabilities(volume())
    )
    with pytest.raises(CaseError, match="lacks flair"):
        Segmenter([bright()], allow_missing=["t1"])(lacking)


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


class Level(torch.nn.Module):
    """Logits that say tumour where the image is on average brighter than its background of -9."""

    def forward(self, x_BCHW):
        level = x_BCHW.float().mean(dim=(1, 2, 3), keepdim=True) + 9
        return (level - 1e-3).expand(-1, 3, *x_BCHW.shape[2:]) * 1e6


def test_what_pads_a_slice_is_background_as_in_training():
    """An empty slice stays empty to the network, though 21 × 18 pixels are padded to 24 × 20."""
    settings = Normalisation(kind="slice_zscore", background=-9)
    preset = replace(PRESET, normalisation=settings)
    case = volume()
    case.images[:, 5] = 0
    found = Segmenter([Model(Level(), preset, {}, "")]).probabilities(case)
    assert (found[:, 5] == 0).all() and (found[:, 2] == 1).all()


def test_other_spacings_are_predicted_at_one_millimetre():
    assert working_size((100, 80), (1.0, 1.04)) == (100, 80)
    assert working_size((100, 80), (2.0, 0.5)) == (200, 40) and working_size((100, 80), (0.5, 0.5)) == (
        50,
        40,
    )
    fine = volume(shape=(6, 42, 36), zooms=(1.0, 0.5, 0.5))
    labels = Segmenter([bright()])(fine)
    assert labels.shape == (6, 42, 36)
    assert (labels[2:4, 9:13, 7:11] == 3).all() and (labels[:, :3] == 0).all()


@pytest.mark.parametrize("shape", [(9, 21, 5), (3, 7, 20)])
def test_windows_of_a_volume_meet_without_a_seam(shape):
    """A network that looks at single voxels gives the same in windows as all at once."""
    deep = replace(PRESET, size=(4, 8, 8), sampling=Sampling(kind="volumes"), layers=Layers(widths=(4, 8)))
    case = volume(shape=shape)
    found = Segmenter([bright(deep)]).probabilities(case)
    assert found.shape == (3, *shape)
    assert torch.allclose(found, Segmenter([bright()]).probabilities(case), atol=1e-5)
    assert Segmenter([Model(build(deep), deep, {}, "")])(case).shape == shape


def test_a_window_as_large_as_the_brain_sees_it_in_one_piece():
    """A network that answers with the voxels that it sees at once."""

    class Size(torch.nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3, *x.shape[2:]), x[0, 0].numel() / 1000, device=x.device)

    deep = replace(PRESET, size=(8, 8, 8), sampling=Sampling(kind="volumes"), layers=Layers(widths=(4, 8)))
    sizes = {None: 8**3, (64, 64, 64): 10 * 22 * 6, (64, 8, 64): 10 * 8 * 6}
    for window, voxels in sizes.items():
        preset = replace(deep, inference=replace(deep.inference, window=window))
        segmenter = Segmenter([Model(Size(), preset, {}, "")])
        windows = segmenter.probabilities(volume(shape=(9, 21, 5)))
        assert torch.allclose(windows, torch.sigmoid(torch.tensor(voxels / 1000))), window


def test_thick_slices_of_a_volume_are_predicted_at_one_millimetre():
    deep = replace(PRESET, size=(8, 8, 8), sampling=Sampling(kind="volumes"), layers=Layers(widths=(4, 8)))
    labels = Segmenter([bright(deep)])(volume(zooms=(3.0, 1.0, 1.0)))
    assert labels.shape == (6, 21, 18) and (labels[2:4, 9:13, 7:11] == 3).all()


def test_neighbours_are_the_slices_above_and_below():
    """A network that passes on the slice above, of each modality: zeros above the last one."""

    class Above(torch.nn.Module):
        def forward(self, x):
            t1ce, flair = x[:, 2], x[:, 5]  # below, itself, above; t1ce before flair
            return torch.stack([flair, t1ce, t1ce - 0.1], dim=1).float() * 20 - 30

    preset = replace(PRESET, sampling=Sampling(kind="stacks", neighbours=1))
    case = volume()
    above = Segmenter([Model(Above(), preset, {}, "")]).probabilities(case)
    straight = Segmenter([bright()]).probabilities(case)
    assert torch.allclose(above[:, :-1], straight[:, 1:], atol=1e-5) and above[:, -1].max() < 1e-5


def test_whole_slices_are_resized_and_the_answer_is_cut_to_the_crop():
    half = replace(PRESET, resize=(48, 42), size=(48, 42), layers=Layers(widths=(4, 8)))
    labels = Segmenter([bright(half)])(volume())
    assert labels.shape == (6, 21, 18)
    assert (labels[2:4, 9:13, 7:11] == 3).all() and (labels[:, :3] == 0).all()


@pytest.mark.parametrize("kind", ["slice_zscore", "slice_minmax", "fixed", "global_zscore"])
def test_every_normalisation_feeds_the_network(kind):
    seen = []

    class Watch(Bright):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    preset = replace(
        PRESET, normalisation=Normalisation(kind=kind, scale=400, mean=(100, 100), std=(50, 50)),
        layers=Layers(widths=(4, 8)),
    )  # fmt: skip
    Segmenter([Model(Watch(), preset, {}, "")])(volume(shape=(6, 20, 18)))
    x = torch.cat(seen)
    outside = x[:, :, :3]
    if kind == "global_zscore":
        assert (outside == -2).all() and x.max() == 6
    elif kind == "slice_zscore":
        assert (outside == 0).all() and x[:, :, 3:].mean(dim=(2, 3)).abs().max() < 1e-3
    else:
        assert x.min() == 0 and x.max() == 1 and (outside == 0).all()


def test_models_of_different_targets_are_no_ensemble():
    other = replace(PRESET, targets="labels")
    with pytest.raises(UsageError, match=r"different targets: labels \(sigmoid\), regions \(sigmoid\)"):
        Segmenter([bright(), bright(other)])


def test_too_little_enhancing_tumour_becomes_necrosis():
    least = replace(PRESET, inference=Inference(batch=4, min_et_ml=1.0))
    assert 3 not in Segmenter([bright(least)])(volume())


def test_a_segmenter_needs_a_model():
    with pytest.raises(ValueError, match="at least one"):
        Segmenter([])


def test_empty_surroundings_are_left_out_and_nothing_moves():
    """A bright brain that wanders from slice to slice through a wide box."""
    images, seen = np.zeros((4, 6, 96, 80), np.int16), []
    for z in range(6):
        images[:, z, 12 * z : 12 * z + 20, 9 * z : 9 * z + 30] = 400 if z == 3 else 100

    class Watch(Bright):
        def forward(self, x_BCHW):
            seen.append(x_BCHW.shape[2:].numel())
            return super().forward(x_BCHW)

    preset = replace(PRESET, inference=Inference(batch=1))
    labels = Segmenter([Model(Watch(), preset, {}, "")])(Volume(images))
    assert np.array_equal(labels == 3, images[0] == 400) and not labels[images[0] == 100].any()
    assert len(seen) == 6 and max(seen) < 96 * 80 / 2


def differing() -> list[Model]:
    """A 2D and a 3D model of one kind, with inference settings of their own."""
    deep = replace(PRESET, size=(4, 8, 8), sampling=Sampling(kind="volumes"), layers=Layers(widths=(4, 8)))
    settings = Inference(batch=1, overlap=0.25, threshold=0.4, min_et_ml=0.01, fill_core=True)
    torch.manual_seed(5)
    return [untrained(4), Model(build(deep), replace(deep, inference=settings), {}, "")]


def test_the_order_of_an_ensemble_changes_nothing():
    case, models = volume(), differing()
    assert np.array_equal(Segmenter(models)(case), Segmenter(models[::-1])(case))
    there, back = Segmenter(models), Segmenter(models[::-1])
    assert there.settings.threshold == pytest.approx(0.45)
    for name in ("threshold", "min_et_ml", "fill_core"):
        assert getattr(there.settings, name) == getattr(back.settings, name)


def test_each_model_of_an_ensemble_keeps_its_batch_and_overlap():
    case, models = volume(), differing()
    alone = [next(Segmenter([model]).each(case)) for model in models]
    assert all(map(torch.equal, Segmenter(models).each(case), alone))
    seen = []

    class Watched(torch.nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return torch.zeros((len(x), 3, *x.shape[2:]), device=x.device)

    watched = replace(models[1], network=Watched())
    list(Segmenter([models[0], watched]).each(case))
    assert set(seen) == {1}


def test_sigmoid_and_softmax_are_not_averaged():
    labels = replace(PRESET, targets="labels")
    soft = replace(labels, output="softmax", loss=Loss(ce=1))
    models = [Model(build(preset), preset, {}, "") for preset in (labels, soft)]
    with pytest.raises(UsageError, match=r"labels \(sigmoid\), labels \(softmax\)"):
        Segmenter(models)
