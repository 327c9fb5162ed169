"""Stages of jobs.segment on both sides of a GPU, for a model of another tool: `read`, `before`, `predict`,
`after`, `write`. A GPU never waits for what processors do here."""

import time

from bts.cases.case import CaseVolume
from bts.inference.finish import Finish
from bts.inference.predictor import Around
from bts.inference.segmenter import said_after


class Before:
    """Voxels → what the networks see, in their place. Raises CaseError."""

    def __init__(self, around: Around):
        self.around = around

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        seen = self.around.before(CaseVolume.described(row.pop("images"), row["volume"]))
        return {**row, "seen": seen, "predict_s": time.monotonic() - started}


class After:
    """What the networks answered → what `write` takes of any model. Raises CaseError."""

    def __init__(self, around: Around, finish: Finish, probabilities: bool):
        self.around, self.finish, self.probabilities = around, finish, probabilities

    def __call__(self, row: dict) -> dict:
        started = time.monotonic()
        volume = CaseVolume.outlined(row["outline"], row["volume"])
        said = said_after(self.around, row.pop("seen"), self.finish, volume, self.probabilities)
        return {**row, "said": said, "predict_s": row["predict_s"] + time.monotonic() - started}
