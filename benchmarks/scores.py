"""How long does scoring a case take? `python -m benchmarks.scores`: the pairs of ../shared/golden.

The challenge's own code took 9.1 s a case there (../shared/golden/README.md), reading included.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.table import Row
from bts.images.nifti import read_nifti
from bts.labels import CAVITY, REGIONS
from bts.scoring.metrics import measure

GOLDEN = Path(__file__).resolve().parent.parent.parent / "shared" / "golden"
OFFICIAL_S = 9.1


def read(name: str) -> np.ndarray:
    return read_nifti((GOLDEN / name).read_bytes(), name).voxels.astype(np.uint8)


def rows(place: Path) -> Iterator[Row]:
    if GOLDEN.exists():
        what, against = "scores of the challenge", "its own code (stated)"
        ours = [float(np.mean(seconds()))]
        yield Row(what=what, unit="s/case", ours=ours, against=against, theirs=[OFFICIAL_S], target=20)


def seconds() -> list[float]:
    """Of each pair of ../shared/golden."""
    rows = json.loads((GOLDEN / "brats2023_official.json").read_text())
    took = []
    for truth, prediction in sorted({(row["truth"], row["prediction"]) for row in rows}):
        started = time.perf_counter()
        measure(read(truth), read(prediction), REGIONS, CAVITY, spacing=(1.0, 1.0, 1.0))
        took.append(time.perf_counter() - started)
    return took


def main() -> None:
    took = seconds()
    mean = float(np.mean(took))
    times = f"mean {mean:.3f} s, longest {max(took):.3f} s"
    print(f"{len(took)} cases: {times}; {OFFICIAL_S / mean:.0f} times as fast")


if __name__ == "__main__":
    main()
