"""What a user says of a folder's cases where their names do not: roles of files, and who was scanned.

--roles takes patterns, `t1ce=*_POST.nii.gz`, or a CSV file of keys; --patients a pattern or a CSV file.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bts.cases.case import MODALITIES
from bts.cases.datasets import OTHER
from bts.cases.layouts import Listing, find_cases
from bts.cases.names import ANYWHERE, Layout, Place, layout
from bts.cases.sidecars import read_sidecars
from bts.errors import UsageError
from bts.labels import spelt
from bts.storage import Store, read_file

SAYABLE = (*MODALITIES, "seg")


def list_folder(
    source: Store, labels: str = "auto", roles: Sequence[str] = (), patients: str = ""
) -> Listing:
    """The cases below a store's root, as the flags --labels, --roles and --patients say.

    Raises UsageError where a flag makes no sense, RunError if the store cannot be listed.
    """
    convention, layouts, patient_of = spelt(labels), layouts_of(roles), patients_of(patients)
    entries = source.list()
    sidecars = read_sidecars(source, entries)
    return find_cases(entries, convention, layouts=layouts, sidecars=sidecars, patients=patient_of)


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file of keys: a layout that knows each file by name."""

    places: Mapping[str, Place]
    name: str = "--roles"
    sign: str = ""
    dataset: str = OTHER.name

    def place(self, key: str) -> Place | None:
        return self.places.get(key)


def layouts_of(roles: Sequence[str]) -> list[Layout | Table]:
    """Of what --roles says. Raises UsageError."""
    return [
        _table(one) if one.lower().endswith(".csv") and "=" not in one else _pattern(one) for one in roles
    ]


def _pattern(said: str) -> Layout:
    """ROLE=PATTERN: the first * of the file's name (else of the nearest folder with one), and what is before
    it there, is the case."""
    role, _, pattern = said.partition("=")
    parts = pattern.strip("/").split("/")
    starred = [n for n, part in enumerate(parts) if "*" in part]
    if role not in SAYABLE or not starred:
        raise UsageError(
            f"--roles {said}: give ROLE=PATTERN with ROLE one of {', '.join(SAYABLE)}; a * stands for "
            "the case: t1ce=*_POST.nii.gz, seg=*/mask.nii.gz; or a CSV file with columns case, t1, t1ce, …"
        )
    expressions = [_expression(part) for part in parts]
    before, _, after = parts[starred[-1]].partition("*")
    expressions[starred[-1]] = f"(?P<id>{_expression(before)}[^/]+?){_expression(after)}"
    return layout(f"--roles {said}", rf"^(?P<anywhere>)(?:.*/)?(?P<{role}>){'/'.join(expressions)}$")


def _expression(glob: str) -> str:
    """* any text, ? any letter, within a folder."""
    return "".join({"*": "[^/]*?", "?": "[^/]"}.get(c, re.escape(c)) for c in glob)


def _table(uri: str) -> Table:
    rows = _rows(uri, {"case"})
    places = {}
    for row in rows:
        for role in SAYABLE:
            if key := (row.get(role) or "").strip():
                places[key.replace("\\", "/")] = Place(ANYWHERE, row["case"].strip(), role)
    if not places:
        raise UsageError(f"{uri}: names no file; give columns case, t1, t1ce, t2, flair, seg")
    return Table(places)


def patients_of(said: str) -> Callable[[str], str] | None:
    """Case → patient, as --patients says it; empty of a case that it does not speak of. Raises UsageError."""
    if not said:
        return None
    if said.lower().endswith(".csv"):
        told = {row["case"].strip(): row["patient"].strip() for row in _rows(said, {"case", "patient"})}
        return lambda case: told.get(case, "")
    try:
        # A pattern with a group is a regular expression; else the first * is the patient.
        before, star, after = said.partition("*")
        glob = f"({_expression(before)}[^/]+?){_expression(after)}" if star else ""
        expression = re.compile(said if "(" in said else glob)
    except re.error as error:
        raise UsageError(f"--patients {said}: is no regular expression ({error})") from None
    if not expression.groups:
        raise UsageError(
            f"--patients {said}: give a pattern whose * is the patient (*_visit?), a regular expression with "
            "a group, (.+)_v[0-9]+, or a CSV file with columns case and patient"
        )

    def patient(case: str) -> str:
        found = expression.fullmatch(case)
        return found[1] if found else ""

    return patient


def _rows(uri: str, columns: set[str]) -> list[dict[str, str]]:
    """Of a CSV file with these columns at least. Raises UsageError."""
    try:
        rows = csv.DictReader(io.StringIO(read_file(uri).decode("utf-8-sig")))
        found = [{(name or "").strip().lower(): text for name, text in row.items() if name} for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{uri}: is no CSV file ({error})") from None
    for row in found:
        if not all((row.get(name) or "").strip() for name in columns):
            raise UsageError(f"{uri}: every row needs {' and '.join(sorted(columns))}, comma-separated")
    return found
