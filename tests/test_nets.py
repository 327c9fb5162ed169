"""bts.nets and bts.presets: a preset builds a network that takes and gives the stated shapes."""

import dataclasses
import json

import pytest
import torch

from bts.nets import build
from bts.presets import PRESETS, Augmentation, Budget, Loss, Network, Optimiser, Preset, from_dict, to_dict

TINY = Network(widths=(4, 8, 8))


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("stem", [1, 2])
def test_logits_have_a_channel_a_region_at_full_resolution(norm, stem):
    network = build(Preset(name="t", network=dataclasses.replace(TINY, norm=norm, stem=stem)))
    assert network(torch.randn(2, 4, 32, 40)).shape == (2, 3, 32, 40)


def test_fast_is_small():
    assert 1e6 < sum(p.numel() for p in build(PRESETS["fast"]).parameters()) < 5e6


def test_smallest_allowed_size_and_other_modalities():
    network = build(Preset(name="t", modalities=("flair",), network=TINY, size=(16, 16))).eval()
    side = TINY.multiple
    assert network(torch.randn(1, 1, side, side)).shape == (1, 3, side, side)


def test_extreme_intensities_stay_finite():
    network = build(Preset(name="t", network=TINY)).eval()
    assert torch.isfinite(network(1e3 * torch.randn(1, 4, 32, 32))).all()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    assert PRESETS[name].name == name and PRESETS[name].summary
    assert from_dict(json.loads(json.dumps(to_dict(PRESETS[name])))) == PRESETS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_every_field_documents_itself_in_help(name, capsys):
    tyro = pytest.importorskip("tyro")
    changed = tyro.cli(
        Preset, default=PRESETS[name], args=["--optimiser.lr", "0.01", "--network.widths", "8", "16"]
    )
    assert changed.optimiser.lr == 0.01 and changed.network.widths == (8, 16)
    assert changed.loss == PRESETS[name].loss
    with pytest.raises(SystemExit):
        tyro.cli(Preset, default=PRESETS[name], args=["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--optimiser.lr" in text and "Learning rate at its highest" in text


def test_unknown_fields_are_refused():
    with pytest.raises(ValueError, match="magic"):
        from_dict({"name": "t", "magic": 1})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Preset(name="t", size=(161, 128)), ["size", "network.widths", "multiples of 16"]),
        (lambda: Preset(name="t", modalities=("t1", "t1")), ["modalities"]),
        (lambda: Budget(epochs=None, minutes=None), ["budget.epochs", "budget.minutes"]),
        (lambda: Budget(epochs=0), ["budget.epochs"]),
        (lambda: Loss(dice=0, bce=0), ["loss.dice", "loss.bce"]),
        (lambda: Optimiser(ema=1), ["optimiser.ema"]),
        (lambda: Network(widths=()), ["network.widths"]),
    ],
)
def test_settings_that_do_not_go_together_are_named(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Augmentation().flip = 1
