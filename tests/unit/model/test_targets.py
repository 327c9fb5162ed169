"""bts.model.targets: labels to channels and back."""

import pytest
import torch

from bts.labels import TARGETS
from bts.model.targets import decode, encode, outputs, probabilities
from bts.presets import PRESETS

MASK = torch.tensor([[[0, 1, 2, 3]]], dtype=torch.uint8)


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_encoded_decodes_to_itself(name):
    preset = PRESETS[name]
    channels = encode(MASK, preset)
    assert channels.shape == (1, outputs(preset), 1, 4) and channels.dtype == torch.float32
    found = probabilities(100 * (channels - 0.5), preset)
    assert found.shape[1] == len(TARGETS[preset.targets])
    expected = (MASK > 0).to(torch.uint8) if preset.targets == "tumour" else MASK
    assert torch.equal(decode(found[0][:, None], preset, 0.5)[0], expected[0])


def test_channels_of_a_softmax_exclude_each_other_and_background_is_first():
    channels = encode(MASK, PRESETS["unet3d"])
    assert (channels.sum(dim=1) == 1).all() and channels[0, 0].flatten().tolist() == [1, 0, 0, 0]


def test_later_regions_override():
    found = torch.tensor([[0.0, 0.9, 0.9, 0.9, 0.1], [0.0, 0.1, 0.9, 0.9, 0.1], [0.0, 0.1, 0.1, 0.9, 0.9]])
    assert decode(found[:, None, None], PRESETS["fast"], 0.5)[0, 0].tolist() == [0, 2, 1, 3, 3]


def test_the_most_probable_label_wins_where_it_is_sure():
    found = torch.tensor([[0.2, 0.4, 0.6], [0.3, 0.1, 0.7], [0.1, 0.1, 0.2]])[:, None, None]
    assert decode(found, PRESETS["unet2d"], 0.5)[0, 0].tolist() == [0, 0, 2]  # sigmoid: above the threshold
    softmax = torch.tensor([[0.2, 0.35, 0.1], [0.3, 0.1, 0.2], [0.1, 0.1, 0.3]])[:, None, None]
    assert decode(softmax, PRESETS["unet3d"], 0.5)[0, 0].tolist() == [0, 0, 0]  # background has 0.4 or more
    likely = torch.tensor([[0.35], [0.33], [0.1]])[:, None, None]
    assert decode(likely, PRESETS["unet3d"], 0.5)[0, 0].tolist() == [1]  # above background's 0.22
