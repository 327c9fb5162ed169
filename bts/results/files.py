"""The files of a segmented case: labelmap, masks of its slices, probabilities.

Probabilities are uint8 on the labelmap's grid: 255 is certain.

The masks are for people and tools without NIfTI: `masks/CASE/NUMBER.png`, one 8-bit grey PNG a slice with the
rows and columns of the slice's image. The value tells what was found: 0 nothing, 80 meningioma, 160 glioma,
240 pituitary tumour (the label is value // 80); 255 tumour, by a model that knows no types.
"""

import gzip
import io
import zlib
from collections.abc import Iterable, Set

import numpy as np
from PIL import Image

from bts.cases.case import Case
from bts.errors import CaseError, RunError, UsageError
from bts.images.grid import Grid
from bts.images.nifti import write_labelmap, write_probabilities
from bts.labels import from_internal
from bts.results.layout import labelmap_key, marked_cases, probability_key, result_keys
from bts.results.marker import Marker, digest
from bts.storage import Store

SIGNATURE = "bts "  # then the digests of the models: how `descrip` of a labelmap begins
GREYS = {"figshare": np.array([0, 80, 160, 240], np.uint8), "figshare_tumour": np.array([0, 255], np.uint8)}


def refuse_foreign(case_ids: Iterable[str], there: Set[str], output: Store, mend: str) -> None:
    """Raise UsageError where a labelmap would be replaced that has neither a marker nor our own signature: a
    ground truth, an edited labelmap, another tool's. With the signature alone it is of a run cut off.

    there: keys of the output. mend: what to do, for the message. Raises RunError where one cannot be read.
    """
    marked = marked_cases(there)
    for case_id in case_ids:
        if (key := labelmap_key(case_id)) not in there or case_id in marked:
            continue
        try:
            ours = is_ours(output.read(key))
        except OSError as error:
            raise RunError(f"{output.uri}/{key}: cannot be read: {error}") from error
        if not ours:
            raise UsageError(f"{output.uri}/{key}: jobs.segment did not make this labelmap; {mend}")


def refuse_edited(key: str, markers: Iterable[str], output: Store, mend: str) -> None:
    """Raise CaseError where the labelmap that would be replaced is not the one that its markers are of: a
    person has edited it since.

    key: of the labelmap, markers: of its markers. mend: what to do, for the message.
    """
    if not (markers := tuple(markers)):
        return
    try:
        data = output.read(key)  # first: another run deletes the marker first
        known = [Marker.from_json(output.read(one)) for one in markers]
    except (OSError, ValueError):
        return  # another run has replaced it meanwhile, or nothing is known of it
    if known and not any(marker.speaks_of(digest(data)) for marker in known):
        problem = "its labelmap was edited since it was made, and would be replaced"
        raise CaseError(problem, mend=mend, file=key, stage="write")


def is_ours(labelmap: bytes) -> bool:
    """Whether the header of a .nii.gz says that jobs.segment or jobs.fuse wrote it."""
    try:
        return signed(gzip.GzipFile(fileobj=io.BytesIO(labelmap)).read(540))
    except (OSError, EOFError, zlib.error):
        return False


def signed(header: bytes) -> bool:
    """Whether a NIfTI header has the signature of this project."""
    size = {int.from_bytes(header[:4], order) for order in ("little", "big")}
    return header[240 if 540 in size else 148 :].startswith(SIGNATURE.encode())


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


def _png(grey_HW: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(grey_HW).save(file, "PNG", optimize=True)
    return file.getvalue()
