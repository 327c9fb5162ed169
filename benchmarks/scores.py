"""How long does scoring a case take? `python -m benchmarks.scores`: the pairs of ../shared/golden.

The challenge's own code took 9.1 s a case there (../shared/golden/README.md), reading included.
"""

import json
import time
from pathlib import Path

import numpy as np

from bts.metrics import CAVITY, REGIONS, measure
from bts.volume import read_nifti

GOLDEN = Path(__file__).resolve().parent.parent.parent / "shared" / "golden"
OFFICIAL_S = 9.1


def read(name: str) -> np.ndarray:
    return read_nifti((GOLDEN / name).read_bytes(), name).voxels.astype(np.uint8)


def main() -> None:
    rows = json.loads((GOLDEN / "brats2023_official.json").read_text())
    seconds = []
    for truth, prediction in sorted({(row["truth"], row["prediction"]) for row in rows}):
        started = time.perf_counter()
        measure(read(truth), read(prediction), REGIONS, CAVITY, spacing=(1.0, 1.0, 1.0))
        seconds.append(time.perf_counter() - started)
        print(f"{prediction:40}{seconds[-1]:8.3f} s", flush=True)
    mean = float(np.mean(seconds))
    times = f"mean {mean:.3f} s, longest {max(seconds):.3f} s"
    print(f"{len(seconds)} cases: {times}; {OFFICIAL_S / mean:.0f} times as fast")


if __name__ == "__main__":
    main()
