"""What a case is: file layouts and label conventions of every BraTS year, MSD Task01 and figshare.

One listing finds the cases; no file is opened for it. The *name* of a case tells its dataset, and the
dataset tells the label convention. The labels that happen to be present never do: a case without
enhancing tumour has {0, 1, 2} under every convention.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import numpy as np

from bts.errors import CaseError
from bts.storage import Entry

MODALITIES = ("t1", "t1ce", "t2", "flair")
MSD_CHANNELS = ("flair", "t1", "t1ce", "t2")  # order of the fourth axis of MSD Task01's images

# Value in the file → label inside the project: 1 necrosis/non-enhancing, 2 oedema, 3 enhancing,
# 4 resection cavity. The field's most repeated bug, so it stands here and nowhere else.
CONVENTIONS: dict[str, dict[int, int]] = {
    "brats2015": {1: 1, 2: 2, 3: 1, 4: 3},  # BraTS 2013–2015: 1 necrosis, 3 non-enhancing core
    "brats2021": {1: 1, 2: 2, 4: 3},  # BraTS 2017–2021
    "brats2023": {1: 1, 2: 2, 3: 3},  # BraTS 2023: glioma, Africa, metastases, meningioma
    "brats2024": {1: 1, 2: 2, 3: 3, 4: 4},  # BraTS 2024 glioma after treatment
    "msd": {1: 2, 2: 1, 3: 3},  # Medical Segmentation Decathlon Task01
    "figshare": {1: 1, 2: 2, 3: 3},  # meningioma, glioma, pituitary tumour
    "figshare_tumour": {1: 1},  # tumour of any type: what a model without types writes, no truth uses it
}
OF_FIGSHARE = {"tumour": "figshare_tumour", "tumour_types": "figshare"}
"""Targets of a model for figshare → convention of its labelmaps; models of other targets are for BraTS."""
SAYABLE = ("brats2021", "brats2023", "brats2024", "msd")  # with --labels; the others a name or file tells
UNKNOWN = ""  # the name does not tell the convention: a truth needs --labels


@dataclass(frozen=True, slots=True)
class Case:
    """One examination of one patient and the files that it consists of."""

    id: str
    patient: str
    """Who was scanned: one patient may have several cases and several names."""
    dataset: str
    group: str
    """Tumour grade or type where the listing tells it, else empty."""
    labels: str
    """Key of CONVENTIONS, or UNKNOWN."""
    files: dict[str, Entry]
    """By role: t1, t1ce, t2, flair, seg; MSD's 4D `image`; figshare's slices by their number."""

    def to_json(self) -> str:
        """For a row of a Ray dataset."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Case":
        fields = json.loads(text)
        return cls(**{**fields, "files": {role: Entry(**entry) for role, entry in fields["files"].items()}})


@dataclass(slots=True)
class Listing:
    """What lies below a prefix: the cases, what is wrong with some, and what is no case."""

    cases: list[Case] = field(default_factory=list)
    problems: list[CaseError] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    slices: list[Entry] = field(default_factory=list)
    """figshare's numbered .mat files; the patient is inside, so they become cases by an index pass."""


# Folders that this project's jobs keep beside their results; a file of a case in one of them is a stray.
OURS = {"_runs", "_index", "_done", "_failed", "_held", "_scores", "_labels", "_probabilities"}
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
FIGSHARE = re.compile(r"(^|/)\d+\.mat$")

# Case id → dataset, convention and patient; the first that matches.
# BraTS 2023 kept the numbers of 2021, so BraTS2021_00000 and BraTS-GLI-00000-000 are one patient.
NAMES = (
    (r"(?P<p>brats_(2013|tcia)_.+)_\d+", "brats2015", "brats2015", r"\g<p>"),
    (r"BraTS2021_(?P<n>\d+)", "brats2021", "brats2021", r"BraTS-GLI-\g<n>"),
    (r"(?P<p>BraTS20_(Training|Validation)_\d+)", "brats2020", "brats2021", r"\g<p>"),
    # 2018 and 2019 kept the names of 2017, but for the number of the centre after TCIA.
    (r"BraTS(?P<y>1[789])_((?P<a>TCIA)\d*)?(?P<n>.+)_\d+", "brats20{y}", "brats2021", r"Brats17_\g<a>\g<n>"),
    # Second and later visits after treatment are numbered from 100: the set of 2024.
    (r"(?P<p>BraTS-GLI-\d+)-[1-9]\d\d", "brats2024-gli", "brats2024", r"\g<p>"),
    # BraTS-PED changed its labels between 2023 and 2024 under the same names: --labels must say.
    (r"(?P<p>BraTS-PED-\d+)-\d+", "brats-ped", UNKNOWN, r"\g<p>"),
    (r"(?P<p>BraTS-(?P<c>GLI|SSA|MET|MEN|PHANTOM)-\d+)-\d+", "brats2023-{c}", "brats2023", r"\g<p>"),
)


def find_cases(entries: Iterable[Entry], labels: str = "auto") -> Listing:
    """Group the objects of a listing into cases.

    `labels` is a key of CONVENTIONS for all of them, or "auto": by the dataset that the name tells.
    A case in two folders, or with a file twice, becomes a problem, for guessing would drop one.
    """
    listing = Listing()
    found: dict[tuple[str, str], dict[str, list[Entry]]] = {}
    for entry in entries:
        place = _place(entry.key)
        if OURS & set(entry.key.split("/")):
            if place:
                listing.strays.append(entry.key)
            continue
        if place is None:
            _set_aside(entry, listing)
        else:
            folder, case_id, role = place
            found.setdefault((folder, case_id), {}).setdefault(role, []).append(entry)
    folders: dict[str, list[str]] = {}
    for folder, case_id in found:
        folders.setdefault(case_id, []).append(folder)
    for (folder, case_id), files in sorted(found.items()):
        problem = _unsafe(case_id, files) or _twice(case_id, folders[case_id], files)
        if problem and folder == min(folders[case_id]):  # said once, not once a folder
            listing.problems.append(problem)
        if not problem:
            listing.cases.append(_case(case_id, folder, {role: e[0] for role, e in files.items()}, labels))
    return listing


def _set_aside(entry: Entry, listing: Listing) -> None:
    name = entry.key.rpartition("/")[2]
    if FIGSHARE.search(entry.key):
        listing.slices.append(entry)
    elif not name.startswith("._"):  # macOS's shadow files are nobody's data
        listing.strays.append(entry.key)


def _place(key: str) -> tuple[str, str, str] | None:
    """(folder, case id, role) of one object, or None if it belongs to no case."""
    folder, _, name = key.rpartition("/")
    if name.startswith("."):
        return None
    if msd := MSD.search(key):
        top = folder.rpartition("/")[0]
        return top, msd["id"], "image" if msd["folder"] == "images" else "seg"
    if vsd := VSD.search(key):
        return key[: vsd.end("id")], vsd["id"], ROLES[vsd["role"].lower()] if vsd["role"] else "seg"
    image = IMAGE.match(name)
    brats = image and BRATS.match(image["name"])
    if not brats:
        return None
    return folder, brats["id"], ROLES[brats["role"].lower()]


def _case(case_id: str, folder: str, files: dict[str, Entry], labels: str) -> Case:
    dataset, convention, patient = _dataset(case_id, files)
    grade = re.search(r"(^|/)(HGG|LGG)(/|$)", folder)
    return Case(
        id=case_id,
        patient=patient,
        dataset=dataset,
        group=grade[2] if grade else "",
        labels=convention if labels == "auto" else labels,
        files=dict(sorted(files.items())),
    )


def _dataset(case_id: str, files: dict[str, Entry]) -> tuple[str, str, str]:
    """(dataset, label convention, patient) that a case's name tells, or else the names of its files."""
    if "image" in files or MSD.search(next(iter(files.values())).key):
        return "msd", "msd", case_id
    for pattern, dataset, convention, patient in NAMES:
        if match := re.fullmatch(pattern, case_id, re.IGNORECASE):
            named = {k: (v or "").lower() for k, v in match.groupdict().items()}
            return dataset.format(**named), convention, match.expand(patient)
    if any(VSD.search(entry.key) for entry in files.values()):
        return "brats2015", "brats2015", case_id
    return "other", UNKNOWN, case_id


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


def to_internal(values: np.ndarray, convention: str, *, file: str = "") -> np.ndarray:
    """Labels of a file (any integer-valued dtype) → labels of the project (uint8), same shape.

    Raises CaseError for a value outside the convention, and for a convention nobody knows.
    """
    if convention == UNKNOWN:
        raise CaseError(
            "the name does not tell which labels its truth uses",
            mend=f"say so with --labels {'|'.join(SAYABLE)}",
            file=file,
        )
    table = np.full(256, 255, np.uint8)
    table[0] = 0
    for outside, inside in CONVENTIONS[convention].items():
        table[outside] = inside
    small = values.astype(np.uint8)
    labels = table[small]
    if not np.array_equal(small, values) or (labels == 255).any():
        odd = sorted({float(v) for v in np.unique(values)} - {0.0, *map(float, CONVENTIONS[convention])})
        raise CaseError(
            f"labels {', '.join(f'{v:g}' for v in odd[:5])} are not of the convention {convention} "
            f"({{0, {', '.join(map(str, CONVENTIONS[convention]))}}})",
            mend="name the right one with --labels, or mend the truth",
            file=file,
        )
    return labels


def from_internal(labels: np.ndarray, convention: str) -> np.ndarray:
    """Labels of the project (uint8) → values of a file under `convention` (uint8), same shape.

    A resection cavity has no value before 2024; ValueError, for it must not become background.
    """
    table = np.full(256, 255, np.uint8)
    table[0] = 0
    # The first of two values is written: the project does not tell necrosis from non-enhancing core.
    for outside, inside in reversed(CONVENTIONS[convention].items()):
        table[inside] = outside
    values = table[labels]
    if (values == 255).any():
        raise ValueError(
            f"label {int(labels[values == 255].max())} has no value in the convention {convention}"
        )
    return values
