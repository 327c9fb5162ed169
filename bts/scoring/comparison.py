"""Several folders of labelmaps of the same cases: the first against each other one, and a ranking of all."""

from collections.abc import Mapping, Sequence

import numpy as np

from bts.scoring import statistics, tables
from bts.scoring.metrics import LOWER_IS_BETTER
from bts.scoring.scores import BRIEF, TITLES, Scored, regions_of
from bts.scoring.statistics import Paired

RANKED = ("lesion_dice", "lesion_hd95")  # by which BraTS ranked in 2023
COLUMNS = ("folder", "against", "region", "metric", "statistic", "value")
STATISTICS = ("n", "first", "second", "difference", "low", "high", "better", "worse", "p")
Comparison = Mapping[tuple[str, str], Paired]
"""(region, metric) → two folders over the cases that both have."""


def compare(first: Sequence[Scored], second: Sequence[Scored]) -> Comparison:
    """Every region and metric that both have in some case."""
    theirs = {one.case_id: one.scores for one in second}
    pairs: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
    for one in first:
        for region, of in one.scores.items():
            for metric in of.keys() & theirs.get(one.case_id, {}).get(region, {}).keys():
                value = of[metric], theirs[one.case_id][region][metric], one.same_patient
                pairs.setdefault((region, metric), []).append(value)
    return {
        (region, metric): compare_metric(metric, *zip(*pairs[region, metric], strict=True))
        for region in regions_of(first)
        for metric in TITLES
        if (region, metric) in pairs
    }


def compare_metric(
    metric: str, first: Sequence[float], second: Sequence[float], patients: Sequence[str] = ()
) -> Paired:
    """One metric, case by case in the same order. patients: of the cases; empty: each is of its own."""
    # A volume error alone has a sign, and its size is what counts.
    sizes = np.abs(first), np.abs(second)
    return statistics.compare(*sizes, patients, lower_is_better=metric in LOWER_IS_BETTER)


def rank(scored: Mapping[str, Sequence[Scored]]) -> dict[str, float]:
    """Folder → mean rank over the cases and regions that all have, the best first; NaN if there is none.

    By the Dice and HD95 of lesions, or by Dice alone where one has none (figshare; no lesion in 2026).
    """
    folders = [{one.case_id: one.scores for one in of} for of in scored.values()]
    columns, lower = [], []
    for case_id in sorted(set.intersection(*map(set, folders))):
        for region in folders[0][case_id]:
            known = [of[case_id].get(region, {}) for of in folders]
            for metric in RANKED if all("lesion_dice" in of for of in known) else ("dice",):
                if all(metric in of for of in known):
                    columns.append([of[metric] for of in known])
                    lower.append(metric in LOWER_IS_BETTER)
    ranks = statistics.mean_ranks(np.array(columns).reshape(-1, len(folders)).T, lower)
    return dict(sorted(zip(scored, ranks.tolist(), strict=True), key=lambda of: of[1]))


def write(ours: str, comparisons: Mapping[str, Comparison], ranking: Mapping[str, float]) -> bytes:
    """comparison.csv, long form. `first` and `second` are the means of `folder` and `against`."""
    rows = [
        (ours, other, region, metric, name, getattr(of, name))
        for other, comparison in comparisons.items()
        for (region, metric), of in comparison.items()
        for name in STATISTICS
    ]
    rows += [(name, "", "", "", "mean_rank", place) for name, place in ranking.items()]
    return tables.write_csv(COLUMNS, rows)


def table(ours: str, other: str, comparison: Comparison) -> str:
    """Dice and the metrics of the summary, region by region, for the terminal."""
    titles = {"dice": "Dice", **BRIEF}
    lines = [
        f"\n{ours} against {other}, over the cases that both have; difference: {ours} − {other}",
        f"{'region':12}{'metric':13}{'n':>5}{'difference':>12}{'95 % interval':>21}{'better/worse':>14}"
        f"{'p':>15}",
    ]
    for (region, metric), of in comparison.items():
        if metric in titles:
            between = "–" if np.isnan(of.low) else f"{of.low:+.4f} to {of.high:+.4f}"
            line = f"{region:12}{titles[metric]:13}{of.n:5}{of.difference:+12.4f}{between:>21}"
            lines.append(f"{line}{f'{of.better}/{of.worse}':>14}{of.test:>15}")
    return "\n".join(lines)
