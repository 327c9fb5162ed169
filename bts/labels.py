"""The vocabulary of labels: conventions of files, regions that are scored, targets that a network predicts.

Inside the project labels are always 1 necrosis/non-enhancing, 2 oedema, 3 enhancing, 4 resection cavity; of
figshare 1 meningioma, 2 glioma, 3 pituitary tumour.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np

from bts.boxes import filled_box
from bts.errors import CaseError, UsageError

# Value in the file → label inside the project. The field's most repeated bug, so it stands nowhere else.
CONVENTIONS: dict[str, dict[int, int]] = {
    "brats2015": {1: 1, 2: 2, 3: 1, 4: 3},  # BraTS 2013–2015: 1 necrosis, 3 non-enhancing core
    "brats2021": {1: 1, 2: 2, 4: 3},  # BraTS 2017–2021
    "brats2023": {1: 1, 2: 2, 3: 3},  # BraTS 2023: glioma, Africa, metastases, meningioma
    "brats2024": {1: 1, 2: 2, 3: 3, 4: 4},  # BraTS 2024 glioma after treatment
    "msd": {1: 2, 2: 1, 3: 3},  # Medical Segmentation Decathlon Task01
    "ped2023": {1: 1, 2: 2, 3: 3},  # BraTS-PED 2023: as the adults of that year
    "ped2024": {1: 3, 2: 1, 3: 1, 4: 2},  # BraTS-PED since 2024: 2 non-enhancing core, 3 cyst, 4 oedema
    "met2025": {1: 1, 2: 2, 3: 3, 4: 4},  # BraTS-MET 2025: with the resection cavity
    "goat": {1: 1, 2: 2, 3: 3},  # BraTS-GoAT 2024
    "fets2022": {1: 1, 2: 2, 4: 3},  # FeTS 2021 and 2022
    "menrt": {1: 3},  # BraTS-MEN-RT 2024: one gross tumour volume (files named _gtv)
    "figshare": {1: 1, 2: 2, 3: 3},  # meningioma, glioma, pituitary tumour
    "figshare_tumour": {1: 1},  # tumour of any type: what a model without types writes, no truth uses it
}
# With --labels; the others a name or file tells. Of equal tables, a message offers the first.
SAYABLE = (
    "brats2021", "brats2023", "brats2024", "msd", "ped2023", "ped2024", "met2025", "goat", "fets2022",
    "menrt",
)  # fmt: skip
UNKNOWN = ""  # the name does not tell the convention: a truth needs --labels
# Names of the labels, for a convention that is spelt out: 1=ET,2=NCR,3=NCR,4=ED.
STRUCTURES = {"NCR": 1, "NETC": 1, "NET": 1, "CYST": 1, "CC": 1, "ED": 2, "SNFH": 2, "ET": 3, "GTV": 3}
STRUCTURES |= {"RC": 4}
STRUCTURE_NAMES = {1: "NCR", 2: "ED", 3: "ET", 4: "RC"}
NAMES = {
    "figshare": {1: "meningioma", 2: "glioma", 3: "pituitary tumour"},
    "figshare_tumour": {1: "tumour"},
    "menrt": {3: "GTV"},
}
# How sets and tools write them out, letters alone; the first that is found in a name counts.
WORDS = {
    "RC": "CAVITY",
    "CYST": "CYST",
    "SNFH": "FLAIR|SNFH",
    "NCR": "NECRO|(NON|NOT|UN)(CONTRAST|GADOLINIUM|GD)?ENHANC|NCR|NETC|^NEC$",
    "ED": "EDEMA|INFILTRAT",
    "ET": "ENHANC|ACTIVETUMO|^AT$",
}
WRITTEN = {1, 2, 3}  # labels that a labelmap of ours may hold
EXAMPLE = "1=ET,2=NCR,3=NCR,4=ED"
# Of a whole number: saved from floats with a scale in the header, not a mixture of labels.
NEAR = 0.05

Regions = Mapping[str, tuple[int, ...]]
"""Name → the labels that it joins."""
# The challenge scores nested regions, not labels: Menze et al. 2015, doi:10.1109/TMI.2014.2377694.
REGIONS: dict[str, tuple[int, ...]] = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
CAVITY: dict[str, tuple[int, ...]] = {"RC": (4,)}  # of BraTS 2024; scored only where it occurs
TISSUES: dict[str, tuple[int, ...]] = {"NETC": (1,), "SNFH": (2,), **CAVITY}  # of glioma since 2024
PAEDIATRIC: dict[str, tuple[int, ...]] = {"ED": (2,)}
TARGET: dict[str, tuple[int, ...]] = {"GTV": (1, 2, 3)}  # gross tumour volume, before radiotherapy
TUMOUR: dict[str, tuple[int, ...]] = {"tumour": (1, 2, 3)}  # of figshare, whatever its type
# Its types; scored only where they occur, in labelmaps that tell them.
TYPES: dict[str, tuple[int, ...]] = {"meningioma": (1,), "glioma": (2,), "pituitary": (3,)}
SCORED: dict[str, tuple[Regions, Regions]] = {"figshare": (TUMOUR, TYPES), "figshare_tumour": (TUMOUR, {})}

TARGETS: dict[str, dict[str, tuple[int, ...]]] = {
    "regions": REGIONS,
    "labels": {"NCR": (1,), "ED": (2,), "ET": (3,)},
    "tumour": TUMOUR,
    "tumour_types": TYPES,
}
"""Labels of each target, in the order of the network's channels."""
PAINT = {"WT": 2, "TC": 1, "ET": 3}
"""Label that each region paints, in this order: tumour that is not core is oedema, core that does not enhance
is necrosis. A later region overrides, so enhancing pixels outside the predicted core stay enhancing."""
WRITTEN_AS = {"tumour": "figshare_tumour", "tumour_types": "figshare"}
"""Targets → convention of their labelmaps; of other targets the case tells it, or --labels."""


def regions_of(convention: str) -> tuple[Regions, Regions]:
    """(regions scored always, regions scored where they occur) of a labelmap in a convention."""
    return SCORED.get(convention, (REGIONS, CAVITY))


def regions_predicted(targets: str) -> tuple[Regions, Regions]:
    """The same of what a network predicts."""
    # None predicts the cavity of BraTS 2024: a score of it would say nothing about the weights.
    return regions_of(WRITTEN_AS[targets]) if targets in WRITTEN_AS else (REGIONS, {})


def teaches(convention: str, targets: str) -> bool:
    """Whether truths in a convention tell the targets that a network shall learn."""
    return (convention == "figshare") == (targets in WRITTEN_AS)


def spelt(text: str) -> str:
    """What --labels says: auto, a key of CONVENTIONS, or pairs value=label, ordered. Raises UsageError."""
    if text == "auto" or text in SAYABLE:
        return text
    pairs: dict[int, str] = {}
    for pair in text.split(","):
        value, _, label = (part.strip() for part in pair.partition("="))
        if not value.isdecimal() or not 1 <= int(value) <= 255 or label.upper() not in STRUCTURES:
            raise UsageError(
                f"--labels {text}: give auto, {', '.join(SAYABLE)}, or pairs such as {EXAMPLE} (value in the "
                f"file from 1 to 255 = one of {', '.join(STRUCTURES)}; several values may be one label)"
            )
        if pairs.setdefault(int(value), label.upper()) != label.upper():
            raise UsageError(f"--labels {text}: {value} is given twice")
    return ",".join(f"{value}={label}" for value, label in sorted(pairs.items()))


def named_as(names: Mapping[int, str]) -> str:
    """Convention of a set that names its values in words (edema, necrotic core, …): a key of SAYABLE, or
    pairs; empty where a name is not known."""
    labels = {value: structure(name) for value, name in names.items()}
    if not labels or not all(labels.values()) or not all(1 <= value <= 255 for value in labels):
        return UNKNOWN
    pairs = ",".join(f"{value}={label}" for value, label in sorted(labels.items()))
    return next((known for known in SAYABLE if CONVENTIONS[known] == values_of(pairs)), pairs)


def structure(name: str) -> str:
    """The key of STRUCTURES that a set calls so; empty where none is sure."""
    plain = re.sub(r"[^A-Z]", "", name.upper())
    if plain in STRUCTURES:
        return plain
    return next((label for label, words in WORDS.items() if re.search(words, plain)), "")


@cache
def values_of(convention: str) -> Mapping[int, int]:
    """Value in the file → label inside the project, of a key of CONVENTIONS or of pairs (`spelt`).

    Raises KeyError for what is neither.
    """
    if convention in CONVENTIONS:
        return CONVENTIONS[convention]
    if "=" not in convention:
        raise KeyError(convention)
    pairs = (pair.partition("=") for pair in convention.split(","))
    return {int(value): STRUCTURES[label] for value, _, label in pairs if value.isdecimal()}


def meaning(convention: str) -> str:
    """What the values of a file stand for, for a person: 1 NCR, 2 ED, 4 ET."""
    names = NAMES.get(convention, STRUCTURE_NAMES)
    return ", ".join(f"{value} {names[label]}" for value, label in sorted(values_of(convention).items()))


def is_known(convention: str) -> bool:
    """Whether `values_of` knows it."""
    try:
        return bool(values_of(convention))
    except KeyError:
        return False


def can_be_written(convention: str) -> bool:
    """Whether it has a value for every label that a labelmap of ours may hold."""
    return set(values_of(convention).values()) >= WRITTEN


def fitting(values: Iterable[float], among: Iterable[str] = ()) -> list[str]:
    """The conventions of `among` (else of SAYABLE, one a table) that have all these values of a file."""
    present = set(values) - {0}
    found = [c for c in among or SAYABLE if present <= values_of(c).keys()]
    tables = [values_of(c) for c in found]
    return [c for n, c in enumerate(found) if among or tables[n] not in tables[:n]]


def to_internal(
    values: np.ndarray, convention: str, *, file: str = "", among: Iterable[str] = ()
) -> np.ndarray:
    """Labels of a file (whole numbers of any dtype, or as near to them as a scale in the header leaves them)
    → labels of the project (uint8), same shape.

    among: conventions that the case's data set is known to have used; a message offers no others.
    Raises CaseError for a value outside the convention, and for a convention nobody knows.
    """
    labels = np.zeros(values.shape, np.uint8)
    box = filled_box(values)
    inside = _rounded(values[box], beside_zeros=values[box].size < values.size)
    labels[box] = _to_internal(inside, convention, file, among)
    return labels


def _to_internal(values: np.ndarray, convention: str, file: str, among: Iterable[str]) -> np.ndarray:
    if convention == UNKNOWN:
        raise CaseError(
            "the name does not tell which labels its ground truth uses", mend=_offer(values, among), file=file
        )
    table = np.full(256, 255, np.uint8)
    table[0] = 0
    for outside, inside in values_of(convention).items():
        table[outside] = inside
    small = values.astype(np.uint8)
    labels = table[small]
    if not np.array_equal(small, values) or (labels == 255).any():
        odd = sorted({float(v) for v in np.unique(values)} - {0.0, *map(float, values_of(convention))})
        raise CaseError(
            f"labels {', '.join(f'{v:g}' for v in odd[:5])} are not of the convention {convention} "
            f"({{0, {', '.join(map(str, values_of(convention)))}}})",
            mend=_offer(values, among),
            file=file,
        )
    return labels


def _rounded(values: np.ndarray, beside_zeros: bool) -> np.ndarray:
    """Fractions → whole numbers where they cannot be mistaken: each near to one, and no two to the same.

    A truth saved from floats with an integer type and a scale has 1.0039 for 1; one that was resampled has
    many values between two labels, and is returned as it is. beside_zeros: whether 0 is taken, too.
    """
    if values.dtype.kind != "f":
        return values
    whole = np.rint(values)
    if np.array_equal(whole, values) or np.abs(whole - values).max() > NEAR:
        return values
    present = np.union1d(values, [0.0] if beside_zeros else [])
    return whole if len(np.unique(np.rint(present))) == len(present) else values


def _offer(values: np.ndarray, among: Iterable[str]) -> str:
    """What to do about a convention that is not known or not the right one: only what fits the values."""
    present = np.unique(values)
    if (present != np.rint(present)).any():
        return (
            "its values are no whole numbers: the file was resampled, or its header scales them (scl_slope); "
            "save it again with whole numbers"
        )
    spell = f"spell them out: --labels {EXAMPLE}"
    if found := fitting(present.tolist(), among) or fitting(present.tolist()):
        return f"say so with --labels {'|'.join(found)}, or {spell}"
    return f"no known convention has these values; {spell}, or fix the ground truth"


def from_internal(labels: np.ndarray, convention: str) -> np.ndarray:
    """Labels of the project (uint8) → values of a file under `convention` (uint8), same shape.

    A resection cavity has no value before 2024; ValueError, for it must not become background.
    """
    table = np.full(256, 255, np.uint8)
    table[0] = 0
    # The first of two values is written: the project does not tell necrosis from non-enhancing core.
    for outside, inside in reversed(list(values_of(convention).items())):
        table[inside] = outside
    values = table[labels]
    if (values == 255).any():
        raise ValueError(
            f"label {int(labels[values == 255].max())} has no value in the convention {convention}"
        )
    return values
