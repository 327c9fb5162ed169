"""The first stage of jobs.segment: read and crop a case. No torch, which a reader need not hold in memory."""

import time
from collections.abc import Collection

from bts.cases.case import Case
from bts.cases.read import load_case
from bts.inference import quality
from bts.storage import Store


class Read:
    """Case → cropped voxels for the predicting actor, and what the stage after it needs of them. Raises
    CaseError."""

    def __init__(self, cases: Store, allow_missing: Collection[str] = ()):
        self.cases, self.allow_missing = cases, allow_missing

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        case = Case.from_json(row["case"])
        volume = load_case(case, self.cases, truth=False, allow_missing=self.allow_missing)
        columns = {"images": volume.images, "volume": volume.describe()}
        later = {"outline": volume.outline, "noise": quality.of_noise(volume)}
        return {**row, **columns, **later, "read_s": time.monotonic() - started}
