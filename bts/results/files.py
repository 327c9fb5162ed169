"""What a segmented case leaves in the bucket: labelmap, figshare's masks, the marker that vouches for them.

On request also `_probabilities/CASE.TARGET.nii.gz` (WT, TC, ET, …), uint8 on the same grid: 255 is certain.

The masks are for people and tools without NIfTI: `masks/CASE/NUMBER.png`, one 8-bit grey PNG a slice with the
rows and columns of the slice's image. The value tells what was found: 0 nothing, 80 meningioma, 160 glioma,
240 pituitary tumour (the label is value // 80); 255 tumour, by a model that knows no types.
"""

import hashlib
import re
from collections.abc import Iterable, Set

import numpy as np
from PIL import Image

from bts.cases import figshare
from bts.cases.case import Case
from bts.cases.read import reader_of
from bts.images.grid import Grid
from bts.images.nifti import write_labelmap, write_probabilities
from bts.labels import REGIONS, WRITTEN_AS, can_be_written, from_internal
from bts.report import slices
from bts.scoring import metrics

RESULT = re.compile(
    r"(_held/)?((?P<case>[^/]+)\.nii\.gz|masks/(?P<masked>[^/]+)/\d+\.png"
    r"|_probabilities/(?P<of>[^/]+)\.[A-Za-z]+\.nii\.gz)",
    re.DOTALL,
)
GREYS = {"figshare": np.array([0, 80, 160, 240], np.uint8), "figshare_tumour": np.array([0, 255], np.uint8)}


def convention_of(case: Case, asked: str, targets: str) -> str:
    """The convention to write a case's labelmap in; a model for figshare tells it, not --labels."""
    if targets in WRITTEN_AS:
        return WRITTEN_AS[targets]
    if asked != "auto":
        return asked
    # A truth of one tumour volume (MEN-RT) has no value for oedema.
    return case.labels if case.labels and can_be_written(case.labels) else "brats2023"


def inputs_of(case: Case) -> list[str]:
    """Roles of the files that a labelmap is made from."""
    return reader_of(case).inputs(case)


def versions_of(case: Case) -> dict[str, str]:
    """Role → version of the files that a labelmap of the case would now be made from."""
    return {role: case.files[role].version for role in inputs_of(case)}


def labelmap_key(case_id: str) -> str:
    return f"{case_id}.nii.gz"


def marker_key(case_id: str, fingerprint: str) -> str:
    return f"_done/{case_id}.{fingerprint}.json"


def mask_folder(case_id: str) -> str:
    return f"masks/{case_id}/"


def probability_key(case_id: str, target: str) -> str:
    return f"_probabilities/{case_id}.{target}.nii.gz"


def held(key: str) -> str:
    """Where a flagged result waits for review instead."""
    return f"_held/{key}"


def result_keys(case: Case) -> list[str]:
    """The labelmap, and of figshare the mask of each slice: what there must be for a case to be done."""
    numbered = case.files if case.traits.reader == "slices" else ()
    masks = [f"{mask_folder(case.id)}{figshare.number(key)}.png" for key in numbered]
    return [labelmap_key(case.id), *masks]


def results_of(keys: Iterable[str]) -> dict[str, set[str]]:
    """Case id → keys of its results in a listing, those that wait for review too."""
    found: dict[str, set[str]] = {}
    for key in keys:
        if named := RESULT.fullmatch(key):
            found.setdefault(named["case"] or named["masked"] or named["of"], set()).add(key)
    return found


def whole(case: Case, present: Set[str], targets: Iterable[str] = ()) -> bool:
    """Whether all results of a case are there, in their place or waiting for review, and beside them the
    probabilities of all targets that are asked for."""
    there = all(key in present or held(key) in present for key in result_keys(case))
    return there and present.issuperset(probability_key(case.id, target) for target in targets)


def encode(case: Case, labels_DHW: np.ndarray, grid: Grid, convention: str, descrip: str) -> dict[str, bytes]:
    """The files of `result_keys` of labels of the project, uint8 on the whole canonical grid."""
    labelmap, *masks = result_keys(case)
    values_DHW = from_internal(labels_DHW, convention)
    files = {labelmap: write_labelmap(values_DHW, grid, descrip)}
    if masks:
        files |= dict(zip(masks, map(_png, GREYS[convention][values_DHW]), strict=True))
    return files


def encode_probabilities(
    case: Case, bytes_KDHW: np.ndarray, targets: Iterable[str], grid: Grid, descrip: str
) -> dict[str, bytes]:
    """A file a target, of probabilities uint8 on the whole canonical grid."""
    each = zip(targets, bytes_KDHW, strict=True)
    return {probability_key(case.id, t): write_probabilities(found, grid, descrip) for t, found in each}


def describe(
    case: Case, labels_DHW: np.ndarray, grid: Grid, convention: str, key: str, labelmap: bytes
) -> dict:
    """The marker's part about the case and its labels: what was made, from what, how much was found."""
    return {
        "case_id": case.id,
        "labelmap": {"key": key, "bytes": len(labelmap), "blake2b": digest(labelmap)},
        "labels": convention,
        **_amounts(labels_DHW, grid, convention),
        "inputs": {r: {"key": case.files[r].key, "version": case.files[r].version} for r in inputs_of(case)},
    }


def _amounts(labels_DHW: np.ndarray, grid: Grid, convention: str) -> dict[str, dict]:
    """Millilitres by region; of figshare, whose pixels have no known size, pixels by type and in all."""
    if convention in WRITTEN_AS.values():
        counts = np.bincount(labels_DHW.reshape(-1), minlength=5)
        types = {name: int(counts[label]) for label, name in figshare.TUMOURS.items()}
        total = {"total": int(counts[1:].sum())}
        return {"tumour_px": total if convention == "figshare_tumour" else types | total}
    volumes = metrics.volumes_ml(labels_DHW, REGIONS, grid.zooms)
    return {"volumes_ml": {region: round(ml, 3) for region, ml in volumes.items()}}


def _png(grey_HW: np.ndarray) -> bytes:
    return slices.png(Image.fromarray(grey_HW))


def digest(data: bytes) -> str:
    """blake2b of a labelmap's bytes, 32 hex digits, as its marker has it."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
