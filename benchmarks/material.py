"""What the benchmarks work on: real cases of ../shared/data under as many names as wanted, or phantoms."""

import os
import re
import shutil
from pathlib import Path

from benchmarks.table import ROOT, python
from bts.phantom.case import SIZE, write_case
from bts.storage import Store

PHANTOMS = 10
DATA = ROOT.parent / "shared" / "data" / "brats"


def make_cases(place: Path, count: int) -> Path:
    """A folder of `count` full-size cases; beyond the originals they are links under other names."""
    folder = place / f"cases-{count}"
    if not folder.exists():
        _copies(_originals(place / "originals"), count, folder)
    return folder


def make_phantoms(place: Path, count: int, size: tuple[int, int, int]) -> Path:
    """A folder of `count` phantoms of so many voxels; ten are drawn, the others are links to them."""
    drawn, folder = place / "phantoms", place / f"phantoms-{count}"
    for n in range(PHANTOMS):
        _draw(drawn, n, size)
    _copies(sorted(drawn.iterdir()), count, folder)
    return folder


def _copies(originals: list[Path], count: int, folder: Path) -> None:
    """`count` cases of these files under names of their own."""
    for n in range(count):
        case = originals[n % len(originals)]
        name = re.sub(r"\d{5}", f"{n:05d}", case.name, count=1)
        (folder / name).mkdir(parents=True)
        for file in case.iterdir():
            os.link(file, folder / name / file.name.replace(case.name, name))


def _originals(place: Path) -> list[Path]:
    """Copies of the real cases (links must not leave the disk), or ten phantoms."""
    if not place.exists():
        real = [case for case in sorted(DATA.glob("*")) if re.search(r"\d{5}", case.name)]
        for case in real:
            shutil.copytree(case, place / case.name)
        for n in range(0 if real else PHANTOMS):
            _draw(place, n, SIZE)
    return sorted(place.iterdir())


def _draw(folder: Path, index: int, size: tuple[int, int, int]) -> None:
    for key, data in write_case(0, index, size).items():
        Store(str(folder)).put(key, data)


def make_shards(place: Path, count: int) -> Path:
    """The shards of `count` cases."""
    folder = place / f"shards-{count}"
    if not folder.exists():
        cases = make_cases(place, count)
        python("-m", "jobs.preprocess", "--cases", str(cases), "--shards", str(folder))
    return folder
