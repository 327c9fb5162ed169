"""bts.training.plan: who trains, who is held out, what is left out, and what names a training."""

from dataclasses import replace

import pytest

from bts.errors import UsageError
from bts.presets import PRESETS
from bts.shards.catalogue import Shard
from bts.training.plan import commit, make_plan, patients_of, unnamed

FAST = PRESETS["fast"]


def cases(count: int, **changes) -> list[Shard]:
    defaults = {"group": "g", "slices": 10, "labelled": True, "modalities": FAST.modalities}
    defaults |= {"labels": "brats2021", "voxels": 1000, "brain": 500, "tumour": 50, "bytes": 99}
    defaults["zooms"] = (1.0, 1.0, 1.0)
    defaults |= {"mean": (100.0,) * 4, "std": (10.0,) * 4, "p99": (120.0,) * 4}
    named = [
        {"key": f"c{i}.0123456789ab.parquet", "case": f"c{i}", "patient": f"p{i // 2}"} for i in range(count)
    ]
    return [
        Shard(**{**defaults, "p01": (90.0 + i / 1e6,) * 4, **one, **changes}) for i, one in enumerate(named)
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


def test_a_3d_preset_leaves_out_volumes_that_are_not_of_one_millimetre():
    thick = cases(20, zooms=(3.0, 0.5, 0.5))
    plan = make_plan([*cases(18), *thick[18:]], PRESETS["best"], 0)
    assert plan.left_out == {"not of 1 mm, which a 3D preset needs": [s.key for s in thick[18:]]}
    assert plan.run == make_plan(cases(18), PRESETS["best"], 0).run
    with pytest.raises(UsageError, match=r"best trains in 3D .* has 3 × 0.5 × 0.5 mm"):
        make_plan(thick, PRESETS["best"], 0)
    with pytest.raises(UsageError, match="left out, not of 1 mm"):
        make_plan([*cases(2), *thick[2:]], PRESETS["best"], 0)
    with pytest.raises(UsageError, match="trains in 3D"):
        make_plan([*thick, replace(thick[0], labels="figshare")], PRESETS["best"], 0)
    assert not make_plan([*cases(18), *thick[18:]], FAST, 0).left_out
    assert not make_plan(cases(20, zooms=(1.0, 1.02, 1.02)), PRESETS["best"], 0).left_out


def test_what_is_not_trained_on_is_said():
    sound = cases(20)
    others = [replace(sound[0], outdated=True), replace(sound[1], labelled=False)]
    others.append(replace(sound[2], labels="figshare"))
    small = [replace(s, tumour=1) for s in sound[3:5]]
    preset = replace(FAST, sampling=replace(FAST.sampling, least_tumour=0.05))
    plans = [make_plan([*others, *small, *sound[5:]], preset, fold) for fold in range(5)]
    assert {len(plan.held_out) + len(plan.training) for plan in plans} <= {15, 16, 17}
    for plan in plans:
        left = {key: why for why, keys in plan.left_out.items() for key in keys}
        assert "older files" in left[sound[0].key] and left[sound[1].key] == "without ground truth"
        assert "targets" in left[sound[2].key]
        assert {s.key for s in (*plan.training, *plan.held_out)} | left.keys() == {s.key for s in sound}


def test_a_patient_written_in_two_ways_is_on_one_side():
    first, *others = cases(20)
    shards = [replace(first, patient="P0"), *others]
    for fold in range(5):
        training, held_out = make_plan(shards, FAST, fold).training, make_plan(shards, FAST, fold).held_out
        assert not {s.patient.lower() for s in training} & {s.patient.lower() for s in held_out}


def test_cases_of_equal_images_are_of_one_patient():
    """BraTS 2021 beside Task01 of MSD: the same scans under names of their own."""
    shards = cases(20)
    twin = replace(shards[0], key="BRATS_001.0123456789ab.parquet", case="BRATS_001", patient="BRATS_001")
    third = replace(shards[2], key="z.0123456789ab.parquet", case="z", patient="BRATS_001")
    found = patients_of([*shards, twin, third])
    assert found[twin.key] == found[third.key] == found[shards[0].key] == found[shards[3].key]
    assert len(set(found.values())) == 9, "p0 and p1 are one, by way of the third"
    for fold in range(5):
        plan = make_plan([*shards, twin, third], FAST, fold)
        assert not {s.images for s in plan.training} & {s.images for s in plan.held_out}


def test_cases_whose_name_stands_for_the_patient_are_told():
    known, name = (
        replace(cases(1)[0], dataset="brats2020", patient="c0"),
        replace(cases(2)[1], dataset="other"),
    )
    assert unnamed([known, name]) == [] and unnamed([replace(name, patient="c1")]) == ["c1"]


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


def test_a_training_without_any_tumour_is_refused():
    """It gave a model that had learnt nothing; some cases without tumour are wanted."""
    healthy = [replace(s, tumour=0) for s in cases(20)]
    with pytest.raises(UsageError, match="ground truth of all 16 training cases is empty, c0"):
        make_plan(healthy, FAST, 0)
    assert len(make_plan([*healthy[:-2], *cases(20)[-2:]], FAST, 0).training) == 16


def test_a_missing_modality_is_named():
    with pytest.raises(UsageError, match=r"c0\..* has no t1, t2, flair; train with --modalities t1ce"):
        make_plan(cases(20, modalities=("t1ce",)), FAST, 0)


def test_a_preset_and_the_truths_must_be_of_one_kind():
    figshare = cases(20, labels="figshare", modalities=("t1ce",))
    with pytest.raises(UsageError, match=r"targets regions and these shards.*of figshare.*--targets tumour"):
        make_plan(figshare, FAST, 0)
    with pytest.raises(UsageError, match=r"targets tumour and these shards.*of BraTS.*--targets regions"):
        make_plan(cases(20), PRESETS["figshare2d"], 0)
    both = [*cases(20), *(replace(s, key=f"f{s.key}", patient=f"f{s.patient}") for s in figshare)]
    for preset, kind in ((FAST, "brats2021"), (PRESETS["figshare2d"], "figshare")):
        plan = make_plan(both, preset, 0)
        assert {s.labels for s in (*plan.training, *plan.held_out)} == {kind}


def test_a_split_by_slice_has_every_patient_on_both_sides():
    shards = cases(20, labels="figshare", modalities=("t1ce",))
    plan = make_plan(shards, replace(PRESETS["figshare2d"], split="leaking_by_slice"), 0)
    assert plan.training == plan.held_out == shards


def test_cases_with_hardly_any_tumour_are_left_out_of_training_alone():
    small = [replace(s, tumour=4) if s.patient in ("p1", "p2", "p3") else s for s in cases(20)]
    plan = make_plan(small, PRESETS["unet3d"], 0)
    assert all(s.tumour == 50 for s in plan.training)
    assert len(plan.training) + len(plan.held_out) < 20 and len(plan.held_out) == 4


def test_the_mean_of_the_training_set_counts_background_and_no_held_out_case():
    preset = PRESETS["unet2d"]
    held = {s.key for s in make_plan(cases(20), preset, 0).held_out}
    shards = [replace(s, mean=(1e6,) * 4) if s.key in held else s for s in cases(20)]
    found = make_plan(shards, preset, 0).preset.normalisation
    assert found.mean == pytest.approx([50] * 4)  # half of the voxels are brain of mean 100
    assert found.std == pytest.approx([(0.5 * (100 + 100**2) - 50**2) ** 0.5] * 4)


def test_classes_count_cases_and_slices_of_each_group():
    assert make_plan(cases(20), FAST, 0).classes() == {"g": {"cases": 20, "slices": 200}}


def test_an_image_tells_the_commit_by_its_environment(monkeypatch):
    monkeypatch.setenv("BTS_COMMIT", "0123456789ab")
    assert commit() == "0123456789ab"
