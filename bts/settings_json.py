"""A preset as plain JSON values and back, as model files, checkpoints and fingerprints hold it."""

import dataclasses
import math
import types
import typing
from dataclasses import fields
from typing import Literal

from bts.settings import Augmentation, Inference, Layers, Normalisation, Optimiser, Preset

LATER = {
    Preset: ("frame",),
    Layers: ("epsilon", "first", "initialisation"),
    Normalisation: ("percentiles",),
    Optimiser: ("decay_growth",),
    Inference: ("window", "own_statistics"),
    Augmentation: ("fade", "dim"),
}
"""Fields that came later. At their defaults, which change nothing, they are left out of JSON: trainings begun
before them go on, and equal models have equal bytes."""


def to_dict(settings) -> dict:
    """A preset, or a group of its fields, as plain JSON values."""
    later, told = LATER.get(type(settings), ()), {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name not in later or value != field.default:
            told[field.name] = to_dict(value) if dataclasses.is_dataclass(value) else value
    return told


def from_dict(values: dict) -> Preset:
    """The preset that `to_dict` wrote. Raises ValueError for a field or a value that this version does not
    know."""
    return _build(Preset, values, "preset")


def _build(kind, value, name: str):
    """Rebuild a value of type `kind` from JSON, which has neither dataclasses nor tuples. name: its flag."""
    if dataclasses.is_dataclass(kind):
        return _build_group(kind, value, name)
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        fits = value in of and not isinstance(value, bool)
    elif origin is tuple:
        fits = isinstance(value, (list, tuple)) and (of[-1] is ... or len(value) == len(of))
    elif origin is types.UnionType:
        chosen = [one for one in of if one is not types.NoneType]
        return None if value is None else _build(chosen[0], value, name)
    else:
        fits = _is_plain(kind, value)
    if not fits:
        raise ValueError(f"{name} is {str(value)[:60]!r}")
    if origin is tuple:
        parts = [of[0]] * len(value) if of[-1] is ... else of
        return tuple(_build(one, v, name) for one, v in zip(parts, value, strict=True))
    return value


def _build_group(kind, values, name: str):
    if not isinstance(values, dict):
        raise ValueError(f"{name} is {str(values)[:60]!r}")
    hints = typing.get_type_hints(kind)
    if unknown := set(values) - set(hints):
        raise ValueError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
    within = "" if kind is Preset else f"{name}."
    return kind(**{key: _build(hints[key], value, f"{within}{key}") for key, value in values.items()})


def _is_plain(kind: type, value) -> bool:
    """Whether a JSON value is of this type: whole numbers count as float, true and false not as numbers."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
