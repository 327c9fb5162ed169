"""The golden run: every command on a few cases, and a digest of each file that they leave.

    python -m tests.contracts.golden DIR --write golden.json       in the checkout of before
    python -m tests.contracts.golden DIR --against golden.json     in the one of after, on the same machine

Draws six phantoms, copies two real cases where ../shared/data has them, and runs preprocess, train (one epoch
under a seed), segment and evaluate. A change that should change nothing leaves equal bytes, but for dates,
durations and DIR itself, which are left out; weights, hence all losses, are equal to the bit. Exits with 1
and the files that differ otherwise. Three minutes on two cores.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REAL = ("BraTS2021_00000", "BraTS-SSA-00002-000")  # LPS and RAS
WRITTEN = 1_700_000_000  # seconds since 1970 of every case file: their dates are part of fingerprints
# Dates of files and of runs, durations, hashes of scripts that hold them.
VOLATILE = re.compile(
    r"""\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\+00:00|Z)?( UTC)?|\b1\d{9}\.\d+"""
    r"""|"seconds": (\{[^}]*\}|[\d.]+)|[0-9a-f]{64}"""
)
OURS = ("_runs/", "_scores/", "_checkpoints/")  # dates and digests of them are in their very names


def run(*words: object) -> None:
    """One command of this checkout. Its models shall not name the commit that made them."""
    with tempfile.TemporaryDirectory() as tracked:
        away = {"GIT_DIR": os.devnull, "MLFLOW_TRACKING_URI": f"sqlite:///{tracked}/mlflow.db"}
        environment = {**os.environ, **away, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
        command = [sys.executable, "-m", *map(str, words)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)


def make(place: Path) -> None:
    """Everything, in a fresh folder."""
    shutil.rmtree(place, ignore_errors=True)
    cases, shards, models = place / "cases", place / "shards", place / "models"
    run("jobs.phantom", "--cases", cases, "--count", 6, "--seed", 3, "--size", 56, 64, 40)
    real = ROOT.parent / "shared" / "data" / "brats"
    for name in REAL if real.is_dir() else ():
        shutil.copytree(real / name, cases / name)
    for path in cases.rglob("*"):
        os.chmod(path, 0o755 if path.is_dir() else 0o644)
        os.utime(path, (WRITTEN, WRITTEN))
    run("jobs.preprocess", "--cases", cases, "--shards", shards)
    small = ("--layers.widths", 4, 8, "--budget.epochs", 1, "--budget.minutes", "None", "--batch", 4)
    run("jobs.train", "fast", *small, "--shards", shards, "--models", models)
    model = models / "fast.safetensors"
    where = ("--cases", cases, "--labelmaps", place / "labelmaps")
    run("jobs.segment", *where, "--model", model, "--probabilities")
    for path in (place / "labelmaps").rglob("*"):  # labelmaps' dates are part of their scores' fingerprints
        os.utime(path, (WRITTEN, WRITTEN))
    run("jobs.evaluate", *where, "--report", place / "report")


def digests(place: Path) -> dict[str, str]:
    """Key → blake2b of what does not change from one run to the next."""
    found = {}
    for path in sorted(place.rglob("*")):
        key = str(path.relative_to(place))
        if path.is_file() and not any(ours in key for ours in OURS):
            found[key] = hashlib.blake2b(steady(path, place), digest_size=12).hexdigest()
    return found


def steady(path: Path, place: Path) -> bytes:
    """The file without dates, durations and the place where it lies."""
    data = path.read_bytes()
    if path.suffix not in (".json", ".html", ".csv", ".txt"):
        return data
    return VOLATILE.sub("", data.decode().replace(str(place), "DIR")).encode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("place", type=lambda text: Path(text).resolve())
    parser.add_argument("--write", type=Path)
    parser.add_argument("--against", type=Path)
    asked = parser.parse_args()
    make(asked.place)
    found = digests(asked.place)
    if asked.write:
        asked.write.write_text(json.dumps(found, indent=1) + "\n")
    before = json.loads(asked.against.read_text()) if asked.against else found
    differ = [key for key in sorted({*found, *before}) if found.get(key) != before.get(key)]
    for key in differ:
        print(f"differs: {key}")
    print(f"{len(found)} files, {len(differ)} differ")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main())
