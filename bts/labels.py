"""The vocabulary of labels: conventions of files, regions that are scored, targets that a network predicts.

Inside the project labels are always 1 necrosis/non-enhancing, 2 oedema, 3 enhancing, 4 resection cavity; of
figshare 1 meningioma, 2 glioma, 3 pituitary tumour.
"""

from collections.abc import Mapping

import numpy as np

from bts.errors import CaseError

# Value in the file → label inside the project. The field's most repeated bug, so it stands nowhere else.
CONVENTIONS: dict[str, dict[int, int]] = {
    "brats2015": {1: 1, 2: 2, 3: 1, 4: 3},  # BraTS 2013–2015: 1 necrosis, 3 non-enhancing core
    "brats2021": {1: 1, 2: 2, 4: 3},  # BraTS 2017–2021
    "brats2023": {1: 1, 2: 2, 3: 3},  # BraTS 2023: glioma, Africa, metastases, meningioma
    "brats2024": {1: 1, 2: 2, 3: 3, 4: 4},  # BraTS 2024 glioma after treatment
    "msd": {1: 2, 2: 1, 3: 3},  # Medical Segmentation Decathlon Task01
    "figshare": {1: 1, 2: 2, 3: 3},  # meningioma, glioma, pituitary tumour
    "figshare_tumour": {1: 1},  # tumour of any type: what a model without types writes, no truth uses it
}
SAYABLE = ("brats2021", "brats2023", "brats2024", "msd")  # with --labels; the others a name or file tells
UNKNOWN = ""  # the name does not tell the convention: a truth needs --labels

Regions = Mapping[str, tuple[int, ...]]
"""Name → the labels that it joins."""
# The challenge scores nested regions, not labels: Menze et al. 2015, doi:10.1109/TMI.2014.2377694.
REGIONS: dict[str, tuple[int, ...]] = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
CAVITY: dict[str, tuple[int, ...]] = {"RC": (4,)}  # of BraTS 2024; scored only where it occurs
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
