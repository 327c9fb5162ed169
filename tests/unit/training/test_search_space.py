"""bts.training.search_space: axes of a sweep, and the trials that are drawn from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bts.errors import UsageError
from bts.training.search_space import draw_trials, parse_axis, to_flags


@given(low=st.floats(-1e3, 1e3), width=st.floats(0.01, 1e4), seed=st.integers(0, 99))
def test_draws_lie_within_their_range(low, width, seed):
    low, high = float(f"{low:.2g}"), float(f"{low + width + abs(low):.2g}")
    axis = parse_axis(f"x={low!r}..{high!r}")
    drawn = [float(axis.draw(np.random.default_rng([seed, n]))) for n in range(20)]
    slack = 0.01 * max(abs(low), abs(high))  # values have three digits
    assert all(low - slack <= value <= high + slack for value in drawn) and len(set(drawn)) > 1


def test_decades_are_as_likely_as_each_other():
    axis, rng = parse_axis("optimiser.lr=1e-5..1e-1"), np.random.default_rng(0)
    decades = np.floor(np.log10([float(axis.draw(rng)) for _ in range(2000)]))
    assert all(400 < (decades == decade).sum() < 600 for decade in (-5, -4, -3, -2))


def test_whole_ends_give_whole_numbers_and_lists_their_own_words():
    rng = np.random.default_rng(0)
    assert {parse_axis("batch=2..4").draw(rng) for _ in range(50)} == {"2", "3", "4"}
    axis = parse_axis("layers.widths=8 16,16 32 64")
    assert {axis.draw(rng) for _ in range(50)} == {"8 16", "16 32 64"}
    assert to_flags({"layers.widths": "8 16", "batch": "4"}) == ["--layers.widths", "8", "16", "--batch", "4"]


def test_the_first_trial_is_the_preset_and_a_seed_gives_the_same_again():
    axes = [parse_axis("optimiser.lr=1e-4..1e-2"), parse_axis("loss.dice=0,1")]
    trials = draw_trials(axes, 5, seed=3)
    assert trials[0] == {} and len(trials) == 5
    assert all(list(trial) == ["optimiser.lr", "loss.dice"] for trial in trials[1:])
    assert draw_trials(axes, 5, seed=3) == trials and draw_trials(axes, 5, seed=4) != trials
    assert draw_trials(axes, 1, seed=3) == [{}]


def test_no_trial_repeats_another():
    axes = [parse_axis("loss.dice=0.5,1,2"), parse_axis("batch=2..3")]
    trials = draw_trials(axes, 20, seed=0)
    assert len(trials) == 7 and all(one not in trials[:n] for n, one in enumerate(trials))
    assert draw_trials(axes, 4, seed=0) == trials[:4]


@pytest.mark.parametrize("given", [[], ["batch=2,4", "batch=8,16"]])
def test_nothing_to_vary_and_a_field_that_is_named_twice_are_refused(given):
    with pytest.raises(UsageError, match="name what to vary, each field once"):
        draw_trials([parse_axis(one) for one in given], 4, seed=0)


@pytest.mark.parametrize("wrong", ["lr", "lr=", "=1..2", "lr=2..1", "lr=a..b", "lr=1..inf", "lr=nan..2"])
def test_what_is_no_axis_is_refused(wrong):
    with pytest.raises(UsageError, match="--over"):
        parse_axis(wrong)
