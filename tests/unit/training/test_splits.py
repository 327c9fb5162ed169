"""bts.training.splits: patients, or slices, dealt to five folds."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bts.training.splits import leaked, split_patients, turns

GROUPS = st.dictionaries(st.text(min_size=1, max_size=8), st.sampled_from(["HGG", "LGG", ""]), min_size=5)


@given(groups=GROUPS, seed=st.integers(0, 9))
def test_folds_hold_out_every_patient_once(groups, seed):
    folds = [split_patients(groups, seed=seed, fold=k) for k in range(5)]
    assert sorted(p for _, held in folds for p in held) == sorted(groups)
    for training, held in folds:
        assert sorted(training + held) == sorted(groups) and held
    sizes = [len(held) for _, held in folds]
    assert max(sizes) - min(sizes) <= 1


@given(groups=GROUPS, seed=st.integers(0, 9), fold=st.integers(0, 4))
def test_the_order_of_listing_does_not_matter(groups, seed, fold):
    backwards = dict(reversed(groups.items()))
    assert split_patients(groups, seed=seed, fold=fold) == split_patients(backwards, seed=seed, fold=fold)


def test_groups_are_spread_over_the_folds():
    groups = {f"p{n}": "HGG" if n < 20 else "LGG" for n in range(30)}
    for fold in range(5):
        _, held = split_patients(groups, seed=0, fold=fold)
        assert sorted(groups[p] for p in held) == ["HGG"] * 4 + ["LGG"] * 2


def test_the_folds_are_those_of_every_version_before():
    """Dealt otherwise, a model that was trained before would be judged by patients that it was trained on."""
    groups = {f"p{n}": "HGG" if n < 7 else "LGG" for n in range(12)}
    held = ["p2 p3 p8", "p0 p6 p7", "p11 p4", "p10 p5", "p1 p9"]
    assert [split_patients(groups, seed=0, fold=fold)[1] for fold in range(5)] == [of.split() for of in held]
    assert leaked("p0", range(10), seed=0, turn=1).nonzero()[0].tolist() == [0, 2]
    assert turns({"a": ("x", 3), "b": ("x", 4), "c": ("x", 1)}, seed=0, fold=0) == {"c": 0, "b": 4, "a": 0}


def test_another_seed_is_another_split():
    groups = dict.fromkeys(map(str, range(20)), "")
    assert split_patients(groups, seed=0, fold=0) != split_patients(groups, seed=1, fold=0)


def test_no_such_fold():
    with pytest.raises(ValueError, match="fold 5"):
        split_patients({"a": ""}, seed=0, fold=5)


@given(case=st.text(max_size=8), seed=st.integers(0, 9))
def test_every_slice_leaks_into_one_fold(case, seed):
    folds = [leaked(case, range(40), seed=seed, turn=turn) for turn in range(5)]
    assert (sum(folds) == 1).all()


def test_slices_that_leak_are_a_fifth_of_each_group():
    groups = ("meningioma", "glioma", "pituitary")
    cases = {f"p{n}": (groups[n % 3], 1 + n % 7) for n in range(60)}
    held = {group: [] for group in groups}
    for fold in range(5):
        first = turns(cases, seed=3, fold=fold)
        counts = Counter()
        for case, (group, slices) in cases.items():
            counts[group] += leaked(case, range(slices), seed=3, turn=first[case]).sum()
        for group in groups:
            held[group].append(counts[group])
    for group, counts in held.items():
        assert sum(counts) == sum(n for of, n in cases.values() if of == group)
        assert max(counts) - min(counts) <= 1
