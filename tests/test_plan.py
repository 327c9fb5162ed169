from dataclasses import replace

import pytest

from bts.catalogue import Shard
from bts.errors import UsageError
from bts.plan import make_plan
from bts.presets import PRESETS

FAST = PRESETS["fast"]


def cases(count: int, **changes) -> list[Shard]:
    defaults = {"group": "g", "slices": 10, "labelled": True, "modalities": FAST.modalities}
    return [
        Shard(key=f"c{i}.0123456789ab.parquet", case=f"c{i}", patient=f"p{i // 2}", **{**defaults, **changes})
        for i in range(count)
    ]


def test_patients_are_never_on_both_sides_and_every_one_is_held_out_once():
    held = []
    for fold in range(5):
        plan = make_plan(cases(20), FAST, fold)
        assert not {s.patient for s in plan.training} & {s.patient for s in plan.held_out}
        assert len(plan.training) + len(plan.held_out) == 20
        held += sorted({s.patient for s in plan.held_out})
    assert sorted(held) == [f"p{i}" for i in range(10)]


def test_the_run_is_named_by_all_that_makes_the_model():
    plan = make_plan(cases(20), FAST, 0)
    assert make_plan(cases(20), FAST, 0).run == plan.run
    others = [
        make_plan(cases(18), FAST, 0),
        make_plan(cases(20), FAST, 1),
        make_plan(cases(20), replace(FAST, seed=1), 0),
        make_plan([replace(s, key="x" + s.key) for s in cases(20)], FAST, 0),
    ]
    assert len({plan.run, *(other.run for other in others)}) == 5


def test_provenance_says_whom_the_model_has_seen():
    meta = make_plan(cases(20), FAST, 0).provenance()
    assert len(meta["training_patients"]) == 8 and len(meta["held_out_patients"]) == 2
    assert len(meta["shards"]) == 20 and meta["fold"] == 0 and meta["versions"]["torch"]


def test_cases_without_a_truth_are_left_out():
    unlabelled = replace(cases(1)[0], key="u", patient="u", labelled=False)
    assert len(make_plan([*cases(20), unlabelled], FAST, 0).training) == 16


@pytest.mark.parametrize("count", [0, 2])
def test_fewer_than_two_patients_cannot_be_split(count):
    with pytest.raises(UsageError, match="preprocess more cases"):
        make_plan(cases(count), FAST, 0)


def test_a_missing_modality_is_named():
    with pytest.raises(UsageError, match=r"c0\..*: has no t1, t2, flair; train with --modalities t1ce"):
        make_plan(cases(20, modalities=("t1ce",)), FAST, 0)
