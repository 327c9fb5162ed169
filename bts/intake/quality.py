"""What a person should look at before a case from the scanner is trusted: rules, each with its bounds.

A warning is a sentence with the figure and what is usual.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

BRAIN_ML = 950.0, 1900.0  # with ventricles; adults' intracranial volume is about 1,150 to 1,750 ml
LEAST_OVERLAP = 0.85  # Dice with SRI24's brain after a rigid registration; real heads reach 0.9
LEAST_SIMILARITY = 1.04  # normalised mutual information with T1ce within the brain; independent images 1.0
LOST_SIMILARITY = 0.005  # by which registration may lower it
COVERED = 0.98  # of the brain must lie in each series' field of view
THICK_MM = 6.5  # between slices
COARSE_MM = 1.6  # within a slice
TURN_DEG = 25.0  # of one series against T1ce, within one examination
ATLAS_TURN_DEG = 45.0


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured of one series on the case's grid."""

    zooms: tuple[float, float, float]
    """Of the scanner's grid, mm."""
    covered: float
    """Share of the brain that lies in its field of view."""
    turn_deg: float
    """Against T1ce; of T1ce itself against the atlas."""
    before: float
    """Normalised mutual information with T1ce before registration, 0 of T1ce itself."""
    after: float


def warnings(series: Mapping[str, Measures], brain_ml: float | None, overlap: float | None) -> list[str]:
    """Sentences, worst kinds first; brain_ml and overlap None where there is no mask or no atlas."""
    return [
        *_of_brain(brain_ml, overlap),
        *(line for role, one in series.items() for line in _of_series(role, one)),
    ]


def of_names(others: Iterable[str]) -> list[str]:
    """Sentences about cases that were made of the same study before its Patient ID or date was corrected."""
    mend = "keep one, with its labelmap and what was delivered of it"
    return [f"its study is also case {other}, under another Patient ID or date: {mend}" for other in others]


def of_order(numbers: Mapping[str, int]) -> list[str]:
    """Sentences about when series were taken, by their numbers, which scanners count up."""
    t1, t1ce = numbers.get("t1", 0), numbers.get("t1ce", 0)
    if not 0 < t1ce < t1:
        return []
    return [f"t1 is series {t1}, taken after t1ce (series {t1ce}): it may show contrast agent too"]


def _of_brain(brain_ml: float | None, overlap: float | None) -> Iterator[str]:
    low, high = BRAIN_ML
    if brain_ml is not None and not low <= brain_ml <= high:
        yield f"the brain has {brain_ml:.0f} ml; {low:.0f} to {high:.0f} ml are usual"
    if overlap is not None and overlap < LEAST_OVERLAP:
        yield f"the brain overlaps the atlas's with a Dice of {overlap:.2f}; {LEAST_OVERLAP} is the least"


def _of_series(role: str, one: Measures) -> Iterator[str]:
    least = ATLAS_TURN_DEG if role == "t1ce" else TURN_DEG
    across, within = max(one.zooms), sorted(one.zooms)[1]
    if one.turn_deg > least:
        yield f"{role} is turned by {one.turn_deg:.0f}°; up to {least:.0f}° are usual"
    if one.after and one.after < LEAST_SIMILARITY:
        told = f"mutual information {one.after:.3f}; {LEAST_SIMILARITY} is the least"
        yield f"{role} is little like T1ce ({told})"
    if one.after and one.after < one.before - LOST_SIMILARITY:
        yield f"{role} fitted T1ce better before registration ({one.before:.3f}, now {one.after:.3f})"
    if one.covered < COVERED:
        yield f"{role} shows {one.covered:.0%} of the brain; the rest lies outside its field of view"
    if across > THICK_MM:
        yield f"{role} has a slice every {across:.1f} mm; up to {THICK_MM} mm are usual"
    if within > COARSE_MM:
        yield f"{role} has voxels of {within:.1f} mm within its slices; {COARSE_MM} mm are usual"
