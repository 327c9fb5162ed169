"""How the files of a case are named and laid out, and one listing → cases. No file is opened for it.

A layout is a record: a function from a key to the place that it has in a case. figshare's slices are the
exception: the patient is inside the files, so they become cases by an index pass (bts.cases.figshare).
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from bts.cases.case import Case
from bts.cases.datasets import OTHER, identify
from bts.errors import CaseError
from bts.storage import Entry

# Folders that this project's jobs keep beside their results; a file of a case in one of them is a stray.
OURS = {"_runs", "_index", "_done", "_failed", "_held", "_scores", "_labels", "_probabilities"}
OURS |= {"_masks", "_checks"}
# Role in the file name → role here, for 2017–2021 names and 2023+ names.
ROLES = {"flair": "flair", "t1": "t1", "t1ce": "t1ce", "t2": "t2", "seg": "seg"}
ROLES |= {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
IMAGE = re.compile(r"^(?P<name>.+)\.(nii|nii\.gz|mha)$", re.IGNORECASE | re.DOTALL)
BRATS = re.compile(rf"^(?P<id>.+)[_-](?P<role>{'|'.join(ROLES)})$", re.IGNORECASE | re.DOTALL)
MSD = re.compile(r"(^|/)(?P<folder>images|labels)(Tr|Ts)/(?P<id>BRATS_\d+)\.nii(\.gz)?$")
# 2013–2015: a file's name tells its role and its number in the archive; the folder above is the case, with or
# without a folder VSD.… for each file between the two.
VSD = re.compile(
    r"(^|/)(?P<id>(?!VSD\.)[^/]+)(/VSD\.[^/]*)?/VSD\.[^/]*\.(MR_(?P<role>T1c?|T2|Flair)|OT)(\.\d+)?\.mha$",
    re.IGNORECASE,
)
SLICE = re.compile(r"(^|/)\d+\.mat$")  # of figshare
GRADE = re.compile(r"(^|/)(HGG|LGG)(/|$)")


class Place(NamedTuple):
    """Of one file: the folder that tells cases of one name apart, the case, and its role there."""

    folder: str
    case_id: str
    role: str


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to name files."""

    name: str
    place: Callable[[str], Place | None]
    """Of a key; None of one that is not named so."""
    dataset: str = OTHER.name
    """Of its cases, where their names tell none."""


def _msd(key: str) -> Place | None:
    found = MSD.search(key)
    if not found:
        return None
    top = key.rpartition("/")[0].rpartition("/")[0]
    return Place(top, found["id"], "image" if found["folder"] == "images" else "seg")


def _vsd(key: str) -> Place | None:
    found = VSD.search(key)
    if not found:
        return None
    role = ROLES[found["role"].lower()] if found["role"] else "seg"
    return Place(key[: found.end("id")], found["id"], role)


def _brats(key: str) -> Place | None:
    folder, _, name = key.rpartition("/")
    image = IMAGE.match(name)
    found = image and BRATS.match(image["name"])
    return Place(folder, found["id"], ROLES[found["role"].lower()]) if found else None


LAYOUTS = (
    Layout("Task01 of the Medical Segmentation Decathlon", _msd, "msd"),
    Layout("BraTS 2013–2015", _vsd, "brats2015"),
    Layout("BraTS since 2017", _brats),
)


@dataclass(slots=True)
class Listing:
    """What lies below a prefix: the cases, what is wrong with some, and what is no case."""

    cases: list[Case] = field(default_factory=list)
    problems: list[CaseError] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    slices: list[Entry] = field(default_factory=list)
    """figshare's numbered .mat files; the patient is inside, so they become cases by an index pass."""


@dataclass(slots=True)
class _Found:
    """What a listing holds of one case."""

    files: dict[str, list[Entry]] = field(default_factory=dict)
    datasets: set[str] = field(default_factory=set)
    """Those that the layouts of its files are of."""


def find_cases(entries: Iterable[Entry], labels: str = "auto") -> Listing:
    """Group the objects of a listing into cases.

    `labels` is a key of CONVENTIONS for all of them, or "auto": by the dataset that the name tells.
    A case in two folders, or with a file twice, becomes a problem, for guessing would drop one.
    """
    listing = Listing()
    found: dict[tuple[str, str], _Found] = {}
    for entry in entries:
        layout, place = _place(entry.key)
        if OURS & set(entry.key.split("/")):
            if place:
                listing.strays.append(entry.key)
            continue
        if place is None:
            _set_aside(entry, listing)
        else:
            one = found.setdefault((place.folder, place.case_id), _Found())
            one.files.setdefault(place.role, []).append(entry)
            one.datasets.add(layout.dataset)
    folders: dict[str, list[str]] = {}
    for folder, case_id in found:
        folders.setdefault(case_id, []).append(folder)
    for (folder, case_id), one in sorted(found.items(), key=lambda item: item[0]):
        problem = _unsafe(case_id, one.files) or _twice(case_id, folders[case_id], one.files)
        if problem and folder == min(folders[case_id]):  # said once, not once a folder
            listing.problems.append(problem)
        if not problem:
            listing.cases.append(_case(case_id, folder, one, labels))
    return listing


def _set_aside(entry: Entry, listing: Listing) -> None:
    name = entry.key.rpartition("/")[2]
    if SLICE.search(entry.key):
        listing.slices.append(entry)
    elif not name.startswith("._"):  # macOS's shadow files are nobody's data
        listing.strays.append(entry.key)


def _place(key: str) -> tuple[Layout, Place] | tuple[None, None]:
    """The first layout that knows the key, and where it puts it."""
    if not key.rpartition("/")[2].startswith("."):
        for layout in LAYOUTS:
            if place := layout.place(key):
                return layout, place
    return None, None


def _case(case_id: str, folder: str, found: _Found, labels: str) -> Case:
    dataset, convention, patient = identify(case_id, found.datasets)
    grade = GRADE.search(folder)
    return Case(
        id=case_id,
        patient=patient,
        dataset=dataset,
        group=grade[2] if grade else "",
        labels=convention if labels == "auto" else labels,
        files={role: entries[0] for role, entries in sorted(found.files.items())},
    )


def _unsafe(case_id: str, files: dict[str, list[Entry]]) -> CaseError | None:
    """A case id becomes a file name: refuse what could leave its folder or garble a terminal."""
    bad = _garbles(case_id) or case_id.startswith(".") or ".." in case_id
    if bad or len(case_id.encode()) > 200:
        return CaseError(
            "its name cannot be used as a file name (control characters, '..', a leading dot, or over "
            "200 bytes)",
            mend="rename the case", case=repr(case_id), stage="list",
        )  # fmt: skip
    keys = (entry.key for entries in files.values() for entry in entries)
    return next(filter(None, (unsafe_key(key, case_id) for key in keys)), None)


def unsafe_key(key: str, case_id: str) -> CaseError | None:
    """Refuse a key that leaves its folder, garbles a terminal, or is bytes that are no text."""
    if not _garbles(key) and ".." not in key.split("/"):
        return None
    return CaseError(
        "its key has control characters, is no text, or leaves its folder ('..')",
        mend="rename its folder or file", case=case_id, file=repr(key), stage="list",
    )  # fmt: skip


def _garbles(text: str) -> bool:
    """Whether a terminal would not just show it."""
    if text.isascii():  # nearly all of a million keys; a tenth of the time
        return not text.isprintable()
    return any(unicodedata.category(c)[0] == "C" for c in text)


def _twice(case_id: str, folders: list[str], files: dict[str, list[Entry]]) -> CaseError | None:
    if len(folders) > 1:
        return CaseError(
            f"this case lies in {len(folders)} folders: {', '.join(sorted(f or '.' for f in folders)[:3])}",
            mend="keep one, or give the others a name of their own",
            case=case_id,
            stage="list",
        )
    for role, entries in files.items():
        if len(entries) > 1:
            return CaseError(
                f"{role} is there {len(entries)} times: {', '.join(e.key for e in entries)}",
                mend="keep one of them",
                case=case_id,
                file=entries[0].key,
                stage="list",
            )
    return None
