"""The first stage of jobs.segment: read and crop a case. No torch, which a reader need not hold in memory."""

import time
from collections.abc import Collection

from bts.cases.case import Case
from bts.cases.read import load_case
from bts.storage import Store


class Read:
    """Case → cropped voxels, in the columns that travel to the predicting actor. Raises CaseError."""

    def __init__(self, cases: Store, allow_missing: Collection[str] = ()):
        self.cases, self.allow_missing = cases, allow_missing

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        case = Case.from_json(row["case"])
        volume = load_case(case, self.cases, truth=False, allow_missing=self.allow_missing)
        columns = {"images": volume.images, "volume": volume.describe()}
        return {**row, **columns, "read_s": time.monotonic() - started}
