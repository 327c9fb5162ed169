"""What is unusual about a labelmap: reasons for a person to look at it before anybody trusts it.

A flag is one line, its kind before the colon: empty, edge, large, doubt, disagreement, input, missing,
background, place; and unsure, of bts.inference.confidence.
Axes: D z slices, H rows (y), W columns (x).
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from bts.cases.case import CaseVolume

LARGE = 0.5
"""Share of the brain from which on a tumour is unusual."""
DOUBTFUL_ML = 0.5
"""Enhancing tumour of which the presets' rules may make necrosis without a word."""
LEFT_OUT_ML = 2.0
"""Tumour, or core, in small pieces that may go without a word."""
AGREEMENT = 0.7
"""Dice of any tumour between two models of an ensemble below which they disagree; two readers of whole
tumours agree with 0.74 to 0.85 (Menze et al. 2015, doi:10.1109/TMI.2014.2377694)."""
Ranges = Mapping[str, Sequence[Sequence[float]]]
"""Modality → ((lowest, highest) of the 1st percentile, the same of the 99th) over training cases, both in
standard deviations from the mean, over the brain."""


def of_labels(labels_DHW: np.ndarray, volume: CaseVolume) -> list[str]:
    """Flags of a labelmap (uint8) on the volume's crop.

    `empty` alone where the images hold more than the brain: their edge is nothing special.
    """
    tumour = labels_DHW != 0
    if not tumour.any():
        return ["empty: no tumour found"]
    if not volume.traits.stripped:
        return []
    found = []
    sides = [end for axis, name in enumerate("zyx") for end in _touched(tumour, axis, name)]
    if sides:
        found.append(f"edge: the tumour touches the edge of the brain's box at {', '.join(sides)}")
    share = tumour.sum() / max(1, volume.brain.sum())
    if share > LARGE:
        found.append(f"large: the tumour is {share:.0%} of the brain")
    return found


def of_doubt(decoded_DHW: np.ndarray, labels_DHW: np.ndarray, volume: CaseVolume) -> list[str]:
    """Flags if much of the labels voxel by voxel is not in the labelmap: enhancing tumour, core, or any."""
    ml = float(np.prod(volume.grid.zooms)) / 1000
    called = ((decoded_DHW == 3) & (labels_DHW == 1)).sum() * ml
    lost = (np.isin(decoded_DHW, (1, 3)) & (labels_DHW == 2)).sum() * ml
    left_out = ((decoded_DHW != 0) & (labels_DHW == 0) & volume.brain).sum() * ml
    found = [f"doubt: {called:.1f} ml that may enhance are called necrosis"] if called >= DOUBTFUL_ML else []
    if lost >= LEFT_OUT_ML:
        found.append(f"doubt: {lost:.1f} ml of core in small pieces are called oedema")
    if left_out >= LEFT_OUT_ML:
        found.append(f"doubt: {left_out:.1f} ml of tumour in small pieces are left out")
    return found


def of_missing(volume: CaseVolume, wanted: Sequence[str]) -> list[str]:
    """A flag if the case lacks modalities that the network wants."""
    missing = [name for name in wanted if name not in volume.modalities]
    if not missing:
        return []
    return [f"missing: {', '.join(missing)} was not there; the network saw nothing in its place"]


def of_place(volume: CaseVolume) -> list[str]:
    """A flag if left and right of the images are a guess, or if two programs may see them differently."""
    if codes := volume.grid.contradicted:
        return [f"place: the header's sform says {volume.grid.orientation}, as it is read, its qform {codes}"]
    if not volume.grid.guessed:
        return []
    return [
        "place: the header tells no orientation (in NIfTI: qform and sform codes are 0); left and right are "
        "a guess"
    ]


def of_noise(volume: CaseVolume) -> list[str]:
    """A flag if there is noise around the head, which counts as brain."""
    if not volume.traits.stripped or not (noisy := volume.noisy):
        return []
    return [f"background: {', '.join(noisy)} has noise around the head; take off the skull, or set it to 0"]


def of_ensemble(members_DHW: Sequence[np.ndarray]) -> list[str]:
    """A flag if two of several models' labelmaps differ much in where there is any tumour."""
    tumours = [labels != 0 for labels in members_DHW]
    worst = min((_dice(a, b) for n, a in enumerate(tumours) for b in tumours[:n]), default=1.0)
    return [f"disagreement: two models' tumours overlap by Dice {worst:.2f}"] if worst < AGREEMENT else []


def of_input(volume: CaseVolume, known: Ranges) -> list[str]:
    """Flags of modalities whose extremes lie far outside those of the model's training cases."""
    found = []
    for modality, values in zip(volume.modalities, extremes(volume), strict=True):
        for name, value, (low, high) in zip(("1st", "99th"), values, known.get(modality, ()), strict=False):
            # As far again as training cases differ among themselves, and never less than half a deviation.
            margin = max(high - low, 0.5)
            if not low - margin <= value <= high + margin:
                away = f"{value:.1f} standard deviations from its mean"
                found.append(
                    f"input: the {name} percentile of {modality} lies {away}, not {low:.1f} to {high:.1f}"
                )
    return found


class Measured(Protocol):
    """A case or its shard: statistics of each modality over the brain, C values each."""

    @property
    def mean(self) -> Sequence[float] | np.ndarray: ...
    @property
    def std(self) -> Sequence[float] | np.ndarray: ...
    @property
    def p01(self) -> Sequence[float] | np.ndarray: ...
    @property
    def p99(self) -> Sequence[float] | np.ndarray: ...


def extremes(of: Measured) -> np.ndarray:
    """(C, 2): the 1st and 99th percentile of each modality, in standard deviations from its mean."""
    p01, p99, mean, std = (np.asarray(getattr(of, name)) for name in ("p01", "p99", "mean", "std"))
    return np.stack([(p01 - mean) / std, (p99 - mean) / std], axis=-1)


def ranges(modalities: Sequence[str], extremes_NC2: np.ndarray) -> dict[str, list[list[float]]]:
    """`Ranges` of N training cases, from the `extremes` of each."""
    low, high = extremes_NC2.min(axis=0), extremes_NC2.max(axis=0)
    ends = np.stack([low, high], axis=-1).round(4)
    return {modality: ends[channel].tolist() for channel, modality in enumerate(modalities)}


def _touched(tumour: np.ndarray, axis: int, name: str) -> list[str]:
    """Ends of an axis at which there is tumour."""
    ends = {"start": 0, "end": -1}
    return [f"the {end} of {name}" for end, place in ends.items() if tumour.take(place, axis).any()]


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    both = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / both if both else 1.0
