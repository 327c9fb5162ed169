"""What the scores of many cases say: by region, group, and in the terminal's table."""

from dataclasses import replace

import numpy as np
import pytest

from bts.labels import REGIONS
from bts.scoring import metrics, scores
from bts.scoring.scores import Scored


def scored(case_id: str, dice: float, **more: float) -> Scored:
    """A case with that Dice in WT, TC and ET, and in `more` regions another."""
    found = {region: dict.fromkeys(metrics.METRICS, dice) for region in REGIONS}
    found |= {region: dict.fromkeys(metrics.METRICS, value) for region, value in more.items()}
    return Scored(case_id, "", "brats2021", found)


def test_a_summary_is_of_the_cases_that_have_the_region_and_the_metric():
    some = [scored("A", 0.5), scored("B", 0.7), scored("C", 0.9, RC=0.25)]
    assert scores.summarise(some, "WT", "dice") == pytest.approx(
        {"n": 3, "mean": 0.7, "std": 0.2, "median": 0.7, "q25": 0.6, "q75": 0.8}
    )
    assert scores.summarise(some, "RC", "dice")["mean"] == 0.25
    assert scores.summarise(some, "WT", "hd95")["n"] == 0
    assert scores.regions_of(some) == ["WT", "TC", "ET", "RC"]
    assert scores.means(some, ["dice"])["dice/WT"] == pytest.approx(0.7)


def test_groups_are_those_of_which_there_are_two():
    def tumour(group: str, dice: float) -> Scored:
        return Scored(f"{group} {dice}", group, "figshare", {"tumour": dict.fromkeys(metrics.METRICS, dice)})

    one, two = [tumour("glioma", 0.5), tumour("glioma", 0.7)], [tumour("pituitary", 0.25)]
    assert scores.groups_of(one) == {} and scores.groups_of(two + one) == {"glioma": one, "pituitary": two}
    assert scores.regions_of(one) == ["tumour"]


def test_the_table_has_an_interval_from_six_patients_on():
    six = [scored(f"C{n}", 0.5 + n / 10) for n in range(6)]
    low, high = scores.interval(six, "WT", "dice")
    assert 0.5 < low < 0.75 < high < 1
    assert f"{0.75:10.4f}{0.75:10.4f}{6:7}   0.1871    {low:.4f}–{high:.4f}" in scores.table(six)
    visits = [replace(one, patient=f"P{n % 5}") for n, one in enumerate(six)]
    assert np.isnan(scores.interval(visits, "WT", "dice")).all(), "six cases, but five patients"
    assert "–" in scores.table(six[:1]) and "nan" not in scores.table(six[:1])
