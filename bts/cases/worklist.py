"""What is left to do: cases listed − results listed.

A case that failed leaves a note, `_failed/CASE.FINGERPRINT.TRIES.json`, beside the results: with the same
inputs and options it is tried again in a few later runs, and then left aside.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bts.cases.case import Case
from bts.fingerprint import fingerprint

NOTE = re.compile(r"_failed/(?P<case>.+)\.(?P<mark>[0-9a-f]{12})\.(?P<tries>\d{1,6})\.json", re.DOTALL)


def case_fingerprint(case: Case, roles: Iterable[str], *, options: Mapping[str, object], version: int) -> str:
    """Fingerprint of a result made from some files of a case, under its name, patient and dataset."""
    inputs = {role: case.files[role].version for role in roles if role in case.files}
    named = {"case": case.id, "patient": case.patient, "dataset": case.dataset, "group": case.group}
    return fingerprint(inputs, options={**named, **options}, version=version)


def part_of(case_id: str, parts: int) -> int:
    """Which of so many equal parts a case belongs to, 1 for the first; told by its name alone."""
    return int.from_bytes(hashlib.blake2b(case_id.encode(), digest_size=8).digest()) % parts + 1


@dataclass(frozen=True, slots=True)
class Todo:
    """A case to do."""

    case: Case
    fingerprint: str
    older: tuple[str, ...] = ()
    """Keys of older results, to delete once the new one is written."""
    tries: int = 0
    """Runs in which it failed, with the same inputs and options."""
    notes: tuple[str, ...] = ()
    """Keys of the notes of its failures, to delete after this try."""

    @property
    def note(self) -> str:
        """Key of the note that this try leaves if it fails."""
        return self._note(self.tries + 1)

    @property
    def last_note(self) -> str:
        """Key of the note of its last failure with the same inputs and options."""
        return self._note(self.tries)

    def _note(self, tries: int) -> str:
        return f"_failed/{self.case.id}.{self.fingerprint}.{tries}.json"

    def to_row(self) -> dict:
        """For a Ray dataset."""
        named = {"case_id": self.case.id, "case": self.case.to_json()}
        return {**named, "fingerprint": self.fingerprint, "older": list(self.older), "bytes": self.case.bytes}


@dataclass(slots=True)
class Work:
    """What a job will do, and what is done already."""

    todo: list[Todo] = field(default_factory=list)
    done: int = 0
    aside: dict[str, str] = field(default_factory=dict)
    """Cases that failed too often, and the key of the note of their last failure."""
    stale: list[str] = field(default_factory=list)
    """Results and notes of cases that are done, but older: a crash came between writing and deleting."""


def largest_first(todo: Iterable[Todo]) -> list[Todo]:
    """By the bytes of their files: a large case that comes last would be waited for alone."""
    return sorted(todo, key=lambda one: -one.case.bytes)


def plan(
    wanted: Iterable[tuple[Case, str]],
    results: Iterable[str],
    suffix: str,
    retries: int | None = None,
    *,
    one_place: bool = False,
) -> Work:
    """Subtract the results, keys `…/CASE.FINGERPRINT.suffix`, from the wanted (case, fingerprint).

    Cases that failed in more than `retries` runs after the first are left aside; None: tried every time.
    one_place: the results mark what lies under one name for all fingerprints. Two of a case are of two runs
    that overlapped, and do not tell which was the last to write: the case is done again.
    """
    there: dict[str, dict[str, str]] = {}
    notes: dict[str, dict[str, tuple[int, str]]] = {}
    for key in sorted(results):
        if key.startswith("_failed/") and (note := NOTE.fullmatch(key)):
            notes.setdefault(note["case"], {})[key] = (int(note["tries"]), note["mark"])
            continue
        name = key.rpartition("/")[2]
        stem, dot, mark = name.removesuffix(suffix).rpartition(".")
        if name.endswith(suffix) and dot:
            there.setdefault(stem, {})[mark] = key
    work = Work()
    for case, mark in wanted:
        own, failed = there.get(case.id, {}), notes.get(case.id, {})
        older = [key for other, key in own.items() if other != mark]
        tries, last = max(((n, key) for key, (n, of) in failed.items() if of == mark), default=(0, ""))
        if one_place and len(own) > 1:
            older = list(own.values())
        elif mark in own:
            work.done += 1
            work.stale += [*older, *failed]
            continue
        if retries is not None and tries > retries:
            work.aside[case.id] = last
        else:
            work.todo.append(Todo(case, mark, tuple(older), tries, tuple(failed)))
    return work


def changes(now: Mapping, before: Mapping) -> str:
    """What of that which makes a result differs from what made an older one, in a few words.

    Both hold `inputs` (role → version) and options by name.
    """
    words = []
    old, new = before.get("inputs", {}), now["inputs"]
    if roles := sorted(role for role in {*old, *new} if old.get(role) != new.get(role)):
        words.append(f"changed input: {', '.join(roles[:4])}{', …' if len(roles) > 4 else ''}")
    names = {"models": "new model", "format": "newer version of the program"}
    for name, value in now.items():
        if name != "inputs" and before.get(name) != value:
            words.append(names.get(name, f"changed option: {name}"))
    return "; ".join(words) or "made under another name, patient or group"
