"""The rules of each year on small masks, and what holds whatever the rules."""

from itertools import chain

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bts.scoring.metrics import LOWER_IS_BETTER, PARTS, measure
from bts.scoring.rules import RULES, Rules, kind_of, rules_of, year_of

EVERY = [pytest.param(RULES[y][c], id=f"{y}-{c}") for y, of in RULES.items() for c in of]
UNLIKE = [p for p in EVERY if p.id in ("2023-gli", "2024-gli", "2024-men-rt", "2026-gli", "2026-met")]
"""Those that count in a way of their own; the others differ in numbers."""
COUNTS = ("lesions_found",)
SHAPE = (24, 24, 24)
MM = (1.0, 1.0, 1.0)


def scores(rules: Rules, truth: np.ndarray, prediction: np.ndarray, spacing=MM) -> dict[str, dict]:
    return measure(truth, prediction, rules.regions, rules.where_present, spacing=spacing, rules=rules)


def labelmap(*cubes: tuple[int, tuple[int, int, int], int], shape=SHAPE) -> np.ndarray:
    """Of cubes (label, corner, side)."""
    labels = np.zeros(shape, np.uint8)
    for label, corner, side in cubes:
        labels[tuple(slice(c, c + side) for c in corner)] = label
    return labels


def test_a_data_set_has_the_rules_of_its_year():
    years = {"brats2015": "2023", "brats2021": "2023", "brats2023-met": "2023", "msd": "2023", "": "2023"}
    years |= {"brats2024-gli": "2024", "brats2025-met": "2024", "brats2026-goat": "2026", "brats2027": "2026"}
    assert {dataset: year_of(dataset) for dataset in years} == years
    assert year_of("brats-ped", "ped2024") == "2024" == year_of("brats2023-met", "met2025")
    assert year_of("other", "1=ET,2=NCR") == "2023" == year_of("brats-ped", "ped2023")
    kinds = {"brats2021": "", "brats2023-gli": "gli", "brats-ped": "ped", "brats2024-men-rt": "men-rt"}
    kinds |= {"brats2023-men": "men", "BraTS2026-MET": "met", "brats2023-phantom": "", "germen": ""}
    assert {dataset: kind_of(dataset) for dataset in kinds} == kinds
    assert rules_of("brats2021", "2026") == RULES["2026"]["gli"] == rules_of("somebody's", "2026")
    assert rules_of("brats2023-met") == Rules(1, 2) and rules_of("brats2025-met") == RULES["2024"]["met"]
    assert rules_of("brats2023-ssa") == Rules(3, 50)


CUBES = st.lists(
    st.tuples(st.integers(1, 4), st.tuples(*[st.integers(0, 20)] * 3), st.just(4)), min_size=0, max_size=5
)


@pytest.mark.parametrize("rules", UNLIKE)
@settings(max_examples=15)
@given(CUBES)
def test_a_perfect_labelmap_is_perfect_by_every_rule(rules, cubes):
    """Of lesions above the smallest: of 2024 smaller ones predicted are dropped before they join others."""
    truth = np.zeros(SHAPE, np.uint8)
    for cube in cubes:  # none over another: what is left of it could be small
        drawn = labelmap(cube)
        if not (truth & drawn).any() and not truth[drawn > 0].any():
            truth |= drawn
    for of in scores(rules, truth, truth).values():
        for metric, value in of.items():
            if metric not in COUNTS:
                assert value == (0 if metric in LOWER_IS_BETTER else 1), metric
        assert of["lesions_found"] > 0 or not truth.any() or of["dice"] == 1


patches = arrays.arrays(np.uint8, (5, 5, 5), elements=st.sampled_from([0, 0, 1, 2, 3, 4]))


@pytest.mark.parametrize("rules", UNLIKE)
@settings(max_examples=15)
@given(patches, patches, patches)
def test_where_two_equal_lesions_lie_does_not_matter(rules, lesion, first, second):
    """The same lesion twice, far apart, predicted in two ways: these change places.

    Alone the whole region's HD95 may change: where one is missed it is as far as the other lies.
    """
    near, far = (slice(1, 6),) * 3, (slice(20, 25), slice(1, 6), slice(1, 6))
    volumes = []
    for patch_near, patch_far in ((lesion, lesion), (first, second), (second, first)):
        volume = np.zeros((26, 8, 8), np.uint8)
        volume[near], volume[far] = patch_near, patch_far
        volumes.append(volume)
    truth, prediction, swapped = volumes
    before, after = scores(rules, truth, prediction), scores(rules, truth, swapped)
    for region, of in before.items():
        del of["hd95"], after[region]["hd95"]
        assert after[region] == pytest.approx(of, abs=1e-12), region


@pytest.mark.parametrize("rules", EVERY)
def test_every_metric_has_its_place_and_every_region_its_labels(rules):
    truth, prediction = labelmap((3, (2, 2, 2), 6)), labelmap((3, (3, 2, 2), 6), (4, (15, 15, 15), 5))
    for of in scores(rules, truth, prediction).values():
        assert of.keys() <= set(chain(*PARTS))
    labels = [*rules.regions.values(), *rules.where_present.values()]
    assert set(chain(*labels)) <= {1, 2, 3, 4}


def test_a_crumb_beside_a_perfect_lesion():
    """Eight voxels invented: half of all lesions in 2023, dropped in 2024, in 2026 a matter of precision."""
    truth = labelmap((3, (2, 2, 2), 6))
    prediction = truth | labelmap((3, (16, 16, 16), 2))
    of = {year: scores(rules_of("brats-gli", year), truth, prediction)["ET"] for year in RULES}
    assert [of[year]["lesion_dice"] for year in RULES] == [0.5, 1, 1]
    assert [of[year]["lesions_false"] for year in RULES] == [1, 0, 1]
    assert (of["2026"]["lesion_precision"], of["2026"]["lesion_recall"]) == (0.5, 1)
    assert of["2026"]["lesion_f1"] == pytest.approx(2 / 3) and "lesion_f1" not in of["2024"]


@pytest.mark.parametrize("year", RULES)
def test_a_spacing_of_many_digits_is_not_rounded(year):
    found = scores(
        RULES[year]["gli"], labelmap((3, (2, 2, 2), 6)), labelmap((3, (2, 2, 3), 6)), (0.9375,) * 3
    )
    assert found["ET"]["hd95"] == pytest.approx(0.9375, abs=1e-5)


def test_a_crumb_is_measured_in_voxels_or_in_mm3():
    """50 voxels of 8 mm³ each, invented: dropped by the rules that leave out 50 voxels, and not by 50 mm³."""
    truth = labelmap((3, (2, 2, 2), 6))
    prediction = truth.copy()
    prediction[16:21, 16:21, 16:18] = 3
    for challenge, region, false in (("ssa", "ET", 0), ("men-rt", "GTV", 1)):
        of = scores(RULES["2024"][challenge], truth, prediction, spacing=(2.0, 2.0, 2.0))[region]
        assert of["lesions_false"] == false, challenge


def test_predicted_parts_near_each_other_are_one_since_2024():
    truth = labelmap((3, (2, 2, 2), 4))
    prediction = truth | labelmap((3, (11, 2, 2), 4))  # five voxels away: out of the lesion's reach
    of = {year: scores(rules_of("brats-gli", year), truth, prediction)["ET"] for year in ("2023", "2024")}
    assert of["2023"]["lesion_dice"] == 0.5 and of["2023"]["lesions_false"] == 1
    assert of["2024"]["lesion_dice"] == pytest.approx(2 / 3) and of["2024"]["lesions_false"] == 0


def test_lesions_at_the_same_core_are_one_in_2024():
    """Two enhancing cubes at the ends of a necrotic bar, of which one was found."""
    bar = np.zeros((40, 8, 8), np.uint8)
    bar[8:30, 2:6, 2:6] = 1
    one, two = bar.copy(), bar.copy()
    one[4:8, 2:6, 2:6] = two[4:8, 2:6, 2:6] = two[30:34, 2:6, 2:6] = 3
    of = {year: scores(rules_of("brats-gli", year), two, one)["ET"] for year in ("2023", "2024")}
    assert (of["2023"]["lesions_missed"], of["2024"]["lesions_missed"]) == (1, 0)
    assert of["2024"]["lesion_dice"] == pytest.approx(2 / 3)


def test_false_lesions_are_in_no_mean_of_meningioma_before_radiotherapy():
    truth, false = labelmap((1, (2, 2, 2), 5)), labelmap((1, (15, 15, 15), 5))
    rules = rules_of("brats2024-men-rt")
    found, missed, invented = (
        scores(rules, *pair)["GTV"] for pair in ((truth, truth | false), (truth, false), (truth * 0, false))
    )
    assert (found["lesion_dice"], found["lesions_false"]) == (1, 1)
    assert (missed["lesion_dice"], missed["lesion_hd95"]) == (0, pytest.approx(np.sqrt(3) * 24))
    assert (invented["lesion_dice"], invented["dice"]) == (1, 0)


def test_small_metastases_are_only_detected_in_2026():
    """A large one found, a large one missed, a small one found, a false one."""
    large, missed = (3, (1, 1, 1), 3), (3, (10, 1, 1), 3)
    small, false = (3, (1, 15, 15), 2), (3, (18, 18, 18), 2)
    rules = rules_of("brats-met", "2026")
    of = scores(rules, labelmap(large, missed, small), labelmap(large, small, false))["ET"]
    assert of["lesion_dice"] == pytest.approx(1 / 3) and of["lesion_hd95"] == pytest.approx(2 * 373 / 3)
    assert (of["large_precision"], of["large_recall"]) == (0.5, 0.5)
    assert (of["small_precision"], of["small_recall"]) == (0.5, 1)
    assert of["lesion_f1"] == pytest.approx(2 * 2 / (2 * 2 + 2))
    of = scores(rules, labelmap(small), labelmap(small, false))["ET"]
    assert "lesion_dice" not in of and "large_f1" not in of and of["small_recall"] == 1
    of = scores(rules, labelmap(large), labelmap(large, false))["ET"]
    assert of["lesion_dice"] == 0.5, "a false one counts where none is missed, too"
    edge = np.zeros(SHAPE, np.uint8)
    edge[1:6, 1:3, 1:3] = 3
    assert scores(rules, edge, edge)["ET"]["large_f1"] == scores(rules, edge, edge)["ET"]["lesion_dice"] == 1
    doubled = scores(rules, labelmap(small), labelmap(small), spacing=(2.0, 2.0, 2.0))["ET"]
    assert doubled["lesion_dice"] == 1 and "small_f1" not in doubled, "64 mm³ are large"


def test_lesions_are_matched_one_to_one_in_2026():
    """Two parts lie in one lesion: the larger is its match, the other one false."""
    truth = labelmap((3, (2, 2, 2), 8))
    prediction = labelmap((3, (2, 2, 2), 5), (3, (8, 8, 8), 2))
    of = scores(rules_of("brats-gli", "2026"), truth, prediction)["ET"]
    assert of["lesion_dice"] == pytest.approx(2 * 125 / (512 + 125))
    assert [of[f"lesions_{what}"] for what in ("found", "missed", "false")] == [1, 0, 1]


def test_what_does_not_overlap_is_no_match_in_2026():
    """One lesion holds three parts and one part three lesions: two pairs, and a third would share nothing."""
    truth, prediction = np.zeros((2, 24, 4, 4), np.uint8)
    for side, bars in ((truth, [(0, 12), (14, 16), (18, 20)]), (prediction, [(0, 2), (4, 6), (8, 20)])):
        for first, last in bars:
            side[first:last] = 3
    of = scores(rules_of("brats-gli", "2026"), truth, prediction)["ET"]
    assert [of[f"lesions_{what}"] for what in ("found", "missed", "false")] == [2, 1, 1]
    assert of["lesion_dice"] == pytest.approx(2 * 2 / (2 + 12))


def test_nothing_and_no_overlap_in_2026():
    rules, nothing = rules_of("brats-gli", "2026"), np.zeros(SHAPE, np.uint8)
    here, there = labelmap((3, (2, 2, 2), 5)), labelmap((3, (7, 2, 2), 5))
    right = scores(rules, nothing, nothing)["ET"]
    assert (right["dice"], right["hd95"], right["lesions_found"]) == (1, 0, 0) and "lesion_dice" not in right
    apart = scores(rules, here, there)["ET"]
    assert [apart[name] for name in ("hd95", "nsd05", "lesion_dice", "lesion_hd95")] == [373, 0, 0, 373]
    missed, invented = scores(rules, here, nothing)["ET"], scores(rules, nothing, here)["ET"]
    assert missed["lesion_recall"] == 0 and "lesion_precision" not in missed
    assert invented["lesion_precision"] == 0 and "lesion_recall" not in invented
