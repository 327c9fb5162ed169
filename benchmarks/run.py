"""`make bench`: every benchmark in turn, one table of ratios, and bench.json with every figure.

`python -m benchmarks.run [NAME …] [--place DIR]`: only these; DIR keeps the cases, shards and model.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from benchmarks import feeding, peak, preprocess, scores, segment, training
from benchmarks.table import HEADER, ROOT, save

ALL = {
    "preprocess": preprocess,
    "feeding": feeding,
    "training": training,
    "segment": segment,
    "scores": scores,
    "peak": peak,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(ALL))
    parser.add_argument("--place", type=Path)
    given = parser.parse_args()
    if unknown := set(given.names) - ALL.keys():
        parser.error(f"no benchmark {' '.join(sorted(unknown))}; there are {' '.join(ALL)}")
    started, found = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        place = (given.place or Path(folder)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        print(HEADER, flush=True)
        for name in given.names or ALL:
            began = time.monotonic()
            for row in ALL[name].rows(place):
                found.append(row)
                print(row.line(), flush=True)
            print(f"{name}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    save(found, ROOT / "bench.json")
    missed = sum(row.target is not None and row.ratio < row.target for row in found)
    minutes = (time.monotonic() - started) / 60
    print(f"{os.cpu_count()} cores, {minutes:.0f} minutes, {missed} targets missed; every figure: bench.json")


if __name__ == "__main__":
    main()
