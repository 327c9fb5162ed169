"""What the benchmarks work on: real cases of ../shared/data under as many names as wanted, or phantoms."""

import os
import re
import shutil
from pathlib import Path

from benchmarks.table import ROOT, python
from bts.phantom.case import write_case
from bts.storage import Store

DATA = ROOT.parent / "shared" / "data" / "brats"


def make_cases(place: Path, count: int) -> Path:
    """A folder of `count` full-size cases; beyond the originals they are links under other names."""
    folder = place / f"cases-{count}"
    if folder.exists():
        return folder
    originals = _originals(place / "originals")
    for n in range(count):
        case = originals[n % len(originals)]
        name = re.sub(r"\d{5}", f"{n:05d}", case.name, count=1)
        (folder / name).mkdir(parents=True)
        for file in case.iterdir():
            os.link(file, folder / name / file.name.replace(case.name, name))
    return folder


def _originals(place: Path) -> list[Path]:
    """Copies of the real cases (links must not leave the disk), or ten phantoms."""
    if not place.exists():
        real = [case for case in sorted(DATA.glob("*")) if re.search(r"\d{5}", case.name)]
        for case in real:
            shutil.copytree(case, place / case.name)
        for n in range(0 if real else 10):
            for key, data in write_case(0, n).items():
                Store(str(place)).put(key, data)
    return sorted(place.iterdir())


def make_shards(place: Path, count: int) -> Path:
    """The shards of `count` cases."""
    folder = place / f"shards-{count}"
    if not folder.exists():
        cases = make_cases(place, count)
        python("-m", "jobs.preprocess", "--cases", str(cases), "--shards", str(folder))
    return folder
