"""`make bench`: every benchmark in turn, one table of ratios, and bench.json with every figure.

`python -m benchmarks.run [NAME …] [--place DIR]`: only these; DIR keeps the cases, shards and model.
"""

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

from benchmarks import (
    busy,
    feeding,
    network,
    peak,
    planning,
    preprocess,
    scale,
    scores,
    segment,
    starts,
    training,
)
from benchmarks.table import HEADER, ROOT, Row, machine, save

ALL = {
    "starts": starts,
    "preprocess": preprocess,
    "feeding": feeding,
    "training": training,
    "segment": segment,
    "scores": scores,
    "network": network,
    "peak": peak,
    "busy": busy,
    "driver": scale,
    "planning": planning,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(ALL))
    parser.add_argument("--place", type=Path)
    given = parser.parse_args()
    if unknown := set(given.names) - ALL.keys():
        parser.error(f"no benchmark {' '.join(sorted(unknown))}; there are {' '.join(ALL)}")
    started = time.monotonic()
    found: list[Row] = []
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        place = (given.place or Path(folder)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        print(HEADER, flush=True)
        for name in given.names or ALL:
            began = time.monotonic()
            try:
                for row in ALL[name].rows(place):
                    found.append(row)
                    print(row.line(), flush=True)
            except (Exception, SystemExit) as error:  # the others are measured all the same
                traceback.print_exc()
                broken.append(f"{name} failed: {error}")
            print(f"{name}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    save(found, ROOT / "bench.json")
    missed = [row for row in found if row.missed]
    for row in missed:
        print(f"missed by {row.missed:.0%}: {row.what} / {row.against}; binds: {row.binds or 'not known'}")
    minutes = (time.monotonic() - started) / 60
    print(machine())
    print(f"{minutes:.0f} minutes, {len(missed)} targets missed; every figure: bench.json")
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main()
