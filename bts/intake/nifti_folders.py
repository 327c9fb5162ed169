"""Which NIfTI files are of one examination: those of a folder, unless their names tell of several.

Taken together, one patient's T2 would be registered to another's T1, or all but the largest file be left out.
"""

import re
from collections.abc import Iterable, Sequence

from bts.cases.names import place_of
from bts.modalities import MODALITIES
from bts.storage import Entry

# What series of one examination are named after, besides their modality.
SERIES = re.compile(
    r"(ax|axial|sag|sagittal|cor|coronal|tra|trans\w*|[23]d|fs|brain|head|[_\W])+", re.IGNORECASE
)
VISIT = re.compile(r"(sub-[^_]+(?:_ses-[^_]+)?)_.*", re.DOTALL)  # of BIDS; what follows tells series apart


def by_folder(niftis: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Study folder → its files. A folder that holds one image alone is a series of the study above, unless
    the image is named after it (P1/P1_t1ce.nii.gz)."""
    folders: dict[str, list[Entry]] = {}
    for entry in niftis:
        folders.setdefault(entry.key.rpartition("/")[0], []).append(entry)
    studies: dict[str, list[Entry]] = {}
    for folder, files in folders.items():
        above, _, name = folder.rpartition("/")
        series = len(files) == 1 and folder and _case(files[0])[0] != name
        studies.setdefault(above if series else folder, []).extend(files)
    return {folder: sorted(files, key=lambda entry: entry.key) for folder, files in sorted(studies.items())}


def cases_named(files: Sequence[Entry]) -> int:
    """After how many cases a study's files are named (P1_T1, P1_T2, P2_T1, P2_T2): 1 where they are not.

    A single file may be named after its sequence (mprage_T1), so cases have two modalities at least, or all
    files are of one.
    """
    roles: dict[str, set[str]] = {}
    named = [_case(entry) for entry in files]
    for case, role in named:
        if case and not SERIES.fullmatch(case):
            roles.setdefault(case, set()).add(role)
    whole = sum(len(of) > 1 for of in roles.values())
    if whole > 1:
        return whole
    alike = len({role for _, role in named}) == 1
    return max(1, len(roles)) if alike else 1


def _case(entry: Entry) -> tuple[str, str]:
    """(case, modality) in the name of a file; empty where it tells none."""
    layout, place = place_of(entry.key)
    if layout is None or place is None or layout.bare or place.role not in MODALITIES:
        return "", ""
    return VISIT.sub(r"\1", place.case_id), place.role
