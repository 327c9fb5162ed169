"""A listing of scans → studies, each with the files of its four modalities, in any layout of keys.

DICOM files are told by their tags (the index), NIfTI files by their names.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from bts.cases.case import Case
from bts.cases.layouts import OURS
from bts.errors import CaseError
from bts.intake import series as series_of
from bts.intake.choice import choose
from bts.intake.headers import Header
from bts.intake.identity import Identity, case_id
from bts.intake.nifti_folders import by_folder, cases_named
from bts.intake.rules import Facts, Rules, plain
from bts.storage import Entry

NIFTI = re.compile(r"^(?P<stem>.+)\.nii(\.gz)?$", re.IGNORECASE | re.DOTALL)
# What is certainly no DICOM: it is not opened. DICOMDIR lists the others, and is none itself.
OTHER = re.compile(
    r"(^|/)\.|(^|/)DICOMDIR$|\.(json|txt|csv|tsv|xml|html?|pdf|png|jpe?g|bvals?|bvecs?|md|zip|gz|tar|exe|inf|dll|py)$",
    re.IGNORECASE,
)
PRIVATE = OURS | {"_truth"}


@dataclass(frozen=True, slots=True)
class Study:
    """One examination: the files of each modality, in their order, and where they come from."""

    case_id: str
    patient: str
    uid: str
    """Study Instance UID; empty of NIfTI."""
    files: dict[str, list[Entry]]
    series: dict[str, dict]
    """By modality: what the record tells of its series (uid, number, instances)."""
    also: tuple[str, ...] = ()
    """Cases that were made of the same study under another Patient ID or date."""

    def to_case(self) -> Case:
        """For the work list: roles such as t1ce/0012 of slice 12."""
        files = {
            f"{r}/{n:04d}": entry for r, entries in self.files.items() for n, entry in enumerate(entries)
        }
        return Case(self.case_id, self.patient, "scans", "", "", files)


@dataclass(slots=True)
class Found:
    """What a listing of scans holds."""

    studies: list[Study] = field(default_factory=list)
    problems: list[CaseError] = field(default_factory=list)
    others: int = 0
    """Files that are neither NIfTI nor DICOM images."""


@dataclass(frozen=True, slots=True)
class NiftiSeries:
    """A NIfTI file as `choose` sees it; its bytes stand for its slices."""

    what: str
    entry: Entry
    number: int
    uid: str = ""
    problem: str = ""

    @property
    def slices(self) -> int:
        return self.entry.size

    @property
    def zooms(self) -> tuple[float, float, float]:
        return (1.0, 1.0, 1.0)

    def describe(self) -> str:
        return f"file {self.number} of its folder ({self.what}, {self.entry.size:,} bytes)"


def sort_entries(entries: Iterable[Entry]) -> tuple[list[Entry], list[Entry], int]:
    """(NIfTI files, files that may be DICOM, how many others)."""
    niftis, maybe, others = [], [], 0
    for entry in entries:
        folders = entry.key.split("/")
        if PRIVATE & set(folders):
            continue
        if NIFTI.match(folders[-1]) and not folders[-1].startswith("."):
            niftis.append(entry)
        elif OTHER.search(entry.key) or entry.size < 132:
            others += 1
        else:
            maybe.append(entry)
    return niftis, maybe, others


def find_studies(
    niftis: Iterable[Entry],
    dicoms: Mapping[str, Entry],
    headers: Iterable[Header],
    identity: Identity,
    rules: Rules,
    missing_allowed: Collection[str] = (),
) -> Found:
    """Choose the series of every study. dicoms: entries by what stands for their key in a Header."""
    found = Found()
    for files in by_folder(niftis).values():
        _add(found, _nifti_study, files, identity, rules, missing_allowed)
    headers = list(headers)
    if lost := sum(bool(header.what and not header.study) for header in headers):
        problem = f"{lost} MR images have no Study Instance UID, so that they are of no study"
        error = CaseError(problem, mend="export them again", case="without a study", stage="choose")
        found.problems.append(error)
    for uid, series in series_of.group(h for h in headers if h.study).items():
        _add(found, _dicom_study, uid, series, dicoms, rules, missing_allowed)
    _refuse_twins(found)
    return found


def _add(found: Found, make: Callable[..., Study], *of: object) -> None:
    """The study that is made of these, or why there is none."""
    try:
        found.studies.append(make(*of))
    except CaseError as error:
        found.problems.append(error)


def _refuse_twins(found: Found) -> None:
    """Two studies of one name: only with --keep-ids."""
    seen: dict[str, int] = {}
    for study in found.studies:
        seen[study.case_id] = seen.get(study.case_id, 0) + 1
    for name in sorted(name for name, count in seen.items() if count > 1):
        problem = f"{seen[name]} studies have this name"
        found.problems.append(CaseError(problem, mend="leave out --keep-ids", case=name, stage="choose"))
    found.studies = [study for study in found.studies if seen[study.case_id] == 1]


def nifti_cases(niftis: Iterable[Entry], identity: Identity) -> set[str]:
    """Ids of the cases that the studies of these files would be."""
    return {_nifti_case(files, identity)[1] for files in by_folder(niftis).values()}


def _nifti_case(files: list[Entry], identity: Identity) -> tuple[str, str]:
    """(patient, case id) of the files of one study."""
    folder = _common_folder(files)
    patient = identity.patient(folder)
    return patient, case_id(patient, identity.visit(folder, "", folder))


def _nifti_study(
    files: list[Entry], identity: Identity, rules: Rules, missing_allowed: Collection[str]
) -> Study:
    patient, name = _nifti_case(files, identity)
    if name not in rules.chosen and (count := cases_named(files)) > 1:
        raise CaseError(
            f"the files of its folder are named after {count} cases",
            mend="give each examination a folder of its own, or name its series in --rules: "
            f'[study."{name}"] t1 = "1" …',
            case=name, stage="choose",
        )  # fmt: skip
    series = [NiftiSeries(rules.what(_facts(entry)), entry, n) for n, entry in enumerate(files, 1)]
    chosen = choose(series, rules, name, [name], missing_allowed)
    told = {role: {"uid": "", "number": one.number, "instances": []} for role, one in chosen.items()}
    return Study(name, patient, "", {role: [one.entry] for role, one in chosen.items()}, told)


def _facts(entry: Entry) -> Facts:
    """What the name of a file tells; that of its folder tells nothing."""
    named = NIFTI.match(entry.key.rpartition("/")[2])
    assert named, "nothing else is listed"
    return Facts(plain(named["stem"]))


def _common_folder(files: list[Entry]) -> str:
    parts = [entry.key.split("/")[:-1] for entry in files]
    common = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return "/".join(common)


def _dicom_study(
    uid: str, series: list, dicoms: Mapping[str, Entry], rules: Rules, missing_allowed: Collection[str]
) -> Study:
    first = series[0].files[0]
    name = case_id(first.patient, first.visit)
    if len({(file.patient, file.visit) for one in series for file in one.files}) > 1:
        raise CaseError(
            "files of one Study Instance UID give several patients or dates",
            mend="separate them", case=name, stage="choose",
        )  # fmt: skip
    chosen = choose(series, rules, name, [name, uid], missing_allowed)
    told = {
        role: {"uid": one.uid, "number": one.number, "instances": [file.instance for file in one.files]}
        for role, one in chosen.items()
    }
    files = {role: [dicoms[file.file] for file in one.files] for role, one in chosen.items()}
    return Study(name, first.patient, uid, files, told)
