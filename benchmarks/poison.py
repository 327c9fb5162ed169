"""jobs.segment, with one case that kills whatever predicts it: `python -m benchmarks.poison CASE [FLAGS]`.

As a case does that needs more memory than there is, or that a library crashes on; for benchmarks.soak.
"""

import os
import signal
import sys

from jobs import segment
from jobs.driver.outcome import run_job
from jobs.workers import predict

POISON = "BTS_POISON"  # in the environment, which Ray's workers inherit


class Predict(predict.Predict):
    """The stage as it is, but for one case."""

    def __call__(self, row: dict) -> dict:
        if row["case_id"] == os.environ[POISON]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(row)


if __name__ == "__main__":
    os.environ[POISON] = sys.argv.pop(1)
    predict.Predict = Predict
    run_job("segment", segment.Settings, segment.main)
