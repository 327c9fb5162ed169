"""The one stage of jobs.fuse: labelmaps of a case → one labelmap, then the marker that makes it count."""

import json
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from bts.cases.case import Case
from bts.errors import CaseError
from bts.images.grid import Volume
from bts.images.nifti import write_labelmap
from bts.inference import quality
from bts.inference.fusion import Method, fuse
from bts.labels import REGIONS, from_internal
from bts.results.files import SIGNATURE, refuse_edited
from bts.results.layout import labelmap_key, marker_key
from bts.results.marker import NOT_TOLD, Marker, digest
from bts.results.match import Pair, read_markers, read_prediction, written_in
from bts.scoring.metrics import volumes_ml
from bts.storage import Store

FORMAT = 2  # raised when a fused labelmap changes for the same input; part of every fingerprint


class Fuse:
    """The labelmaps of one case, one of each folder → one. Raises CaseError."""

    def __init__(self, folders: Sequence[Store], output: Store, method: Method):
        self.folders, self.output, self.method = folders, output, method

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        pairs = [Pair.from_row(one) for one in json.loads(row["pairs"])]
        case, found = Case.from_json(row["case"]), []
        for pair, folder in zip(pairs, self.folders, strict=True):
            found.append(_read(pair, folder))
            _check_grid(found[-1], found[0], pair, folder)
        labels, grid = [one.voxels for one in found], found[0].grid
        fused = fuse(labels, self.method)
        convention = self.convention(pairs[0], fused)
        data = write_labelmap(
            from_internal(fused, convention), grid, f"{SIGNATURE}{self.method} of {len(pairs)}"
        )
        refuse_edited(labelmap_key(case.id), row["older"], self.output, "move it to a folder of its own")
        for key in row["older"]:  # as jobs.segment does: no marker may speak of other voxels
            self.output.delete(key)
        self.output.put(labelmap_key(case.id), data)
        flags = quality.of_ensemble(labels) + ([] if fused.any() else ["empty: no tumour found"])
        marker = Marker(
            case_id=case.id,
            labelmap={"key": labelmap_key(case.id), "bytes": len(data), "blake2b": digest(data)},
            labels=convention,
            volumes_ml={r: round(ml, 3) for r, ml in volumes_ml(fused, REGIONS, grid.zooms).items()},
            inputs={
                str(n): {"key": f"{folder.uri}/{pair.labelmap}", "version": pair.version}
                for n, (pair, folder) in enumerate(zip(pairs, self.folders, strict=True))
            },
            fingerprint=row["fingerprint"],
            flags=tuple(flags),
            seconds={"fuse": round(time.monotonic() - started, 3)},
            models=tuple(map(self.made_by, pairs, self.folders)),
            options={f"fused by {self.method}": True},
            versions={"format": FORMAT, "numpy": np.__version__, "python": platform.python_version()},
            written=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.output.put(marker_key(case.id, row["fingerprint"]), marker.to_json())
        return {"flags": json.dumps(flags)}

    def made_by(self, pair: Pair, folder: Store) -> dict[str, str]:
        """What made one of the labelmaps: the models that its marker names, else the folder."""
        makers = {marker.maker for marker in read_markers(pair, folder)} - {""}
        return {"name": folder.uri, "digest": ", ".join(sorted(makers)) or NOT_TOLD}

    def convention(self, first: Pair, fused: np.ndarray) -> str:
        """The first folder's, if it has a value for every label. Raises CaseError."""
        convention = written_in(first, read_markers(first, self.folders[0]))
        try:
            from_internal(fused, convention)
        except ValueError as error:
            mend = "name the folder first whose convention has all of them"
            raise CaseError(str(error), mend=mend, file=first.labelmap, stage="labels") from None
        return convention


def _read(pair: Pair, folder: Store) -> Volume:
    """Labels of the project. Raises CaseError that names the folder."""
    try:
        return read_prediction(pair, folder)
    except CaseError as error:
        error.file, error.stage = f"{folder.uri}/{pair.labelmap}", error.stage or "read"
        raise


def _check_grid(found: Volume, first: Volume, pair: Pair, folder: Store) -> None:
    if not found.grid.same_place(first.grid):
        raise CaseError(
            f"its grid ({found.grid.describe()}) is not the first labelmap's ({first.grid.describe()})",
            mend="write it on the grid of the case's images",
            file=f"{folder.uri}/{pair.labelmap}",
            stage="grid",
        )
