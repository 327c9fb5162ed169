"""Numbers that no training can use are refused by name, before anything starts."""

import math
from dataclasses import replace

import pytest

from bts.presets import PRESETS
from bts.settings import Inference, Layers, Normalisation, Optimiser


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Optimiser, "momentum", 1.0),
        (Optimiser, "factor", 0.0),
        (Optimiser, "warmup", -1),
        (Optimiser, "power", math.nan),
        (Layers, "momentum", 2.0),
        (Inference, "threshold", 2.0),
        (Normalisation, "scale", 0.0),
        (Normalisation, "std", (1.0, 0.0)),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_name(kind, name, value):
    with pytest.raises(ValueError, match=rf"{kind.__name__.lower()}\b.*{name}"):
        kind(**{name: value})


@pytest.mark.parametrize("seed", [-1, 1 << 63])
def test_a_seed_is_one_that_torch_takes(seed):
    with pytest.raises(ValueError, match=f"seed {seed}: give at least 0 and less than"):
        replace(PRESETS["fast"], seed=seed)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("budget", "minutes", math.nan),
        ("budget", "minutes", math.inf),
        ("inference", "min_et_ml", math.nan),
        ("augmentation", "noise", math.nan),
        ("optimiser", "lr", math.inf),
        ("loss", "class_weights", (1.0, math.nan, 1.0)),
    ],
)
def test_what_is_no_number_is_refused_before_the_training(group, name, value):
    """Its model could not be read once it was trained."""
    fast = PRESETS["fast"]
    with pytest.raises(ValueError, match=rf"{group}.{name} .*(nan|inf).*finite"):
        replace(fast, **{group: replace(getattr(fast, group), **{name: value})})


def test_values_are_one_a_channel():
    fast = PRESETS["fast"]
    with pytest.raises(ValueError, match=r"class_weights .*give 3, one for each output channel"):
        replace(fast, loss=replace(fast.loss, class_weights=(1.0, 2.0)))
    for mean, std in (((1.0, 2.0), ()), ((1.0,) * 4, ()), ((1.0, 2.0), (1.0, 2.0))):
        known = Normalisation(kind="global_zscore", mean=mean, std=std)
        with pytest.raises(ValueError, match=r"normalisation\.mean .*give 4 of both"):
            replace(PRESETS["unet2d"], normalisation=known)
