"""The figshare brain tumour set (Cheng 2017): numbered MATLAB v7.3 slices → patients → one stack each.

The patient's number is inside the files only, so the listing alone gives no cases: `read_index_row` reads it
from each file (in parallel, once), and `cases_of` groups the slices. Slices of one patient are scattered over
the numbers; they are stacked in order of their number, which is no anatomical order and has no known gap.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from bts.cases.case import Case
from bts.errors import CaseError
from bts.images.grid import Volume, lps
from bts.labels import TYPES
from bts.storage import Entry

TUMOURS = {label: name for name, (label,) in TYPES.items()}
FIELDS = ("image", "tumorMask", "label", "PID")
MAX_BYTES = 32 << 20  # of one file, and of one array in it; the set's are 0.3 and 0.5 MB


@dataclass(frozen=True, slots=True)
class Slice:
    """One file: image (H, W) int16, mask (H, W) uint8 0/1, tumour type and patient number."""

    image: np.ndarray
    mask: np.ndarray
    tumour: int
    pid: str


@dataclass(frozen=True, slots=True)
class IndexRow:
    """What the index keeps of one file."""

    key: str
    size: int
    version: str
    modified: float
    pid: str
    tumour: int
    height: int
    width: int


def read_slice(data: bytes, name: str) -> Slice:
    """Decode one file, rows front to back; only plain datasets, no links out of it. Raises CaseError."""
    from bts.images.matfile import read_arrays  # with HDF5, which no other data set needs

    if len(data) > MAX_BYTES:
        raise CaseError(f"{len(data):,} bytes for one slice", mend="is it of the figshare set?", file=name)
    mend = "copy the file again; it should be MATLAB v7.3 with cjdata/image, tumorMask, label and PID"
    found = read_arrays(data, name, "cjdata", FIELDS, MAX_BYTES, mend)
    # MATLAB stores columns first, so both come transposed.
    image, mask = found["image"].T, found["tumorMask"].T
    label, letters = found["label"], found["PID"]
    sound = label.size == 1 and label.item() in TUMOURS and np.isin(mask, (0, 1)).all()
    if not sound or mask.shape != image.shape or image.ndim != 2 or not image.size:
        raise CaseError("image, mask and label do not belong together", mend="copy the file again", file=name)
    if image.dtype.kind not in "iu" or image.min() < -(1 << 15) or image.max() >= 1 << 15:
        raise CaseError(f"pixels are {image.dtype}, not int16", mend="copy the file again", file=name)
    if letters.dtype.kind not in "iu" or letters.size > 64 or ((letters < 0) | (letters > 127)).any():
        raise CaseError("cjdata/PID is no patient number", mend="letters and digits are due", file=name)
    pid = "".join(map(chr, letters.ravel().tolist()))
    image, mask = np.ascontiguousarray(image, np.int16), np.ascontiguousarray(mask, np.uint8)
    return Slice(image, mask, int(label.item()), pid)


def read_index_row(data: bytes, entry: Entry) -> IndexRow:
    """The patient, tumour type and size in one file. Raises CaseError."""
    found = read_slice(data, entry.key)
    if not re.fullmatch(r"[A-Za-z0-9]{1,32}", found.pid):
        raise CaseError(f"patient number {found.pid!r}", mend="letters and digits are due", file=entry.key)
    return IndexRow(
        **asdict(entry),
        pid=found.pid,
        tumour=found.tumour,
        height=found.image.shape[0],
        width=found.image.shape[1],
    )


def patient_of(pid: str) -> str:
    """MR048294 and MR048294B are one patient."""
    return re.sub(r"(?<=\d)[A-Za-z]$", "", pid)


def cases_of(index: Iterable[IndexRow]) -> list[Case]:
    """One case a patient, its files by slice number; a patient with two image sizes gives a case a size."""
    stacks: dict[str, dict[tuple[int, int], list[IndexRow]]] = {}
    for row in sorted(index, key=lambda row: (number(row.key), row.key)):
        stacks.setdefault(patient_of(row.pid), {}).setdefault((row.height, row.width), []).append(row)
    cases = []
    for patient, sizes in sorted(stacks.items()):
        for (height, width), rows in sorted(sizes.items(), reverse=True):
            size = f"-{height}" if height == width else f"-{height}x{width}"
            suffix = "" if len(sizes) == 1 else size
            tumour = Counter(row.tumour for row in rows).most_common(1)[0][0]
            files = {row.key: Entry(row.key, row.size, row.version, row.modified) for row in rows}
            cases.append(
                Case(f"figshare-{patient}{suffix}", patient, "figshare", TUMOURS[tumour], "figshare", files)
            )
    return cases


def stack(slices: list[Slice]) -> tuple[Volume, Volume]:
    """(image, truth) of one patient: (D, H, W), the truth holding the tumour type within the mask."""
    image = np.stack([s.image for s in slices])
    truth = np.stack([s.mask * np.uint8(s.tumour) for s in slices])
    grid = lps(image.shape)  # the set tells neither place nor spacing
    return Volume(image, grid), Volume(truth, grid)


def refuse_twins(cases: Iterable[Case]) -> tuple[list[Case], list[CaseError]]:
    """(sound cases, problems): a slice number that a patient has twice would count its tumour twice."""
    sound, problems = [], []
    for case in cases:
        keys: dict[int, list[str]] = {}
        for key in case.files:
            keys.setdefault(number(key), []).append(key)
        twins = [key for same in keys.values() if len(same) > 1 for key in same]
        if twins:
            problem = f"{len(twins)} files share their slice numbers: {', '.join(twins[:4])}"
            mend = "keep one of each number"
            problems.append(CaseError(problem, mend=mend, case=case.id, file=twins[0], stage="list"))
        else:
            sound.append(case)
    return sound, problems


def number(key: str) -> int:
    """The slice's number in the set, which is its file's name."""
    found = re.search(r"(\d+)\.mat$", key)
    assert found, "a listing takes no other file for a slice"
    return int(found[1])
