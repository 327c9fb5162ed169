"""What a user says of a folder's cases where their names do not: roles of files, and who was scanned.

--roles takes patterns, `t1ce=*_POST.nii.gz`, or a CSV file of keys; --patients a pattern or a CSV file.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bts.cases.datasets import OTHER
from bts.cases.keys import data_of, with_slashes
from bts.cases.layouts import Listing, find_cases
from bts.cases.names import ANYWHERE, FILE, IMAGES, ROLES, Layout, Place, layout
from bts.cases.sidecars import read_sidecars
from bts.errors import CaseError, UsageError
from bts.labels import spelt
from bts.modalities import MODALITIES
from bts.storage import Entry, Store, read_file

FILE_ROLES = (*MODALITIES, "seg")
WITH_MORE = re.compile(rf"[^/]+?(?P<end>[_. -]{IMAGES}(?P<more>(?:[_. -][^/]*?)?{FILE}))", re.IGNORECASE)


def list_folder(
    source: Store, labels: str = "auto", roles: Sequence[str] = (), patients: str = ""
) -> Listing:
    """The cases below a store's root, as the flags --labels, --roles and --patients say.

    Raises UsageError where a flag makes no sense, RunError if the store cannot be listed.
    """
    convention, layouts, patient_of = spelt(labels), layouts_of(roles), patients_of(patients)
    entries = source.list()
    sidecars = read_sidecars(source, entries)
    found = find_cases(entries, convention, layouts=layouts, sidecars=sidecars, patients=patient_of)
    for table in layouts:
        if isinstance(table, Table):
            _refuse_absent(table, entries, found)
    if patient_of and found.cases and not any(patient_of(case.id) for case in found.cases):
        raise UsageError(
            f"--patients {patients}: tells the patient of none of the {len(found.cases)} cases, such as "
            f"{found.cases[0].id}; each would count as a patient of its own"
        )
    return found


def roles_for(strays: Iterable[str]) -> list[str]:
    """What --roles would say of files of no case, where four modalities have one ending behind their names
    (P1_t1_bet.nii.gz, P1_flair_bet.nii.gz), or none (P1 t1.nii.gz); nothing where they have not."""
    endings: dict[str, dict[str, str]] = {}
    for key in strays:
        found = WITH_MORE.fullmatch(key.rpartition("/")[2])
        if found and not re.search("mask|seg", found["more"], re.IGNORECASE):
            role = next(role for role in ROLES if found.groupdict().get(role))
            endings.setdefault(found["more"], {})[role] = f"{role}=*{found['end']}"
    return next(
        ([told[m] for m in MODALITIES] for told in endings.values() if len(told) == len(MODALITIES)), []
    )


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file of keys: a layout that knows each file by name."""

    places: Mapping[str, Place]
    sign: str = ""
    dataset: str = OTHER.name
    bare: bool = False

    def place(self, key: str) -> Place | None:
        return self.places.get(key)


def _refuse_absent(table: Table, entries: Iterable[Entry], listing: Listing) -> None:
    """Turn the cases of which the table names a file that is not there into problems: a ground truth, or a
    case, would be gone without a word."""
    keys = {key for _, key in data_of(entries)}
    absent: dict[str, str] = {}
    for key, place in table.places.items():
        if key not in keys:
            absent.setdefault(place.case_id, key)
    known = {problem.case for problem in listing.problems}
    listing.cases = [case for case in listing.cases if case.id not in absent]
    listing.problems += [
        CaseError(
            "--roles names this file, and it is not there",
            mend="give its key below --cases as the listing has it, such as a/P1_t1.nii.gz",
            case=case_id, file=key, stage="list",
        )
        for case_id, key in absent.items() if case_id not in known
    ]  # fmt: skip


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
    if role not in FILE_ROLES or not starred:
        raise UsageError(
            f"--roles {said}: give ROLE=PATTERN with ROLE one of {', '.join(FILE_ROLES)}; a * stands for "
            "the case: t1ce=*_POST.nii.gz, seg=*/mask.nii.gz; or a CSV file with columns case, t1, t1ce, …"
        )
    expressions = [_expression(part) for part in parts]
    before, _, after = parts[starred[-1]].partition("*")
    expressions[starred[-1]] = f"(?P<id>{_expression(before)}[^/]+?){_expression(after)}"
    above = "(?:.*/)?"
    if starred[-1] < len(parts) - 1:  # cases are folders: those of one name in other folders are others
        above = "(?:(?P<folder>.*)/)?"
        if len(starred) > 1:
            expressions[starred[-2]] = f"(?P<below>{expressions[starred[-2]]})"
    return layout(f"--roles {said}", rf"^(?P<anywhere>){above}(?P<{role}>){'/'.join(expressions)}$")


def _expression(glob: str) -> str:
    """* any text, ? any letter, within a folder."""
    return "".join({"*": "[^/]*?", "?": "[^/]"}.get(c, re.escape(c)) for c in glob)


def _table(uri: str) -> Table:
    places: dict[str, Place] = {}
    for row in _rows(uri, {"case"}):
        for role in FILE_ROLES:
            if key := (row.get(role) or "").strip():
                key = with_slashes(key)
                if key in places:
                    raise UsageError(f"{uri}: {key} is named twice; each file is of one case and one role")
                places[key] = Place(ANYWHERE, row["case"].strip(), role)
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
