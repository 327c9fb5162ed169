"""Headers → series, each with its geometry, or with the reason why it is no volume.

Positions and directions are DICOM's: mm in LPS+.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from bts.images.checks import MAX_BYTES
from bts.intake.headers import Header

LEAST_SLICES, MOST_SLICES = 8, 2048
MOST_VOXELS = MAX_BYTES // 2  # of 16 bits, in one volume
UNEVEN = 0.05  # of the median gap between slices: beyond, some are missing
TILT_MM = 1.0  # by which the last slice may be shifted within its plane
TURN = 1e-3  # by which directions within a series may differ


@dataclass(frozen=True, slots=True)
class Series:
    """One DICOM series, its files in the order of their places."""

    study: str
    uid: str
    number: int
    what: str
    files: tuple[Header, ...]
    problem: str = ""
    """Why it is no volume; empty if it is one."""
    zooms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """mm from column to column, row to row, slice to slice."""
    plane: str = ""

    @property
    def slices(self) -> int:
        return sum(len(file.positions) // 3 for file in self.files)

    def describe(self) -> str:
        """For a message: numbers and UIDs alone, for a description may hold names."""
        zooms = "×".join(f"{mm:.3g}" for mm in self.zooms)
        shape = f"{self.slices} slices" + (f", {self.plane}, {zooms} mm" if self.plane else "")
        trouble = f": {self.problem}" if self.problem else ""
        return f"series {self.number} ({self.what}, {shape}, {self.uid}){trouble}"


def group(headers: Iterable[Header]) -> dict[str, list[Series]]:
    """Study Instance UID → its series, by number."""
    studies: dict[str, dict[str, list[Header]]] = {}
    for header in headers:
        studies.setdefault(header.study, {}).setdefault(header.series, []).append(header)
    return {
        study: sorted((make_series(files) for files in series.values()), key=lambda s: (s.number, s.uid))
        for study, series in sorted(studies.items())
    }


def make_series(headers: list[Header]) -> Series:
    """The files of one Series Instance UID as a Series, with a problem where they are no volume."""
    first = min(headers, key=lambda header: header.instance)
    kinds = sorted({header.what for header in headers})
    what = kinds[0] if len(kinds) == 1 else "mixed: " + ", ".join(kinds)
    series = Series(first.study, first.series, first.number, what, tuple(sorted(headers, key=_name)))
    if problem := _unlike(headers, kinds):
        return replace(series, problem=problem)
    across = np.cross(first.directions[:3], first.directions[3:])
    ordered = sorted(headers, key=lambda header: (float(np.dot(header.positions[:3], across)), _name(header)))
    places = np.array([header.positions for header in ordered]).reshape(-1, 3)
    if len(ordered) == 1:
        places = places[np.argsort(places @ across, kind="stable")]
    problem, gap = _stack(places, across)
    plane = ("sagittal", "coronal", "axial")[int(np.abs(across).argmax())]
    across_mm, down_mm = first.zooms
    zooms = (across_mm, down_mm, gap)
    return replace(series, files=tuple(ordered), problem=problem, zooms=zooms, plane=plane)


def _name(header: Header) -> str:
    return header.instance


def _unlike(headers: list[Header], kinds: list[str]) -> str:
    """Why these files are no one stack of slices; empty if they are."""
    first = headers[0]
    slices = max(len(headers), sum(len(header.positions) // 3 for header in headers))
    if slices > MOST_SLICES:
        return f"at most {MOST_SLICES:,} slices are one volume"
    if slices * max(header.rows * header.columns for header in headers) > MOST_VOXELS:
        return f"slices of {first.rows:,}×{first.columns:,} would fill more than {MAX_BYTES >> 30} GiB"
    if len(kinds) > 1:
        return f"it mixes images of several kinds: {', '.join(kinds)}"
    if len({header.instance for header in headers}) < len(headers):
        return "files are there twice (the same SOP Instance UID)"
    if any(header.enhanced for header in headers) and len(headers) > 1:
        return "it consists of several multi-frame files"
    if any(len(h.directions) != 6 or len(h.zooms) != 2 or not h.positions for h in headers):
        return "slices do not tell where they lie (Image Position or Orientation Patient, Pixel Spacing)"
    if len({(header.rows, header.columns) for header in headers}) > 1:
        return "slices are of different sizes"
    if len({round(header.te, 1) for header in headers}) > 1:
        return "it mixes several echo times"
    spread = np.ptp(np.array([header.zooms for header in headers]), axis=0).max()
    if spread > 1e-3 * max(first.zooms):
        return "slices have different pixel spacings"
    if np.ptp(np.array([header.directions for header in headers]), axis=0).max() > TURN:
        return "slices are turned against each other"
    return ""


def _stack(places: np.ndarray, across: np.ndarray) -> tuple[str, float]:
    """(why positions (N, 3), in order, are no even stack; mm from slice to slice)."""
    if len(places) < LEAST_SLICES:
        return f"{len(places)} slices; {LEAST_SLICES} are needed", 0.0
    heights = places @ across
    gaps = np.diff(heights)
    if np.ptp(heights) < 1e-3:
        return "all slices say that they lie at the same place (Image Position Patient)", 0.0
    if (gaps < 1e-3).any():
        return "several slices lie at the same place: more than one volume", 0.0
    gap = float(np.median(gaps))
    if np.abs(gaps - gap).max() > max(UNEVEN * gap, 0.02):
        missing = round(float(np.ptp(heights)) / gap) + 1 - len(places)
        return f"its slices are not evenly spaced ({max(missing, 1)} seem to be missing)", gap
    drift = places[-1] - places[0]
    aside = drift - across * (drift @ across)
    if np.linalg.norm(aside) > TILT_MM:
        return f"its stack is slanted by {np.linalg.norm(aside):.1f} mm (gantry tilt)", gap
    return "", gap
