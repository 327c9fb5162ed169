"""The rules of 2024 and 2026 against the figures of BraTS's own code, on pairs of labelmaps.

The figures are those of `python -m benchmarks.reference_scores`, of random pairs of labelmaps and of those of
../shared/golden; 2023 is compared in test_metrics.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from bts.images.nifti import read_nifti
from bts.scoring.metrics import measure
from bts.scoring.rules import RULES, Rules
from tests.conftest import ROOT
from tests.label_pairs import CHALLENGES, WRITTEN, digest, label_pair

FIGURES = {year: json.loads(Path(__file__).with_name(f"peer_{year}.json").read_text()) for year in CHALLENGES}
GOLDEN = ROOT.parent / "shared" / "golden"
OURS_WHERE_EMPTY = {"dice": 1.0, "nsd05": 1.0, "hd95": 0.0}  # the package gives none


@cache
def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The pair of a seed, which several challenges score; not to be changed."""
    return label_pair(seed)


def scores_of(rules: Rules, truth_XYZ: np.ndarray, prediction_XYZ: np.ndarray) -> dict[str, dict[str, float]]:
    sides = (np.ascontiguousarray(side.T) for side in (truth_XYZ, prediction_XYZ))
    return measure(*sides, rules.regions, rules.where_present, spacing=(1.0, 1.0, 1.0), rules=rules)


def compare(scores: dict[str, dict[str, float]], figures: dict[str, dict[str, list]], number: int) -> int:
    """How many figures of a pair, by its place in the file, are those of the peer; all must be."""
    compared = 0
    for region, of in scores.items():
        for metric, values in figures[region].items():
            ours, theirs = of.get(metric), values[number]
            if theirs is None and metric in OURS_WHERE_EMPTY:
                assert ours == OURS_WHERE_EMPTY[metric]
            elif theirs is None:
                assert ours is None, (number, region, metric)
            else:
                assert ours == pytest.approx(theirs, abs=1e-6), (number, region, metric)
                compared += 1
    return compared


@pytest.mark.slow
@pytest.mark.parametrize(("year", "challenge"), [(y, c) for y, of in CHALLENGES.items() for c in of])
def test_agrees_with_the_challenges_own_code(year, challenge):
    rules, compared = RULES[year][challenge], 0
    for seed in range(CHALLENGES[year][challenge]):
        pair = drawn(seed)
        assert digest(*pair) == FIGURES[year]["pairs"][seed], "drawn otherwise than for the peer"
        if challenge in WRITTEN:
            pair = tuple(np.where(side == 4, 0, side).astype(np.uint8) for side in pair)
        compared += compare(scores_of(rules, *pair), FIGURES[year][challenge], seed)
    assert compared >= 5 * CHALLENGES[year][challenge]


@pytest.mark.slow
@pytest.mark.skipif(not GOLDEN.exists(), reason="../shared/golden is absent")
@pytest.mark.parametrize("year", [year for year, of in FIGURES.items() if "golden" in of])
def test_agrees_on_real_labelmaps(year):
    figures = FIGURES[year]["golden"]
    for number, name in enumerate(figures["pairs"]):
        truth, prediction = (
            read_nifti((GOLDEN / f"{stem}.nii.gz").read_bytes(), stem).voxels.astype(np.uint8)
            for stem in (f"{name.rpartition('-')[0]}-truth", name)
        )
        assert compare(scores_of(RULES[year]["gli"], truth.T, prediction.T), figures, number) > 20
