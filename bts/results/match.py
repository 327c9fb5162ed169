"""Which labelmap is of which case, and both read as labels of the project on one grid.

Labelmaps may be another tool's: they are told by name, and checked like any input. Axes: D z slices, H rows
(y), W columns (x), canonical LPS.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from bts.cases.case import Case
from bts.cases.read import decode, fetch, reader_of, refuse_other_names
from bts.cases.worklist import NOTE, case_fingerprint
from bts.errors import CaseError
from bts.images.grid import Grid, Volume
from bts.labels import is_known, to_internal
from bts.results.files import signed
from bts.results.labelmap_names import by_case, labelmaps_of
from bts.results.layout import MARKER, held, labelmap_key, versions_of
from bts.results.marker import Marker, digest
from bts.scoring import metrics
from bts.scoring.rules import year_of
from bts.storage import Entry, Store


@dataclass(frozen=True, slots=True)
class Pair:
    """A case and the key of its labelmap."""

    case: Case
    labelmap: str
    markers: tuple[str, ...] = ()
    """Keys of the markers that jobs.segment left for this labelmap: one, or none of another tool's."""
    version: str = ""
    """ETag or size+mtime of the labelmap, and when it was written: two that come out of zips may be alike in
    size and mtime."""
    rules: str = ""
    """Year of the rules of BraTS that score it; empty for figshare, which has none."""
    labels: str = ""
    """Label convention that its folder names (bts.cases.sidecars.told_beside); empty: that of the case."""

    @property
    def fingerprint(self) -> str:
        """Of all that makes its scores; of the images too where a marker tells those of the labelmap."""
        apart = "seg" in self.case.files
        roles = ["seg"] if apart and not self.markers else list(self.case.files)
        options = {"labelmap": self.version, "markers": self.markers, "labels": self.case.labels}
        if self.rules not in ("", "2023"):  # scores kept before there were others are of 2023
            options["rules"] = self.rules
        if self.labels:
            options["labels of the labelmap"] = self.labels
        return case_fingerprint(self.case, roles, options=options, version=metrics.FORMAT)

    def to_row(self) -> dict:
        """For a Ray dataset."""
        named = {"labelmap": self.labelmap, "version": self.version, "rules": self.rules}
        named["labels"] = self.labels
        named["markers"] = json.dumps(self.markers)
        return {"case_id": self.case.id, "case": self.case.to_json(), **named}

    @classmethod
    def from_row(cls, row: dict) -> "Pair":
        markers = tuple(json.loads(row["markers"]))
        told = (row["version"], row["rules"], row["labels"])
        return cls(Case.from_json(row["case"]), row["labelmap"], markers, *told)


class Labels(NamedTuple):
    """A pair as it is compared."""

    truth: np.ndarray
    """(D, H, W) uint8 labels of the project, like the prediction."""
    prediction: np.ndarray
    grid: Grid
    convention: str
    """Convention (bts.labels) of the labelmap's file; "figshare_tumour": both sides hold 0 and 1 alone."""
    markers: Sequence[Marker]
    """What jobs.segment left with the labelmap; nothing with another tool's."""

    @property
    def maker(self) -> str:
        """What made the labelmap (`Marker.maker`). Empty for another tool's."""
        said = {marker.maker for marker in self.markers} - {""}
        return said.pop() if len(said) == 1 else ""

    @property
    def flags(self) -> list[str]:
        """What jobs.segment found unusual."""
        return [flag for marker in self.markers for flag in marker.flags]

    @property
    def expected(self) -> dict[str, float]:
        """Dice by region that jobs.segment expected."""
        return dict(self.markers[0].expected_dice) if len(self.markers) == 1 else {}


@dataclass(slots=True)
class Matched:
    """What two listings have in common, and what they have not."""

    pairs: list[Pair] = field(default_factory=list)
    problems: list[CaseError] = field(default_factory=list)
    without_labelmap: list[str] = field(default_factory=list)
    """Ids of the cases with a truth that have no labelmap."""
    held: list[str] = field(default_factory=list)
    """Those of them whose labelmap waits for review."""
    without_truth: list[str] = field(default_factory=list)
    """Keys of the labelmaps that are of no case with a truth."""


def match(
    cases: Iterable[Case],
    entries: Iterable[Entry],
    *,
    truths: bool = True,
    rules: str = "auto",
    labels: str = "",
) -> Matched:
    """Pair the cases with the labelmaps of a folder (bts.results.labelmap_names).

    `truths`: only the cases that have a truth; figshare's slices hold theirs. `rules`: the year whose rules
    score them, auto for that of each data set. `labels`: the convention that the folder itself names.
    """
    # An ETag is of the bytes; size and date (with a plus) are not.
    versions = {e.key: f"{e.version} {e.modified}" if "+" in e.version else e.version for e in entries}
    cases, matched = list(cases), Matched()
    markers, failures = by_case(versions, MARKER), by_case(versions, NOTE)
    labelmaps = labelmaps_of(versions, {*markers, *(case.id for case in cases)})
    for case in cases:
        if truths and not reader_of(case).has_truth(case):
            continue
        keys = labelmaps.pop(case.id, [])
        if not keys:
            matched.without_labelmap.append(case.id)
            if held(labelmap_key(case.id)) in versions:
                matched.held.append(case.id)
        elif len(keys) > 1:
            problem = f"there are {len(keys)} labelmaps of this case: {', '.join(keys)}"
            matched.problems.append(
                CaseError(problem, mend="keep the one to score", case=case.id, file=keys[0], stage="list")
            )
        elif case.id in failures:
            matched.problems.append(outdated(case.id, keys[0]))
        else:
            # A marker speaks of CASE.nii.gz, as jobs.segment names its labelmaps, and of no other.
            own = markers.get(case.id, []) if keys[0] == f"{case.id}.nii.gz" else []
            year = year_of(case.dataset, case.labels) if rules == "auto" else rules
            year = year if case.traits.spaced else ""
            matched.pairs.append(Pair(case, keys[0], tuple(own), versions[keys[0]], year, labels))
    matched.without_truth = sorted(key for keys in labelmaps.values() for key in keys)
    return matched


def outdated(case_id: str, labelmap: str) -> CaseError:
    """Of a case that failed when it was last segmented or fused: the labelmap that is still there is an
    older one."""
    problem = "the case failed when it was last segmented or fused: this labelmap is of older files or models"
    mend = "see the newest run report in _runs, fix the case, run that job again; or delete the labelmap"
    return CaseError(problem, mend=mend, case=case_id, file=labelmap, stage="list")


def refuse_older(pair: Pair, markers: Sequence[Marker], cases: Store) -> None:
    """Raise CaseError where the labelmap was made of other files than the case has now, as far as its marker
    tells: it names the place of the cases, and a copy elsewhere has versions of its own."""
    now = versions_of(pair.case)
    for marker in markers:
        if marker.cases.rstrip("/") != cases.uri.rstrip("/") or marker.inputs is None:
            continue
        then = marker.versions_read
        if changed := [role for role in now if then.get(role) != now[role]]:
            raise CaseError(
                f"{', '.join(changed)} changed since the labelmap was made of it",
                mend="run jobs.segment again", case=pair.case.id, file=pair.labelmap, stage="list",
            )  # fmt: skip


def read_pair(pair: Pair, cases: Store, labelmaps: Store) -> Labels:
    """Truth and prediction as labels of the project, the prediction on the truth's grid.

    Raises CaseError with the case, the file and the stage: "read", "grid" (another shape or affine) or
    "labels" (values outside the convention).
    """
    try:
        markers = read_markers(pair, labelmaps)
        refuse_older(pair, markers, cases)
        reader = reader_of(pair.case)
        truth = reader.read_truth(pair.case, cases)
        data = fetch(pair.labelmap, labelmaps)
        found = decode(data, pair.labelmap)
        if not found.grid.same_place(truth.grid):
            raise CaseError(
                f"the labelmap's grid ({found.grid.describe()}) is not the ground truth's "
                f"({truth.grid.describe()})",
                mend=_mend_of_grid(pair.case), file=pair.labelmap, stage="grid",
            )  # fmt: skip
        truth_DHW = _labels(truth.voxels, pair.case.labels, reader.truth_key(pair.case))
        prediction_DHW, convention, markers = _prediction(data, found, pair, markers)
    except CaseError as error:
        error.case, error.stage = pair.case.id, error.stage or "read"
        raise
    if convention == "figshare_tumour":
        truth_DHW = (truth_DHW > 0).view(np.uint8)
    return Labels(truth_DHW, prediction_DHW, truth.grid, convention, markers)


def read_truth(case: Case, cases: Store) -> Volume:
    """The truth as labels of the project, uint8. Raises CaseError."""
    reader = reader_of(case)
    found = reader.read_truth(case, cases)
    return Volume(_labels(found.voxels, case.labels, reader.truth_key(case)), found.grid)


def read_prediction(pair: Pair, labelmaps: Store) -> Volume:
    """The labelmap as labels of the project, uint8, on its own grid. Raises CaseError."""
    return _read_labelmap(pair, read_markers(pair, labelmaps), labelmaps)[0]


def read_vouched(pair: Pair, cases: Store, labelmaps: Store) -> tuple[Volume, list[Marker], str]:
    """(labels of the project on their own grid, the markers of these very bytes, their digest). Raises
    CaseError, also where the case has other files now than the labelmap was made of."""
    markers = read_markers(pair, labelmaps)
    refuse_older(pair, markers, cases)
    return _read_labelmap(pair, markers, labelmaps)


def _read_labelmap(
    pair: Pair, markers: Sequence[Marker], labelmaps: Store
) -> tuple[Volume, list[Marker], str]:
    """As `read_vouched` has it, whatever files the case has now."""
    data = fetch(pair.labelmap, labelmaps)
    found = decode(data, pair.labelmap)
    labels, _, own = _prediction(data, found, pair, markers)
    return Volume(labels, found.grid), own, digest(data)


def read_markers(pair: Pair, labelmaps: Store) -> list[Marker]:
    """What jobs.segment left with the labelmap; nothing of what is not JSON. Raises CaseError."""
    found = []
    for key in pair.markers:
        data = fetch(key, labelmaps)
        with suppress(ValueError):
            found.append(Marker.from_json(data))
    return found


def refuse_cut_off(found: Volume, labelmap: str) -> None:
    """Raise CaseError where a labelmap that no marker vouches for is one of jobs.segment."""
    if signed(found.grid.header):
        raise CaseError(
            "jobs.segment wrote this labelmap, but its result record in _done is missing: a run was cut off",
            mend="run jobs.segment again; a copy needs the folder _done beside it, one that a person "
            "corrected a header whose description (descrip) does not begin with bts",
            file=labelmap, stage="labels",
        )  # fmt: skip


def written_in(pair: Pair, markers: Sequence[Marker]) -> str:
    """Label convention of the labelmap: what its marker says, else its folder, else the case's own. Raises
    CaseError."""
    if not pair.markers:
        return pair.labels or pair.case.labels
    said = {marker.labels for marker in markers}
    if len(said) != 1 or not all(map(is_known, said)):
        raise CaseError(
            "the labelmap's result records in _done do not name one label convention",
            mend="delete them and run jobs.segment again", file=pair.markers[0], stage="labels",
        )  # fmt: skip
    return said.pop()


def read_images(
    case: Case, cases: Store, grid: Grid, wanted: Iterable[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """(modality, (D, H, W)) of those wanted that are there, sound and on the truth's grid."""
    reader = reader_of(case)
    for name in wanted:
        if name in reader.modalities(case):
            with suppress(CaseError):
                volume = reader.read_modality(case, cases, name)
                if volume.grid.same_place(grid):
                    yield name, volume.voxels


def _prediction(
    data: bytes, found: Volume, pair: Pair, markers: Sequence[Marker]
) -> tuple[np.ndarray, str, list[Marker]]:
    """(labels of the project, convention of the file, its own markers) of a labelmap read from its bytes."""
    if not pair.markers:
        refuse_cut_off(found, pair.labelmap)
    markers = _speaking_of(data, markers, pair)
    convention = written_in(pair, markers)
    refuse_other_names(data, convention, pair.labelmap, truth=False)
    mend = f"write the labelmap in the convention {convention}"
    return _labels(found.voxels, convention, pair.labelmap, mend), convention, markers


def _speaking_of(data: bytes, markers: Sequence[Marker], pair: Pair) -> list[Marker]:
    """The markers of these very bytes. Raises CaseError where all are of others: what they say of the
    convention, the model and the Dice to expect would be said of the wrong labelmap."""
    own = [marker for marker in markers if marker.speaks_of(digest(data))]
    if markers and not own:
        raise CaseError(
            "the labelmap is not the one that its result record in _done is of",
            mend="give another tool's, or an edited one, a folder of its own; then run jobs.segment again",
            file=pair.labelmap, stage="labels",
        )  # fmt: skip
    return own


def _mend_of_grid(case: Case) -> str:
    if case.traits.reader == "slices":
        return "stack the slices by number, with the affine diag(-1, -1, 1, 1), as jobs.segment does"
    return "write both with the shape and affine of the case's own images"


def _labels(values: np.ndarray, convention: str, file: str, mend: str = "") -> np.ndarray:
    try:
        return to_internal(values, convention, file=file)
    except CaseError as error:
        raise CaseError(error.problem, mend=mend or error.mend, file=file, stage="labels") from None
