"""The first stage of jobs.segment: read and crop a case. No torch, which a reader need not hold in memory.

A row carries the case as JSON from stage to stage; one with a `failure` passes through.
"""

import time
from collections.abc import Collection

import numpy as np

from bts.cases.case import Case
from bts.cases.read import load_case
from bts.errors import CaseError, Failure
from bts.storage import Store


class Read:
    """Case → cropped voxels, in the columns that travel to the predicting actor."""

    def __init__(self, cases: Store, allow_missing: Collection[str] = ()):
        self.cases, self.allow_missing = cases, allow_missing

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        case = Case.from_json(row["case"])
        try:
            volume = load_case(case, self.cases, truth=False, allow_missing=self.allow_missing)
        except CaseError as error:
            failure = Failure.of(error, case.id).to_json()
            return {**row, "images": nothing(), "volume": "", "failure": failure, "read_s": 0.0}
        columns = {"images": volume.images, "volume": volume.describe()}
        return {**row, **columns, "failure": "", "read_s": time.monotonic() - started}


def nothing() -> np.ndarray:
    """In place of the voxels of a case that failed."""
    return np.zeros((1, 1, 1, 1), np.uint8)
