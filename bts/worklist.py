"""What is left to do: cases listed − results listed; the name of a result carries all that made it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bts.cases import Case
from bts.storage import Entry


def fingerprint(inputs: Mapping[str, str], *, options: Mapping[str, object], version: int) -> str:
    """12 hex of blake2b over all that makes a result: (role, version) of inputs, options, format version.

    Options are those that change the output; a model's digest is one of them.
    """
    made_of = [sorted(inputs.items()), sorted(options.items()), version]
    return hashlib.blake2b(json.dumps(made_of).encode()).hexdigest()[:12]


def case_fingerprint(case: Case, roles: Iterable[str], *, options: Mapping[str, object], version: int) -> str:
    """Fingerprint of a result made from some files of a case, under its name, patient and dataset."""
    inputs = {role: case.files[role].version for role in roles if role in case.files}
    named = {"case": case.id, "patient": case.patient, "dataset": case.dataset, "group": case.group}
    return fingerprint(inputs, options={**named, **options}, version=version)


@dataclass(slots=True)
class Plan:
    """What a job will do, and what is done already."""

    todo: list[tuple[Case, str, list[str]]] = field(default_factory=list)
    """(case, fingerprint, keys of older results to delete once the new one is written)."""
    done: int = 0
    stale: list[str] = field(default_factory=list)
    """Older results of cases that are done: a crash came between writing and deleting."""


def plan(wanted: Iterable[tuple[Case, str]], results: Iterable[Entry], suffix: str) -> Plan:
    """Subtract the results `…/CASE.FINGERPRINT.suffix` of a listing from the wanted (case, fingerprint)."""
    there: dict[str, dict[str, str]] = {}
    for entry in results:
        name = entry.key.rpartition("/")[2]
        stem, dot, mark = name.removesuffix(suffix).rpartition(".")
        if name.endswith(suffix) and dot:
            there.setdefault(stem, {})[mark] = entry.key
    work = Plan()
    for case, mark in wanted:
        older = [key for other, key in there.get(case.id, {}).items() if other != mark]
        if mark in there.get(case.id, {}):
            work.done += 1
            work.stale += older
        else:
            work.todo.append((case, mark, older))
    return work
