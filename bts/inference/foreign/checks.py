"""Checks of a description that comes from anybody: each gives the value back, or raises ValueError."""

from collections.abc import Callable, Collection, Mapping, Sequence


def mapping(value: object, name: str, known: Collection[str] = ()) -> Mapping:
    """A JSON object; where `known` is given, without any other key."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {shown(value)}, not an object")
    if known and (unknown := sorted(map(str, value.keys() - set(known)))):
        raise ValueError(f"{name}.{unknown[0]} is not known here")
    return value


def whole(value: object, name: str, least: int, most: int) -> int:
    """A whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}, not a whole number from {least} to {most}")
    return value


def number(value: object, name: str, least: float, most: float) -> float:
    """A number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}, not a number from {least:g} to {most:g}")
    return float(value)


def truth(value: object, name: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}, not true or false")
    return value


def text(value: object, name: str) -> str:
    """A text of at most 200 letters."""
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError(f"{name} is {shown(value)}, not a short text")
    return value


def one_of(value: object, name: str, known: Collection):
    """One of a few known values."""
    if isinstance(value, list | dict) or value not in known:
        raise ValueError(f"{name} {shown(value)} is not known here; known are {', '.join(map(str, known))}")
    return value


def several(value: object, name: str, lengths: int | Sequence[int], each: Callable) -> tuple:
    """A list of a length, or of one of several; `each`(item, name) checks and gives back its items."""
    fits = (lengths,) if isinstance(lengths, int) else lengths
    if not isinstance(value, list | tuple) or len(value) not in fits:
        size = f"{fits[0]}" if len(fits) == 1 else f"{fits[0]} to {fits[-1]}"
        raise ValueError(f"{name} is {shown(value)}, not a list of {size}")
    return tuple(each(item, f"{name}[{n}]") for n, item in enumerate(value))


def shown(value: object) -> str:
    """A value in a message, cut short."""
    found = repr(value)
    return found if len(found) <= 60 else f"{found[:57]}…"
