"""What the scores of many cases say together: their spread, how sure their mean is, which model is better.

Pure functions on arrays. Resampling is seeded: equal scores give equal figures. Cases of one patient (visits)
are alike and count as one where something is inferred: patients_N names the patient of each of N values;
empty: each is of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # scipy.stats is imported where it is used first: half of a second

FEWEST = 6
"""Patients below which nothing is tested: of five, Wilcoxon's p is never below 0.0625, and an interval from
resamples of so few is far too narrow."""
RESAMPLES = 2000  # enough for percentiles (Efron and Tibshirani 1993)
LEVEL = 0.95
DRAWN = 4_000_000  # indices in memory at once, 32 MB


def describe(values_N: np.ndarray) -> dict[str, float]:
    """n, mean, sample standard deviation (std; NaN for one value), median and quartiles (q25, q75).

    All but n are NaN where there are no values.
    """
    if not values_N.size:
        return {"n": 0, **dict.fromkeys(("mean", "std", "median", "q25", "q75"), np.nan)}
    std = values_N.std(ddof=1) if values_N.size > 1 else np.nan
    q25, median, q75 = np.quantile(values_N, (0.25, 0.5, 0.75))
    return {"n": values_N.size, "mean": values_N.mean(), "std": std, "median": median, "q25": q25, "q75": q75}


def mean_interval(values_N: np.ndarray, patients_N: Sequence[str] = ()) -> tuple[float, float]:
    """Bootstrap 95 % interval of the mean, by percentiles, of drawn patients; NaN for fewer than 6."""
    sums, counts = _by_patient(values_N, patients_N)
    if sums.size < FEWEST:
        return np.nan, np.nan
    rng, means, n = np.random.default_rng(0), [], sums.size
    at_once = max(1, DRAWN // n)
    for start in range(0, RESAMPLES, at_once):
        drawn = rng.integers(0, n, (min(at_once, RESAMPLES - start), n))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Paired:
    """Two models on the same cases."""

    n: int
    first: float
    """Mean score of the first."""
    second: float
    low: float
    """95 % interval of the mean difference; NaN for fewer than 6 patients."""
    high: float
    better: int
    """Cases in which the first is better."""
    worse: int
    p: float
    """Of Wilcoxon's signed-rank test, two-sided, on the patients' mean differences; NaN for fewer than 6
    patients, 1 without any difference."""

    @property
    def difference(self) -> float:
        """Mean of first − second; which sign is the better one depends on the metric."""
        return self.first - self.second

    @property
    def test(self) -> str:
        """The p value for a reader, or why there is none."""
        if np.isnan(self.p):
            return "too few"
        return f"{self.p:.2g}" if self.better + self.worse else "no difference"


def compare(
    first_N: np.ndarray,
    second_N: np.ndarray,
    patients_N: Sequence[str] = (),
    *,
    lower_is_better: bool = False,
) -> Paired:
    """Scores of two models, case by case in the same order. Raises ValueError for unequal lengths."""
    if first_N.shape != second_N.shape:
        raise ValueError(f"{first_N.size} scores of the first model, {second_N.size} of the second")
    differences = np.round(first_N - second_N, 12)  # or equal differences would rank by their rounding
    low, high = mean_interval(differences, patients_N)
    sums, counts = _by_patient(differences, patients_N)
    gains = -differences if lower_is_better else differences
    return Paired(
        n=differences.size,
        first=float(describe(first_N)["mean"]),
        second=float(describe(second_N)["mean"]),
        low=low,
        high=high,
        better=int((gains > 0).sum()),
        worse=int((gains < 0).sum()),
        p=_wilcoxon(np.round(sums / counts, 12)),
    )


def mean_ranks(scores_KM: np.ndarray, lower_is_better_M: Sequence[bool]) -> np.ndarray:
    """Mean rank (K,) of K models over M measurements, each a case, region and metric; 1 is the best.

    Equal scores share the mean of their ranks. NaN without any measurement.
    """
    if not scores_KM.shape[1]:
        return np.full(len(scores_KM), np.nan)
    return scipy.stats.rankdata(np.where(lower_is_better_M, scores_KM, -scores_KM), axis=0).mean(axis=1)


def _by_patient(values_N: np.ndarray, patients_N: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(sum of the values, how many) of each patient, in the order in which they come."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(patients_N))}
    own = [numbers[name] for name in patients_N] if numbers else range(values_N.size)
    return np.bincount(own, values_N), np.bincount(own)


def _wilcoxon(differences_N: np.ndarray) -> float:
    """Exact up to 50 patients, up to 13 where differences tie; those without a difference say nothing."""
    if differences_N.size < FEWEST:
        return np.nan
    told = differences_N[differences_N != 0]
    return float(scipy.stats.wilcoxon(told).pvalue) if told.size else 1.0
