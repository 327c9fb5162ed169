"""Rules that tell what a series is: data (rules.toml, or a user's own file), and how they are asked."""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bts.errors import UsageError

OWN = Path(__file__).with_name("rules.toml")
PREFERENCES = ("complete", "finest", "latest")
UNKNOWN = "not told by any rule"
# A protocol's name, which all its series carry: BRAIN W/WO CONTRAST.
BOTH = re.compile(r"\b(w(ith)? (and )?(w ?o|without)|(w ?o|without) (and )?w(ith)?)\b( (contrast|gad)\w*)?")
# Before contrast agent, or without it: PRE GAD, W/O CONTRAST, NON-CON. Before surgery is another matter.
BEFORE = re.compile(
    r"\b(pre(?! ?(op\w*|surg\w*|treat\w*|rt|tx|biops\w*)\b)|pre ?(con|gad|gd|km)\w*|w ?o|without|sans|ohne|"
    r"before|nativ|non? ?(con|gad|enh)\w*|sin con\w*|unenh\w*)\b"
)
CONDITIONS = {"text", "without", "image_type", "contrast", "tr", "te", "ti", "sop_class"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the tags of a series, or the name of a NIfTI file, say. ms; 0 where a time is not given."""

    text: str
    """As `plain` gives it."""
    image_type: tuple[str, ...] = ()
    contrast: bool = False
    tr: float = 0.0
    te: float = 0.0
    ti: float = 0.0
    sop_class: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """`what` a series is if all conditions fit."""

    what: str
    conditions: dict[str, Any]

    def fits(self, facts: Facts) -> bool:
        return all(_fits(name, wanted, facts) for name, wanted in self.conditions.items())


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules, the first asked first; preferences; and series that a person has named."""

    rules: tuple[Rule, ...]
    prefer: tuple[str, ...]
    chosen: dict[str, dict[str, str]] = field(default_factory=dict)
    """Study Instance UID or case id → {modality: Series Instance UID or series number}."""

    def what(self, facts: Facts) -> str:
        """A modality, or what else it is, such as localiser."""
        return next((rule.what for rule in self.rules if rule.fits(facts)), UNKNOWN)

    @property
    def mark(self) -> str:
        """Changes with the rules, and only with them."""
        told = [[rule.what, rule.conditions] for rule in self.rules]
        return hashlib.blake2b(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def read_rules(own: bytes | None = None, name: str = "--rules") -> Rules:
    """The project's rules, after those of the user's file. Raises UsageError for a file that makes no
    sense.
    """
    base = _parse(OWN.read_bytes(), OWN.name)
    if own is None:
        return base
    first = _parse(own, name)
    return Rules(first.rules + base.rules, first.prefer or base.prefer, first.chosen)


def plain(*texts: str) -> str:
    """Small letters and digits, all else one space, "+C" as "ce": what `text` and `without` are matched
    with. "With and without contrast" is left out; where it is of no contrast agent, "unenhanced" follows.
    """
    lowered = (re.sub(r"\+ ?c\b|\bc\+", " ce ", t.lower().replace("_", " ")) for t in texts)
    words = (re.sub(r"[^a-z0-9]+", " ", text) for text in lowered)
    found = " ".join(" ".join(BOTH.sub(" ", text) for text in words).split())
    return f"{found} unenhanced" if BEFORE.search(found) else found


def _parse(data: bytes, name: str) -> Rules:
    try:
        told = tomllib.loads(data.decode())
        rules = tuple(_rule(one) for one in told.pop("rule", []))
        prefer = tuple(told.pop("prefer", ()))
        chosen = told.pop("study", {})
        if told:
            raise ValueError(f"unknown: {', '.join(told)}; there are rule, prefer and study")
        if not set(prefer) <= set(PREFERENCES):
            raise ValueError(f"prefer: {', '.join(prefer)}; there are {', '.join(PREFERENCES)}")
        if not all(isinstance(one, Mapping) for one in chosen.values()):
            raise ValueError('study: write [study."UID"] and below it t1ce = "UID of the series"')
    except (ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise UsageError(f"{name}: not a file of rules: {error}") from None
    return Rules(rules, prefer, {study: {r: str(s) for r, s in of.items()} for study, of in chosen.items()})


def _rule(told: dict) -> Rule:
    conditions = dict(told)
    what = conditions.pop("is", None)
    if not isinstance(what, str) or not conditions or not set(conditions) <= CONDITIONS:
        raise ValueError(f"rule {told}: give `is` and some of {', '.join(sorted(CONDITIONS))}")
    for name in ("text", "without"):
        re.compile(conditions.get(name, ""))
    for name in ("tr", "te", "ti"):
        if name in conditions:
            low, high = map(float, conditions[name])
            conditions[name] = [low, high]
    return Rule(what, conditions)


def _fits(name: str, wanted: Any, facts: Facts) -> bool:
    match name:
        case "text":
            return re.search(wanted, facts.text) is not None
        case "without":
            return re.search(wanted, facts.text) is None
        case "image_type":
            return _any(wanted, facts.image_type)
        case "sop_class":
            return _any(wanted, (facts.sop_class,))
        case "contrast":
            return facts.contrast == wanted
    low, high = wanted
    return low <= getattr(facts, name) <= high


def _any(wanted: Sequence[str], there: Sequence[str]) -> bool:
    return any(word in there for word in wanted)
