"""bts.training.augment: what may change in an image and its labels, and what must not."""

import dataclasses
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bts.settings import Augmentation
from bts.training.augment import INTENSITY, augment, smooth_field

NOTHING = Augmentation(flip=0)
PLACES = {"rotate": 30.0, "zoom": 0.3, "elastic": 6.0}
VALUES = {"scale": 0.1, "shift": 0.1, "gamma": 0.3, "bias": 0.2, "blur": 0.5, "noise": 0.1, "drop": 0.5}
FLIPS = {"flip": -1, "flip_rows": -2, "flip_slices": -3}
FADING = {"fade", "dim"}  # of bts.training.fading
EVERYTHING = Augmentation(**PLACES, **VALUES, flip=0.5, flip_rows=0.5)

SPACES = [(10, 12), (3, 10, 12)]
each_space = pytest.mark.parametrize("space", SPACES, ids=["2D", "3D"])


def batch(*space: int, count: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random brains right of three columns of background, random labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 4, *space, generator=generator)
    images[..., :3] = 0
    return images, torch.randint(0, 4, (count, *space), generator=generator, dtype=torch.uint8)


def blocks(*space: int, count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """A block of label 3, off the middle, and an image that is the labels."""
    mask = torch.zeros(count, *space, dtype=torch.uint8)
    mask[..., 20:50, 16:40] = 3
    return mask[:, None].float(), mask


def run(images: torch.Tensor, mask: torch.Tensor, chosen: Augmentation, seed: int = 1):
    return augment(images, mask, chosen, torch.Generator().manual_seed(seed))


def test_every_setting_is_under_test():
    names = {field.name for field in dataclasses.fields(Augmentation)}
    assert names == PLACES.keys() | VALUES.keys() | FLIPS.keys() | FADING and set(INTENSITY) == VALUES.keys()


@each_space
def test_nothing_asked_nothing_changed(space):
    old = batch(*space)
    images, mask = run(*old, NOTHING)
    assert torch.equal(images, old[0]) and torch.equal(mask, old[1])


@each_space
def test_equal_seeds_give_equal_batches_and_others_others(space):
    old = batch(*space)
    first, second, other = (run(*old, EVERYTHING, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])


@each_space
@pytest.mark.parametrize("chosen", [EVERYTHING, replace(NOTHING, **VALUES), replace(NOTHING, flip=1)])
def test_the_callers_tensors_stay_as_they_are(space, chosen):
    old = batch(*space)
    run(*old, chosen)
    assert torch.equal(old[0], batch(*space)[0]) and torch.equal(old[1], batch(*space)[1])


@given(
    space=st.sampled_from([(7, 9), (8, 6), (2, 7, 9)]),
    sizes=st.fixed_dictionaries({name: st.floats(0, top) for name, top in (PLACES | VALUES).items()}),
    flips=st.tuples(st.booleans(), st.booleans()),
    empty=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_any_settings_keep_shapes_labels_and_background(space, sizes, flips, empty, seed):
    old_images, old_mask = batch(*space, count=2, seed=seed)
    old_mask[old_mask == 1] = 0
    old_images[0] *= not empty
    chosen = Augmentation(flip=flips[0], flip_rows=flips[1], **sizes)
    images, mask = run(old_images, old_mask, chosen, seed)
    assert images.shape == old_images.shape and mask.shape == old_mask.shape
    assert images.dtype == torch.float32 and mask.dtype == torch.uint8
    assert images.isfinite().all()
    assert set(mask.unique().tolist()) <= {0, 2, 3}
    assert not empty or not images[0].any()
    moved, _ = run(old_images, old_mask, replace(chosen, **dict.fromkeys(VALUES, 0.0)), seed)
    assert (images[moved == 0] == 0).all()


# Places


@pytest.mark.parametrize(
    ("name", "space"),
    [("flip", (10, 12)), ("flip_rows", (10, 12)), *((name, (3, 10, 12)) for name in FLIPS)],
)
def test_a_mirror_moves_images_and_labels_together_along_its_axis_only(name, space):
    old_images, old_mask = batch(*space)
    images, mask = run(old_images, old_mask, replace(NOTHING, **{name: 0.5}))
    moved = 0
    for b in range(len(images)):
        mirrored = not torch.equal(mask[b], old_mask[b])
        moved += mirrored
        turn = (lambda x: x.flip(FLIPS[name])) if mirrored else (lambda x: x)
        assert torch.equal(images[b], turn(old_images[b])) and torch.equal(mask[b], turn(old_mask[b]))
    assert 0 < moved < len(images)


def test_slices_have_no_head_and_foot_to_swap():
    with pytest.raises(ValueError, match="flip_slices"):
        run(*batch(10, 12), replace(NOTHING, flip_slices=0.5))


@each_space
@pytest.mark.parametrize("name", ["flip", "flip_rows"])
def test_a_mirror_is_the_same_with_and_without_turning(name, space):
    # By a hair's breadth of rotation the mirror goes through the sampled places.
    old = batch(*space)
    exact = run(*old, replace(NOTHING, **{name: 0.5}))
    sampled = run(*old, replace(NOTHING, **{name: 0.5}, rotate=1e-4))
    assert torch.equal(exact[1], sampled[1])
    torch.testing.assert_close(exact[0], sampled[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("space", [(80, 64), (2, 80, 64)], ids=["2D", "3D"])
@pytest.mark.parametrize(
    ("name", "value", "areas"),
    [("rotate", 45, (0.97, 1.03)), ("zoom", 0.3, (0.45, 1.75)), ("elastic", 6, (0.7, 1.3))],
)
def test_turning_keeps_shapes_and_moves_images_and_labels_together(name, value, areas, space):
    old_images, old_mask = blocks(*space)
    images, mask = run(old_images, old_mask, replace(NOTHING, **{name: value}), seed=3)
    area = mask.flatten(1).sum(dim=1) / old_mask.flatten(1).sum(dim=1)
    assert areas[0] < area.min() < area.max() < areas[1]
    assert not torch.equal(mask, old_mask) and set(mask.unique().tolist()) == {0, 3}
    assert (images[:, 0].round() == mask).float().mean() > 0.98


def test_a_right_angle_by_hand():
    # The only sample whose angle is known: all of ± 90 degrees is one of the two. Square pixels stay square.
    images, mask = torch.zeros(1, 1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[0, 1, 2:5] = 2
    images[:, 0] = mask
    generator = torch.Generator().manual_seed(0)
    angle = 2 * torch.rand(1, generator=generator).item() - 1
    turned, labels = run(images, mask, replace(NOTHING, rotate=90 / abs(angle)), seed=0)
    expected = torch.rot90(mask, 1 if angle > 0 else -1, dims=(1, 2))
    assert torch.equal(labels, expected)
    torch.testing.assert_close(turned[:, 0], expected.float(), atol=1e-4, rtol=0)


def test_the_slices_of_a_volume_move_together_as_one_image_does():
    old_images, old_mask = batch(10, 12)
    chosen = Augmentation(**PLACES, flip=0.5, flip_rows=0.5)
    flat = run(old_images, old_mask, chosen)
    deep = run(torch.stack([old_images] * 3, dim=2), torch.stack([old_mask] * 3, dim=1), chosen)
    for z in range(3):
        torch.testing.assert_close(deep[0][:, :, z], flat[0])
        assert torch.equal(deep[1][:, z], flat[1])


def test_nothing_is_bent_further_than_asked():
    # An image of column numbers tells from where each pixel came.
    columns = torch.arange(1.0, 65).expand(4, 1, 80, 64)
    bent, _ = run(columns, torch.zeros(4, 80, 64, dtype=torch.uint8), replace(NOTHING, elastic=5))
    moved = (bent - columns)[..., 8:-8, 8:-8]
    assert 1 < moved.abs().max() <= 5.001
    assert moved.diff(dim=-1).abs().max() < 0.5


@given(space=st.lists(st.integers(2, 20), min_size=1, max_size=3), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_smooth_fields_have_the_shape_and_stay_within_one(space, seed):
    field = smooth_field((2, 3), tuple(space), torch.Generator().manual_seed(seed))
    assert field.shape == (2, 3, *space)
    assert field.abs().max() <= 1
    assert not torch.equal(field[0], field[1])


# Values


@each_space
@pytest.mark.parametrize("name", VALUES)
def test_values_change_in_the_brain_alone(name, space):
    old, old_mask = batch(*space)
    images, mask = run(old, old_mask, replace(NOTHING, **{name: VALUES[name]}))
    assert torch.equal(mask, old_mask)
    assert (images[old == 0] == 0).all()
    assert 0 < (images - old)[old != 0].abs().mean() < 0.5


@each_space
@pytest.mark.parametrize("name", ["scale", "shift"])
def test_each_modality_of_each_sample_has_its_own_contrast_and_brightness(name, space):
    old, mask = batch(*space)
    brain = (slice(None), slice(None), *[slice(None)] * (len(space) - 1), slice(3, None))
    images, _ = run(old, mask, replace(NOTHING, **{name: 0.2}))
    change = (images / old - 1 if name == "scale" else images - old)[brain].flatten(2)
    torch.testing.assert_close(change.amin(dim=2), change.amax(dim=2), atol=1e-3, rtol=0)
    amounts = change.mean(dim=2).flatten()
    assert amounts.abs().max() <= 0.2001 and len(amounts.unique()) == amounts.numel()


@each_space
def test_modalities_are_dropped_whole_and_never_all_of_an_image(space):
    old, mask = batch(*space, count=200)
    images, _ = run(old, mask, replace(NOTHING, drop=0.7))
    there = (images != 0).flatten(2).any(dim=2)
    assert there.any(dim=1).all() and 0.4 < 1 - there.float().mean() < 0.5  # 0.24 of the images keep all
    assert torch.equal(images[there], old[there])


@each_space
def test_gamma_keeps_extremes_and_order(space):
    old, mask = batch(*space)
    images, _ = run(old, mask, replace(NOTHING, gamma=0.5))
    for before, after in zip(old.flatten(0, 1), images.flatten(0, 1), strict=True):
        brain = before != 0
        before, after = before[brain], after[brain]
        assert after.min() == pytest.approx(before.min().item(), abs=1e-5)
        assert after.max() == pytest.approx(before.max().item(), abs=1e-5)
        assert (after[before.argsort()].diff() >= -1e-6).all()


@each_space
def test_a_bias_field_is_a_smooth_factor_above_the_lowest_value(space):
    generator = torch.Generator().manual_seed(0)
    old = 1 + torch.rand(2, 2, *space, generator=generator)
    images, _ = run(old, torch.zeros(2, *space, dtype=torch.uint8), replace(NOTHING, bias=0.4))
    low = old.flatten(2).amin(dim=2).view(2, 2, *[1] * len(space))
    factor = torch.where(old - low > 0.01, (images - low) / (old - low), torch.nan)
    assert factor.nan_to_num(1).sub(1).abs().max() <= 0.401
    assert factor.diff(dim=-1).nan_to_num(0).abs().max() < 0.2
    assert factor.nan_to_num(1).std() > 0.01


@each_space
def test_blur_takes_detail_and_leaves_what_is_flat(space):
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in space[-2:]), indexing="ij")
    old = (1 + (rows + columns) % 2).float().expand(2, 2, *space).clone()
    old[1] = 3
    images, _ = run(old, torch.zeros(2, *space, dtype=torch.uint8), replace(NOTHING, blur=1))
    torch.testing.assert_close(images[0], torch.full_like(images[0], 1.5))
    torch.testing.assert_close(images[1], old[1])


def test_blur_of_a_few_modalities_leaves_the_others():
    old, mask = batch(10, 12)
    images, _ = run(old, mask, replace(NOTHING, blur=0.3))
    changed = (images != old).flatten(2).any(dim=2)
    assert 0 < changed.sum() < changed.numel() / 2


@each_space
def test_noise_is_normal_and_different_in_each_image(space):
    old = torch.ones(8, 4, *space[:-2], 40, 40)
    images, _ = run(old, old[:, 0].to(torch.uint8), replace(NOTHING, noise=0.1))
    noise = (images - old) / 0.1
    assert noise.mean().abs() < 0.1 and 0.9 < noise.std() < 1.1
    assert 0.25 < (noise.abs() > 1).float().mean() < 0.4
    flat = noise.flatten(2).flatten(0, 1)
    assert len(flat[:, 0].unique()) > 30
    neighbours = torch.corrcoef(torch.stack([flat[:, :-1].flatten(), flat[:, 1:].flatten()]))[0, 1]
    assert neighbours.abs() < 0.1
