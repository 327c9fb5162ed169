"""bts.scoring.comparison and tables: folders of labelmaps compared, ranked, written and read back."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from bts.errors import UsageError
from bts.scoring import comparison, tables
from bts.scoring.comparison import compare, rank, table, write
from bts.scoring.metrics import METRICS
from bts.scoring.scores import Scored


def scored(name: str, dice: float, hd95: float = 1.0, error: float = 0.0, **more: object) -> Scored:
    of = dict.fromkeys(METRICS, dice) | {"hd95": hd95, "volume_error_ml": error}
    of |= {"lesion_dice": dice, "lesion_hd95": hd95}
    return Scored(name, "HGG", "brats2021", {region: dict(of) for region in ("WT", "TC", "ET")}, **more)


OURS = [scored(f"c{n}", 0.5 + n / 20, hd95=3, error=-2) for n in range(8)]
THEIRS = [scored(f"c{n}", 0.4 + n / 20, hd95=5, error=1) for n in range(1, 9)]


def test_over_the_cases_that_both_have():
    found = compare(OURS, THEIRS)
    dice = found["WT", "dice"]
    assert dice.n == 7 and dice.difference == pytest.approx(0.1) and dice.p == pytest.approx(2 / 2**7)
    assert dice.first == pytest.approx(np.mean([0.5 + n / 20 for n in range(1, 8)]))
    assert (found["ET", "hd95"].difference, found["ET", "hd95"].better) == (-2, 7)
    volume = found["WT", "volume_error_ml"]
    assert (volume.first, volume.second, volume.worse) == (2, 1, 7), "its size counts, not its sign"
    assert compare(OURS, [scored("other", 1)]) == {}


def test_a_region_that_one_folder_lacks_in_a_case_is_left_out():
    theirs = [*THEIRS[:-1], scored("c0", 0.1)]
    del theirs[-1].scores["ET"]
    found = compare(OURS, theirs)
    assert found["WT", "dice"].n == 8 and found["ET", "dice"].n == 7


def test_ranking_as_brats_does():
    """By lesion Dice and HD95 in each case and region: a is first in all, b and c share the rest."""
    folders = {
        "c": [scored("x", 0.4, 9), scored("y", 0.5, 9)],
        "b": [scored("x", 0.6, 8), scored("y", 0.5, 9), scored("z", 1, 0)],
        "a": [scored("x", 0.9, 1), scored("y", 0.9, 2)],
    }
    assert rank(folders) == {"a": 1, "b": 2.25, "c": 2.75} and list(rank(folders)) == ["a", "b", "c"]
    figshare = {n: [Scored("f", "", "figshare", {"tumour": {"dice": d}})] for n, d in (("a", 0.1), ("b", 1))}
    assert rank(figshare) == {"b": 1, "a": 2}
    assert all(np.isnan(place) for place in rank({"a": OURS, "b": []}).values())


def test_the_ranking_does_not_depend_on_the_order_of_the_folders():
    """By the rules of 2026 a case without any lesion has no score by lesion: it is ranked by Dice."""
    none, false = Scored("x", "", "", {"ET": {"dice": 1.0}}), Scored("x", "", "", {"ET": {"dice": 0.0}})
    false.scores["ET"] |= {"lesion_dice": 0.0, "lesion_hd95": 373.0}
    assert rank({"a": [none], "b": [false]}) == rank({"b": [false], "a": [none]}) == {"a": 1, "b": 2}


def test_table_and_csv_say_the_same():
    found = compare(OURS, THEIRS)
    text = table("ours", "theirs", found)
    (line,) = [line for line in text.splitlines() if line.split()[:2] == ["WT", "Dice"]]
    assert line.split()[2:] == ["7", "+0.1000", "+0.1000", "to", "+0.1000", "7/0", "0.016"]
    rows = list(csv.DictReader(io.StringIO(write("ours", {"=theirs": found}, {"ours": 1.5}).decode())))
    assert list(rows[0]) == ["folder", "against", "region", "metric", "statistic", "value"]
    values = {tuple(row.values())[2:5]: row["value"] for row in rows}
    assert float(values["WT", "dice", "p"]) == pytest.approx(2 / 2**7)
    assert rows[0]["against"] == "'=theirs" and values["", "", "mean_rank"] == "1.5"


def test_too_few_cases_are_said_to_be():
    found = compare(OURS[:3], THEIRS)
    assert all(line.endswith("too few") for line in table("a", "b", found).splitlines()[3:])
    rows = csv.DictReader(io.StringIO(write("a", {"b": found}, {}).decode()))
    assert {row["value"] for row in rows if row["statistic"] in ("p", "low", "high")} == {""}


def test_visits_of_one_patient_count_as_one_patient():
    ours, theirs = ([replace(one, patient=f"P{n // 4}") for n, one in enumerate(of)] for of in (OURS, THEIRS))
    found = compare(ours, theirs)["WT", "dice"]
    assert (found.n, found.better, found.test) == (7, 7, "too few") and np.isnan(found.low)


def test_scores_are_read_back_with_their_maker():
    made = [scored("=a", 0.5, patient="p1", maker="0123456789ab flips"), scored("b", 0.25)]
    assert tables.read(tables.write(made)["scores.parquet"], "here") == made
    for data in (b"no Parquet", tables.write(made)["scores.csv"], b""):
        with pytest.raises(UsageError, match=r"reports/x: no scores\.parquet of jobs\.evaluate"):
            tables.read(data, "reports/x")


def test_brats_csv_has_the_columns_of_the_online_evaluation():
    made = [scored("b", 0.75, 4), scored("a", 0.25, 2), Scored("f", "", "figshare", {"tumour": {"dice": 1}})]
    header, *rows = tables.write(made)["brats.csv"].decode().splitlines()
    assert header.split(",")[:5] == ["Label", "Dice_ET", "Dice_WT", "Dice_TC", "Sensitivity_ET"]
    assert header.split(",")[7:] == [
        f"{m}_{r}" for m in ("Specificity", "Hausdorff95") for r in ("ET", "WT", "TC")
    ]
    named = {row.split(",")[0]: row.split(",")[1:] for row in rows}
    assert list(named) == ["a", "b", "Mean", "StdDev", "Median", "25quantile", "75quantile"]
    assert named["a"] == ["0.25"] * 9 + ["2.0"] * 3 and named["Mean"] == ["0.5"] * 9 + ["3.0"] * 3
    assert float(named["StdDev"][0]) == pytest.approx(0.125**0.5)
    assert named["25quantile"][-1] == "2.5" and named["75quantile"][0] == "0.625"
    assert "brats.csv" not in tables.write(made[2:])


def test_regions_and_metrics_come_in_the_order_of_the_page():
    assert list(compare(OURS, THEIRS))[:2] == [("WT", "dice"), ("WT", "iou")]
    assert comparison.table("a", "b", {}).count("\n") == 2
