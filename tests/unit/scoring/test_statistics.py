"""Figures that a reader can check by hand, and what must hold for any scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bts.scoring import statistics
from bts.scoring.statistics import FEWEST, compare, describe, mean_interval, mean_ranks

DICE = st.integers(0, 1000).map(lambda n: n / 1000)
SCORES = st.integers(FEWEST, 30).flatmap(lambda n: arrays(float, (2, n), elements=DICE))


def test_describe_by_hand():
    assert describe(np.array([0.5, 0.7, 0.9])) == pytest.approx(
        {"n": 3, "mean": 0.7, "std": 0.2, "median": 0.7, "q25": 0.6, "q75": 0.8}
    )
    one, none = describe(np.array([0.5])), describe(np.array([]))
    assert one["mean"] == 0.5 and np.isnan(one["std"])
    assert none["n"] == 0 and np.isnan(none["mean"])


def test_the_interval_is_that_of_the_mean():
    """Of 400 normal values it is the textbook's mean ± 1.96 standard errors."""
    values = np.random.default_rng(1).normal(0.8, 0.1, 400)
    error = 1.96 * values.std(ddof=1) / 20
    expected = (values.mean() - error, values.mean() + error)
    assert mean_interval(values) == pytest.approx(expected, abs=0.1 * error)
    assert mean_interval(values) == mean_interval(values), "seeded"
    assert mean_interval(np.full(6, 0.25)) == (0.25, 0.25)


def test_visits_of_a_patient_are_drawn_together():
    """Ten visits each that are alike say as much as one: the interval and p are those of the patients."""
    rng = np.random.default_rng(4)
    first, second = rng.beta(8, 2, (2, 12))
    visits, patients = (
        [np.repeat(values, 10) for values in (first, second)],
        np.repeat(list("abcdefghijkl"), 10),
    )
    assert mean_interval(visits[0], patients) == pytest.approx(mean_interval(first))
    one, ten = compare(first, second), compare(*visits, patients)
    assert (ten.low, ten.high, ten.p) == pytest.approx((one.low, one.high, one.p)) and ten.n == 120
    assert ten.p > 10 * compare(*visits).p, "as if each visit were a patient"
    few = compare(*visits, np.repeat(list("abcde"), 24))
    assert few.test == "too few" and np.isnan([few.low, few.high]).all()
    assert mean_interval(first, list("abcdefghijkl")) == mean_interval(first)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(2)
    intervals = [mean_interval(rng.beta(8, 2, 40)) for _ in range(300)]
    assert 0.90 <= np.mean([low <= 0.8 <= high for low, high in intervals]) <= 0.98


def test_many_cases_need_little_memory(monkeypatch):
    values = np.random.default_rng(3).random(100)
    at_once = mean_interval(values)
    monkeypatch.setattr(statistics, "DRAWN", 1000)
    assert mean_interval(values) == pytest.approx(at_once)


@given(SCORES, DICE)
def test_a_shift_shifts_the_interval(scores, shift):
    low, high = mean_interval(scores[0])
    assert mean_interval(scores[0] + shift) == pytest.approx((low + shift, high + shift), abs=1e-9)
    assert scores[0].min() <= low + 1e-9 and low <= high and high <= scores[0].max() + 1e-9


def test_wilcoxon_by_hand():
    """Six better cases of six: of the 2⁶ signs two are as extreme, p = 2 / 64. One of them worse, by the
    least: 4 / 64."""
    second, gains = np.full(6, 0.5), np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    all_better = compare(second + gains, second)
    assert all_better.p == pytest.approx(2 / 64) and (all_better.better, all_better.worse) == (6, 0)
    assert all_better.difference == pytest.approx(0.035) and all_better.low > 0
    gains[0] *= -1
    one_worse = compare(second + gains, second)
    assert one_worse.p == pytest.approx(4 / 64) and (one_worse.better, one_worse.worse) == (5, 1)
    assert one_worse.test == "0.062"


def test_lower_is_better_for_distances():
    near, far = np.arange(1.0, 8), np.arange(2.0, 9)
    paired = compare(near, far, lower_is_better=True)
    assert (paired.better, paired.worse, paired.difference) == (7, 0, -1)


def test_cases_without_a_difference_say_nothing():
    same = compare(np.linspace(0, 1, 8), np.linspace(0, 1, 8))
    assert (same.p, same.test, same.low, same.high) == (1, "no difference", 0, 0)
    # Equal scores in two cases leave six: the same p as without them.
    assert compare(np.array([0.0, 0, 1, 2, 3, 4, 5, 6]), np.zeros(8)).p == pytest.approx(2 / 64)
    assert compare(np.array([0.0, 0, 0, 0, 0, 0, 0, 1]), np.zeros(8)).p == 1


def test_too_few_cases_are_not_tested():
    few = compare(np.ones(5), np.zeros(5))
    assert few.test == "too few" and np.isnan([few.p, few.low, few.high]).all() and few.difference == 1
    assert compare(np.array([]), np.array([])).n == 0
    with pytest.raises(ValueError, match="3 scores of the first model, 2 of the second"):
        compare(np.ones(3), np.ones(2))


@settings(max_examples=30)
@given(SCORES)
def test_the_other_way_round_is_the_opposite(scores):
    one, other = compare(*scores), compare(*scores[::-1])
    assert (one.n, one.better, one.worse) == (other.n, other.worse, other.better)
    assert one.p == pytest.approx(other.p) and 0 <= one.p <= 1
    assert (one.difference, one.low, one.high) == pytest.approx(
        (-other.difference, -other.high, -other.low), abs=1e-9
    )


@settings(max_examples=30)
@given(SCORES, DICE)
def test_a_shift_of_both_changes_no_verdict(scores, shift):
    one, shifted = compare(*scores), compare(*(scores + shift))
    assert (one.p, one.low, one.high) == pytest.approx((shifted.p, shifted.low, shifted.high), abs=1e-9)


def test_ranks_by_hand():
    """Two measurements of Dice, one of HD95: a has ranks 1, 1.5, 2; b 2, 1.5, 1; c 3, 3, 3."""
    scores = np.array([[0.9, 0.8, 5.0], [0.8, 0.8, 4.0], [0.1, 0.2, 9.0]])
    assert mean_ranks(scores, [False, False, True]) == pytest.approx([1.5, 1.5, 3])
    assert np.isnan(mean_ranks(np.zeros((3, 0)), [])).all()


@given(arrays(float, (4, 7), elements=DICE))
def test_ranks_of_all_models_have_one_mean(scores):
    ranks = mean_ranks(scores, [False] * 7)
    assert ranks.mean() == pytest.approx(2.5) and ranks.min() >= 1 and ranks.max() <= 4
