"""Numbers that no training can use are refused by name, before anything starts."""

import math
from dataclasses import replace

import pytest

from bts.presets import PRESETS
from bts.settings import Augmentation, Inference, Loss, Normalisation, Optimiser


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Augmentation, "rotate", -5.0),
        (Augmentation, "noise", math.nan),
        (Loss, "smooth", -1.0),
        (Loss, "class_weights", (1.0, -1.0)),
        (Optimiser, "momentum", 1.0),
        (Optimiser, "factor", 0.0),
        (Optimiser, "warmup", -1),
        (Optimiser, "power", math.nan),
        (Inference, "threshold", 2.0),
        (Normalisation, "scale", 0.0),
        (Normalisation, "std", (1.0, 0.0)),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_name(kind, name, value):
    usable = {"dice": 1.0} if kind is Loss else {}
    kind(**usable)
    with pytest.raises(ValueError, match=rf"{kind.__name__.lower()}\b.*{name}"):
        kind(**usable, **{name: value})


def test_a_seed_is_not_negative():
    with pytest.raises(ValueError, match="seed -1: give at least 0"):
        replace(PRESETS["fast"], seed=-1)
