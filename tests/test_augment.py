"""bts.augment and bts.normalise: what may change in a slice, and what must not."""

from dataclasses import replace

import pytest
import torch

from bts.augment import augment
from bts.normalise import zscore
from bts.presets import Augmentation

NOTHING = Augmentation(flip=0, rotate=0, zoom=0, scale=0, shift=0, noise=0)


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 4, 10, 12, generator=generator)
    images[..., :3] = 0
    return images, torch.randint(0, 4, (8, 10, 12), generator=generator, dtype=torch.uint8)


def run(settings: Augmentation, seed: int = 1):
    return augment(*batch(), settings, torch.Generator().manual_seed(seed))


def test_zscore_of_the_brain_leaves_background_at_zero():
    raw = torch.zeros(1, 2, 4, 4, dtype=torch.int16)
    raw[:, :, 1:3, 1:3] = torch.tensor([[[10, 20], [30, -40]]], dtype=torch.int16)
    mean, std = torch.tensor([[10.0, 0.0]]), torch.tensor([[5.0, 10.0]])
    normal = zscore(raw, mean, std)
    assert normal.dtype == torch.float32
    assert normal[0, 0, 1:3, 1:3].tolist() == [[0, 2], [4, -10]]
    assert normal[0, 1, 1:3, 1:3].tolist() == [[1, 2], [3, -4]]
    assert normal[0, :, 0].abs().sum() == 0


def test_zscore_of_a_flat_image_is_finite():
    normal = zscore(torch.full((1, 1, 2, 2), 7.0), torch.tensor([[7.0]]), torch.tensor([[0.0]]))
    assert normal.abs().sum() == 0


def test_nothing_asked_nothing_changed():
    images, mask = run(NOTHING)
    assert torch.equal(images, batch()[0]) and torch.equal(mask, batch()[1])


def test_a_mirror_moves_images_and_labels_together_and_left_to_right_only():
    settings = replace(NOTHING, flip=0.5)
    images, mask = run(settings)
    old_images, old_mask = batch()
    moved = 0
    for b in range(len(images)):
        mirrored = not torch.equal(mask[b], old_mask[b])
        moved += mirrored
        expected = (
            (old_images[b].flip(-1), old_mask[b].flip(-1)) if mirrored else (old_images[b], old_mask[b])
        )
        assert torch.equal(images[b], expected[0]) and torch.equal(mask[b], expected[1])
    assert 0 < moved < len(images)


@pytest.mark.parametrize(
    ("name", "value", "areas"), [("rotate", 45, (0.97, 1.03)), ("zoom", 0.3, (0.45, 1.75))]
)
def test_turning_keeps_shapes_and_moves_images_and_labels_together(name, value, areas):
    mask = torch.zeros(16, 80, 64, dtype=torch.uint8)
    mask[:, 20:50, 16:40] = 3
    images, labels = augment(
        mask[:, None].float(), mask, replace(NOTHING, **{name: value}), torch.Generator().manual_seed(3)
    )
    area = labels.sum(dim=(1, 2)) / mask.sum(dim=(1, 2))
    assert areas[0] < area.min() < area.max() < areas[1]
    assert not torch.equal(labels, mask) and set(labels.unique().tolist()) == {0, 3}
    assert (images[:, 0].round() == labels).float().mean() > 0.98


@pytest.mark.parametrize("name", ["scale", "shift", "noise"])
def test_intensities_change_in_the_brain_alone(name):
    images, mask = run(replace(NOTHING, **{name: 0.1}))
    old, old_mask = batch()
    assert torch.equal(mask, old_mask)
    assert (images[old == 0] == 0).all()
    change = (images - old)[old != 0].abs()
    assert 0 < change.mean() < 0.2


def test_equal_seeds_give_equal_batches_and_others_others():
    settings = Augmentation()
    assert torch.equal(run(settings)[0], run(settings)[0])
    assert not torch.equal(run(settings)[0], run(settings, seed=2)[0])
