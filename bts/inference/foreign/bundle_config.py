"""The configuration of a MONAI bundle, read without running any of it.

MONAI itself imports whatever `_target_` names and hands every text that begins with $ to Python's eval. Here
a component is a name to compare with a list, and an expression is one of a few plain forms, or refused.
"""

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bts.errors import UsageError

LONGEST = 2000  # characters of an expression that is looked at
DEEPEST = 32  # references through references, and levels of a value
MOST = 10_000  # values that are looked at
REFERENCE = re.compile(r"@([A-Za-z_]\w*(?:(?:::|#)\w+)*)")
FLOAT32 = ("np.float32", "numpy.float32", "torch.float32")
PACKAGES = ("networks.nets", "transforms", "inferers", "engines", "handlers", "data")


@dataclass(frozen=True, slots=True)
class Component:
    """What the config would make of a class: its bare name, and its arguments as they stand there."""

    name: str
    arguments: Mapping[str, object]
    where: str
    """Its place in the config, for messages."""


class BundleConfig:
    """A config file by its ids, such as postprocessing::transforms::0."""

    def __init__(self, data: bytes, name: str):
        """name: of the file, for messages. Raises UsageError for what is no JSON object."""
        self.name, self.seen = name, 0
        try:
            self.tree = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name}: no JSON ({error})") from None
        if not isinstance(self.tree, dict):
            raise UsageError(f"{name}: no JSON object; give a bundle's inference.json")

    def first(self, *names: str) -> str:
        """The first of several ids that is there. Raises UsageError."""
        for name in names:
            if name in self.tree:
                return name
        raise UsageError(f"{self.name}: has none of {', '.join(names)}; it is no config for inference")

    def value(self, told: object, where: str) -> object:
        """A plain value: references followed, literal expressions read. Raises UsageError for others."""
        self.seen += 1
        if self.seen > MOST or where.count("::") > DEEPEST:
            raise UsageError(f"{self.name}: {where[:80]}: references go round in a circle, or multiply")
        told = self._followed(told, where, 0)
        if isinstance(told, dict):
            if "_target_" in told:
                raise UsageError(f"{self.name}: {where}: {told['_target_']!r} where a plain value is due")
            return {key: self.value(one, f"{where}::{key}") for key, one in told.items()}
        if isinstance(told, list):
            return [self.value(one, f"{where}::{n}") for n, one in enumerate(told)]
        return told

    def component(self, told: object, where: str) -> Component | None:
        """What stands there as a component, None where it is switched off. Raises UsageError for others."""
        told = self._followed(told, where, 0)
        if not isinstance(told, dict) or not isinstance(told.get("_target_"), str):
            raise UsageError(f"{self.name}: {where}: no component with a _target_")
        odd = [key for key in told if key.startswith("_") and key not in ("_target_", "_disabled_", "_desc_")]
        if odd:
            raise UsageError(f"{self.name}: {where}: {odd[0]} is not supported")
        if self.value(told.get("_disabled_", False), f"{where}::_disabled_") in (True, "true", "True"):
            return None
        arguments = {key: value for key, value in told.items() if not key.startswith("_")}
        return Component(self._bare(told["_target_"], where), arguments, where)

    def _bare(self, target: str, where: str) -> str:
        """monai.transforms.LoadImaged, LoadImageD or LoadImageDict → LoadImaged."""
        package, _, name = target.rpartition(".")
        known = not package or package.startswith(tuple(f"monai.{one}" for one in PACKAGES))
        if not known or not name.isidentifier():
            raise UsageError(f"{self.name}: {where}: _target_ {target!r} is not of MONAI; it is refused")
        return re.sub("(Dict|(?<=[a-z])D)$", "d", name)

    def _followed(self, told: object, where: str, depth: int) -> object:
        """References and expressions at the top of a value, replaced by what they stand for."""
        if depth > DEEPEST:
            raise UsageError(f"{self.name}: {where}: references go round in a circle")
        if not isinstance(told, str) or told[:1] not in ("@", "$", "%"):
            return told
        if told[0] == "@" and REFERENCE.fullmatch(told):
            return self._followed(self._at(told[1:], where), where, depth + 1)
        if told[0] == "$" and len(told) <= LONGEST:
            if whole := REFERENCE.fullmatch(told[1:].strip()):
                return self._followed(self._at(whole[1], where), where, depth + 1)
            return self._literal(told, where, depth)
        raise self.refusal(told, where)

    def _at(self, place: str, where: str) -> object:
        found = self.tree
        for part in re.split("::|#", place):
            try:
                found = found[int(part) if isinstance(found, list) else part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise UsageError(f"{self.name}: {where}: refers to {place}, which is not there") from None
        return found

    def _literal(self, told: str, where: str, depth: int) -> object:
        """$ and a literal of Python, a name of float32, or texts joined by +."""
        text = told[1:].strip()
        if text in FLOAT32:
            return "float32"
        parts = [part.strip() for part in text.split("+")]
        if len(parts) > 1 and all(REFERENCE.fullmatch(p) or re.fullmatch("'[^'\\\\]*'", p) for p in parts):
            texts = [self._followed(p, where, depth + 1) if p[0] == "@" else p[1:-1] for p in parts]
            if all(isinstance(one, str) for one in texts):
                return "".join(map(str, texts))
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            raise self.refusal(told, where) from None
        return list(found) if isinstance(found, tuple) else found

    def refusal(self, told: str, where: str) -> UsageError:
        """Of an expression."""
        shown = told if len(told) <= 80 else told[:77] + "..."
        return UsageError(f"{self.name}: {where}: {shown!r} would be run as Python; it is refused")


def arguments_of(
    component: Component, config: BundleConfig, known: Iterable[str], ignored: Iterable[str] = ()
):
    """The plain values of a component's arguments, those that change nothing left out.

    Raises UsageError for an argument that is neither known nor ignored.
    """
    found, known, ignored = {}, set(known), set(ignored)
    for key, told in component.arguments.items():
        if key in ignored or (key == "lazy" and told is False):
            continue
        if key not in known:
            where = f"{config.name}: {component.where}: {component.name}"
            raise UsageError(
                f"{where}: its argument {key} is not supported; supported: {', '.join(sorted(known))}"
            )
        found[key] = config.value(told, f"{component.where}::{key}")
    return found
