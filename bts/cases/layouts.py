"""One listing → cases. No file is opened for it; how files are named is data of bts.cases.names.

figshare's slices are the exception: the patient is inside the files, so they become cases by an index pass
(bts.cases.figshare).
"""

import re
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from bts.cases.case import Case
from bts.cases.datasets import OTHER, identify
from bts.cases.joined import Found, Groups, join, shorter
from bts.cases.keys import data_of, with_slashes
from bts.cases.names import ANYWHERE, CHANNEL, LAYOUTS, Naming, place_of
from bts.cases.sidecars import Sidecars
from bts.errors import CaseError
from bts.modalities import MODALITIES
from bts.storage import Entry

# Folders that this project's jobs keep beside their results; a file of a case in one of them is a stray.
OURS = {"_runs", "_index", "_done", "_failed", "_held", "_scores", "_labels", "_probabilities"}
OURS |= {"_masks", "_checks"}
SLICE = re.compile(r"(^|/)\d+\.mat$")  # of figshare
GRADE = re.compile(r"(^|/)(HGG|LGG)(/|$)")
# In names of truths, or of their folders; GlistrBoost made those of TCGA-GBM and -LGG. What stands before a
# slash is the folder's; WT, TC and ET are often files of their own.
TRUTH = re.compile(
    r"seg|ma?sk|label|truth|gtv|roi|annot|lesion|glistr|tumou?r(?!.*/)|(^|[/_-])(gt|wt|tc|et)[/.]",
    re.IGNORECASE,
)
BRAIN = re.compile(r"(brain|bet).?(parenchyma.?)?(seg|mask)|skull", re.IGNORECASE)  # a mask of something else
# What a truth may be stored as, whether it is read or not.
VOXELS = re.compile(
    r"\.(nii|mha|mhd|nrrd|nhdr|img|hdr|mgz|mgh|mnc|dcm|npy|npz|mat|h5)(\.(gz|bz2|zip|part|crdownload))*$|"
    r"\.seg\.nrrd$",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Listing:
    """What lies below a prefix: the cases, what is wrong with some, and what is no case."""

    cases: list[Case] = field(default_factory=list)
    problems: list[CaseError] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    slices: list[Entry] = field(default_factory=list)
    """figshare's numbered .mat files; the patient is inside, so they become cases by an index pass."""
    truth_like: dict[str, str] = field(default_factory=dict)
    """Case without a truth → a stray in its folder that looks like one."""
    unnamed: list[str] = field(default_factory=list)
    """Cases of which nothing told the patient, so that the name stands for it."""
    unclear: tuple[str, ...] = ()
    """Files of the set that name labels which are not known; no truth below them has a convention."""


def find_cases(
    entries: Iterable[Entry],
    labels: str = "auto",
    *,
    layouts: Iterable[Naming] = (),
    sidecars: Sidecars | None = None,
    patients: Callable[[str], str] | None = None,
) -> Listing:
    """Group the objects of a listing into cases.

    `labels` is a convention (bts.labels.spelt) for all of them, or "auto": what the set's own files say, else
    by the dataset that the name tells. layouts: tried before LAYOUTS. sidecars: what the set's own files say.
    patients: case → patient, empty where it does not know.
    A case in two folders, or with a file twice, becomes a problem, for guessing would drop one.
    """
    sidecars = sidecars or Sidecars()
    listing = Listing(unclear=sidecars.unclear if labels == "auto" else ())
    found, bare = _group(entries, (*layouts, *LAYOUTS), sidecars, listing)
    if left := join(found, bare, listing.strays):
        listing.strays = sorted([*listing.strays, *left])
    folders: dict[str, dict[str, Found]] = {}
    for (folder, case_id), one in found.items():
        folders.setdefault(case_id, {})[folder] = one
    for (folder, case_id), one in sorted(found.items(), key=lambda item: item[0]):
        problem = _unsafe(case_id, one.files) or _twice(case_id, folders[case_id], one.files)
        problem = problem or _without_names(case_id, one.files)
        if problem and folder == min(folders[case_id]):  # said once, not once a folder
            listing.problems.append(problem)
        if not problem:
            truth = with_slashes(one.files["seg"][0].key) if "seg" in one.files else ""
            said = sidecars.convention(truth) if labels == "auto" else labels
            _add_case(case_id, folder, one, said, patients, listing)
    _look_for_truths(found, listing)
    return listing


def _group(
    entries: Iterable[Entry], layouts: tuple[Naming, ...], sidecars: Sidecars, listing: Listing
) -> tuple[Groups, Groups]:
    """(files whose names tell a case, files that lack its name, as `join` takes them). Strays and figshare's
    slices go to the listing."""
    found: Groups = {}
    bare: Groups = {}
    for entry, key in data_of(entries):
        hidden = key.rpartition("/")[2].startswith(".")
        layout, place = (None, None) if hidden else place_of(key, layouts)
        if OURS & set(key.split("/")):
            if place:
                listing.strays.append(entry.key)
        elif layout is None or place is None:
            _set_aside(entry, key, listing)
        elif not (role := sidecars.channels.get(place.folder, {}).get(place.role, place.role)):
            listing.strays.append(entry.key)  # a channel of another kind of image
        else:
            where, groups = (place.folder, place.case_id), bare if layout.bare else found
            if (one := groups.get(where)) is None:
                one = groups[where] = Found()
            one.files.setdefault(role, []).append(entry)
            one.datasets.add(layout.dataset)
    return found, bare


def _set_aside(entry: Entry, key: str, listing: Listing) -> None:
    name = key.rpartition("/")[2]
    if SLICE.search(key):
        listing.slices.append(entry)
    elif not name.startswith("._"):  # macOS's shadow files are nobody's data
        listing.strays.append(entry.key)


def _look_for_truths(found: Groups, listing: Listing) -> None:
    """Of cases without a truth: a stray of their folder, or with their name, that looks like one. Where there
    are several, a corrected one."""
    without = {case.id for case in listing.cases if "seg" not in case.files}
    by_folder: dict[str, list[str]] = {}
    for folder, case_id in found:
        by_folder.setdefault(folder, []).append(case_id)
    for key in listing.strays:
        folder, _, name = with_slashes(key).rpartition("/")
        own = folder.rpartition("/")[2]
        if not (VOXELS.search(name) and TRUTH.search(f"{own}/{name}")) or BRAIN.search(name):
            continue
        alone, stem = by_folder.get(folder, []), VOXELS.sub("", name)
        named = next((h for h in (stem, *shorter(stem)) if h in without), "")
        case_id = named or (alone[0] if len(alone) == 1 else own)
        if case_id in without and ("corrected" in name.lower() or case_id not in listing.truth_like):
            listing.truth_like[case_id] = key


def _add_case(
    case_id: str,
    folder: str,
    found: Found,
    labels: str | None,
    patients: Callable[[str], str] | None,
    listing: Listing,
) -> None:
    dataset, convention, patient = identify(case_id, found.datasets)
    said = patients(case_id) if patients else ""
    if not said and dataset == OTHER.name and patient == case_id:
        listing.unnamed.append(case_id)
    grade = GRADE.search(folder)
    case = Case(
        id=case_id,
        patient=said or patient,
        dataset=dataset,
        group=grade[2] if grade else "",
        labels=convention if labels is None else labels,
        files={role: entries[0] for role, entries in sorted(found.files.items())},
    )
    listing.cases.append(case)


def _without_names(case_id: str, files: dict[str, list[Entry]]) -> CaseError | None:
    """Of nnU-Net's numbered channels that nothing names."""
    numbers = sorted(role for role in files if CHANNEL.fullmatch(role))
    if not numbers or set(files) & set(MODALITIES):
        return None
    return CaseError(
        f"no dataset.json names its channels {', '.join(numbers)} (T1, T1ce, T2, FLAIR)",
        mend="put it beside imagesTr, or say them: --roles t1=*_0000.nii.gz t1ce=*_0001.nii.gz …",
        case=case_id,
        file=files[numbers[0]][0].key,
        stage="list",
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
    keys = [entry.key for entries in files.values() for entry in entries]
    if not _garbles(together := "".join(keys)) and ".." not in together:  # so are all of nearly every case
        return None
    return next(filter(None, (unsafe_key(key, case_id) for key in keys)), None)


def unsafe_key(key: str, case_id: str) -> CaseError | None:
    """Refuse a key that leaves its folder, garbles a terminal, or is bytes that are no text."""
    if not _garbles(key) and not (".." in key and ".." in with_slashes(key).split("/")):
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


def _twice(case_id: str, folders: Mapping[str, Found], files: dict[str, list[Entry]]) -> CaseError | None:
    if len(folders) > 1:
        shown = sorted(folder.removeprefix(ANYWHERE) or "." for folder in folders)
        return CaseError(
            f"this case lies in {len(folders)} folders: {', '.join(shown[:3])}",
            mend=_truth_apart(case_id, list(folders.values()))
            or "keep one, or give the others a name of their own: rename its folder if that names the "
            "case, or name the cases by a CSV file for --roles",
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


def _truth_apart(case_id: str, both: list[Found]) -> str:
    """What to do where one folder has the images and another their ground truth, or a tool's labelmap, which
    would be taken for it; else empty."""
    images, truth = sorted(both, key=lambda one: "seg" in one.files)[:2]
    if len(both) > 2 or "seg" in images.files or set(truth.files) != {"seg"}:
        return ""
    key = with_slashes(truth.files["seg"][0].key)
    pattern = key.replace(case_id, "*")
    said = f"if {key} is its ground truth: --roles {shlex.quote(f'seg={pattern}')}"
    return said if pattern != key else ""
