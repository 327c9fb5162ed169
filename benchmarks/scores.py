"""How long does scoring a case take? `python -m benchmarks.scores [--peer PYTHON]`, on ../shared/golden.

By the rules of 2023 the challenge's own code took 9.1 s a case there (../shared/golden/README.md), by those
of 2026 its package brats-evaluation 3.2 s, reading included. PYTHON, or $BRATS_EVALUATION, is that of an
environment with the package: then it is measured here.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.table import ROOT, Row
from bts.images.nifti import read_nifti
from bts.scoring.metrics import measure
from bts.scoring.rules import Rules, rules_of

GOLDEN = ROOT.parent / "shared" / "golden"
PEER = ROOT / "benchmarks" / "peers" / "brats_scores.py"
STATED = {"2023": 9.1, "2026": 3.2}  # s a case
TARGETS = {"2023": 20, "2026": 9}


def golden_pairs() -> list[tuple[str, str]]:
    """(truth, prediction) by file name."""
    rows = json.loads((GOLDEN / "brats2023_official.json").read_text())
    return sorted({(row["truth"], row["prediction"]) for row in rows})


def link_golden(place: Path, only: str = "") -> None:
    """The pairs whose names start so, as a peer wants them, scored as glioma."""
    for pair in golden_pairs():
        if not pair[1].startswith(only):
            continue
        folder = place / "gli" / pair[1].removesuffix(".nii.gz")
        folder.mkdir(parents=True)
        for side, name in zip(("truth", "prediction"), pair, strict=True):
            (folder / f"{side}.nii.gz").symlink_to(GOLDEN / name)


def read(name: str) -> np.ndarray:
    return read_nifti((GOLDEN / name).read_bytes(), name).voxels.astype(np.uint8)


def rows(place: Path) -> Iterator[Row]:
    if not GOLDEN.exists():
        return
    for year, stated in STATED.items():
        ours, theirs, against = float(np.mean(seconds(year))), stated, "its own code (stated)"
        if year == "2026" and (python := os.environ.get("BRATS_EVALUATION")):
            theirs, against = peer_seconds(python), "brats-evaluation"
        yield Row(
            what=f"scores of the challenge, {year}",
            unit="s/case",
            ours=[ours],
            against=against,
            theirs=[theirs],
            target=TARGETS[year],
        )


def seconds(year: str) -> list[float]:
    """Of each pair, by the rules of glioma."""
    rules = rules_of("brats-gli", year)
    return [_time(pair, rules) for pair in golden_pairs()]


def _time(pair: tuple[str, str], rules: Rules) -> float:
    started = time.perf_counter()
    truth, prediction = map(read, pair)
    measure(truth, prediction, rules.regions, rules.where_present, spacing=(1.0, 1.0, 1.0), rules=rules)
    return time.perf_counter() - started


def peer_seconds(python: str) -> float:
    """Mean of brats-evaluation on the same pairs."""
    with tempfile.TemporaryDirectory() as folder:
        link_golden(Path(folder))
        command = [python, str(PEER), "2026", folder]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return float(np.mean([pair["seconds"] for pair in found["gli"].values()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON", default=os.environ.get("BRATS_EVALUATION"))
    given = parser.parse_args()
    theirs = dict(STATED)
    if given.peer:
        theirs["2026"] = peer_seconds(given.peer)
    for year, peer in theirs.items():
        took = seconds(year)
        mean = float(np.mean(took))
        times = f"mean {mean:.3f} s, longest {max(took):.3f} s"
        print(f"{year}, {len(took)} cases: {times}; {peer / mean:.0f} times as fast as {peer:.1f} s")


if __name__ == "__main__":
    main()
