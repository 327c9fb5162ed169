"""bts.training.fading: tumours that a set shows too rarely, made of those that it shows."""

from dataclasses import replace

import pytest
import torch

from bts.modalities import MODALITIES
from bts.presets import PRESETS
from bts.settings import Augmentation
from bts.training.fading import DIMMEST, faded

T1, T1CE, T2, FLAIR = range(4)
COUNT = 64


def tumours(*space: int) -> tuple[torch.Tensor, torch.Tensor]:
    """COUNT equal cases: a brain of 0.1; a block of oedema, core and enhancing tumour side by side."""
    mask = torch.zeros(COUNT, *space, dtype=torch.uint8)
    for label, columns in ((2, slice(4, 12)), (1, slice(12, 20)), (3, slice(20, 28))):
        mask[..., 8:24, columns] = label
    images = torch.full((COUNT, 4, *space), 0.1)
    images[..., :2, :] = 0  # rows of background
    images[:, T2][mask > 0] = 1.5
    images[:, FLAIR][mask > 0] = 2.0
    images[:, T1CE][mask == 3] = 3.0
    return images, mask


def run(images, mask, **chosen):
    return faded(images, mask, MODALITIES, Augmentation(**chosen), torch.Generator().manual_seed(0))


each_space = pytest.mark.parametrize("space", [(32, 40), (3, 32, 40)], ids=["2D", "3D"])


@each_space
def test_enhancement_fades_from_none_to_all_and_what_is_not_seen_is_core(space):
    images, mask = tumours(*space)
    seen, labels = run(images, mask, fade=0.5)
    others = [T1, T2, FLAIR]
    assert torch.equal(seen[:, others], images[:, others])
    bright = torch.stack([case[at == 3].mean() for case, at in zip(seen[:, T1CE], mask, strict=True)])
    gone = ((labels == 3).flatten(1).sum(1) == 0).tolist()
    assert all(level < 0.1 + 0.2 * 2.9 for level, none in zip(bright.tolist(), gone, strict=True) if none)
    assert 0 < sum(gone) < COUNT / 3 and (bright == 3.0).sum() > COUNT / 4
    assert ((bright > 0.6) & (bright < 2.9)).any()
    # The whole tumour and its core stay what they are: enhancing tumour alone becomes core.
    assert torch.equal(labels > 0, mask > 0) and torch.equal(labels == 2, mask == 2)
    assert labels.dtype == torch.uint8 and set(labels.unique().tolist()) == {0, 1, 2, 3}


@each_space
def test_a_tumour_grows_dimmer_in_t2_and_flair_and_never_as_dark_as_the_brain(space):
    images, mask = tumours(*space)
    seen, labels = run(images, mask, dim=0.5)
    assert torch.equal(labels, mask) and torch.equal(seen[:, [T1, T1CE]], images[:, [T1, T1CE]])
    for name, full in (("t2", 1.5), ("flair", 2.0)):
        levels = torch.stack([case[at > 0].mean() for case, at in
                              zip(seen[:, MODALITIES.index(name)], mask, strict=True)])  # fmt: skip
        untouched = torch.isclose(levels, torch.tensor(full))
        assert COUNT / 4 < untouched.sum() < 3 * COUNT / 4
        assert levels.min() >= full * (1 - DIMMEST[name]) - 1e-5 and levels.max() <= full + 1e-5
    assert (seen[images == 0] == 0).all()
    far = torch.nn.functional.max_pool2d((mask > 0).float().reshape(-1, 1, *space[-2:]), 9, 1, 4) == 0
    far = far.view(mask.shape)
    assert torch.equal(seen[:, T2][far], images[:, T2][far])


def test_a_border_is_soft_and_a_dark_voxel_is_never_made_brighter():
    images, mask = tumours(32, 40)
    images[:, T1CE, 10:12, 22] = -1.0  # darker than T1, as the middle of a vessel
    seen, _ = run(images, mask, fade=1, dim=1)
    assert (seen <= images + 1e-6).all()
    images[:, T1CE, 16, 29] = 3.0  # enhancement that leaks beyond its label goes in part
    leaked = run(images, mask, fade=1)[0][:, T1CE, 16, 29]
    assert 1.5 < leaked.min() < 2


def test_the_callers_tensors_stay_as_they_are_and_nothing_asked_is_nothing_changed():
    images, mask = tumours(32, 40)
    run(images, mask, fade=1, dim=1)
    assert torch.equal(images, tumours(32, 40)[0]) and torch.equal(mask, tumours(32, 40)[1])
    same = run(images, mask)
    assert same[0] is images and same[1] is mask


@pytest.mark.parametrize("name", ["figshare2d", "unet3d"])
def test_a_system_without_the_modalities_or_their_scale_cannot_fade(name):
    preset = PRESETS[name]
    with pytest.raises(ValueError, match=r"augmentation\.fade"):
        replace(preset, augmentation=replace(preset.augmentation, fade=0.5))
