"""Numbers that no training can use are refused by name, before anything starts."""

import math
from dataclasses import replace

import pytest

from bts.presets import PRESETS
from bts.settings import Inference, Normalisation, Optimiser


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
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
    with pytest.raises(ValueError, match=rf"{kind.__name__.lower()}\b.*{name}"):
        kind(**{name: value})


def test_a_seed_is_not_negative():
    with pytest.raises(ValueError, match="seed -1: give at least 0"):
        replace(PRESETS["fast"], seed=-1)
