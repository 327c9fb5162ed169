"""bts.inference.quality: each warning comes where it shall, and an ordinary case has none."""

from dataclasses import replace

import numpy as np
import pytest

from bts.cases.case import CaseVolume
from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.inference import quality
from bts.storage import Store
from tests import builders

LABELS_AT = (slice(3, 5), slice(8, 12), slice(7, 10))  # well inside the small brain


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> CaseVolume:
    store = Store(str(tmp_path_factory.mktemp("case")))
    builders.put_all(store, builders.case_files("BraTS-SSA-00001-000"))
    return load_case(find_cases(store.list()).cases[0], store)


@pytest.fixture
def labels(volume) -> np.ndarray:
    found = np.zeros(volume.images.shape[1:], np.uint8)
    found[LABELS_AT] = 2
    return found


def kinds(found: list[str]) -> list[str]:
    return [flag.partition(":")[0] for flag in found]


def test_an_ordinary_tumour_has_no_flag(volume, labels):
    assert quality.of_labels(labels, volume) == []
    assert quality.of_ensemble([labels, labels]) == []


def test_no_tumour_is_flagged(volume, labels):
    assert kinds(quality.of_labels(np.zeros_like(labels), volume)) == ["empty"]


@pytest.mark.parametrize(("axis", "name"), list(enumerate("zyx")))
def test_a_tumour_at_the_edge_is_flagged_by_side(volume, labels, axis, name):
    at_end = labels.copy()
    np.moveaxis(at_end, axis, 0)[-1, 4:6, 6:8] = 1
    (flag,) = quality.of_labels(at_end, volume)
    assert flag.startswith("edge:") and f"the end of {name}" in flag and "start" not in flag


def test_more_than_half_of_the_brain_is_flagged(volume):
    most = np.zeros(volume.images.shape[1:], np.uint8)
    most[1:-1, 1:-1, 1:-1] = 1
    assert kinds(quality.of_labels(most, volume)) == ["large"]


def test_figshare_knows_no_brain_and_no_edge(volume, labels):
    slices = replace(volume, dataset="figshare")
    assert quality.of_labels(np.ones_like(labels), slices) == []
    assert kinds(quality.of_labels(np.zeros_like(labels), slices)) == ["empty"]


def test_models_that_disagree_are_flagged(labels):
    elsewhere = np.roll(labels, 2, axis=1)
    (flag,) = quality.of_ensemble([labels, labels, elsewhere])
    assert flag == "disagreement: two models' tumours overlap by Dice 0.50"
    assert quality.of_ensemble([labels]) == []


def test_inputs_unlike_those_of_the_training_are_flagged_by_modality(volume):
    extremes = np.stack([(p - volume.mean) / volume.std for p in (volume.p01, volume.p99)], axis=-1)
    known = quality.ranges(volume.modalities, np.stack([extremes - 0.1, extremes + 0.1]))
    assert quality.of_input(volume, known) == []
    bright = volume.p99.copy()
    bright[1] = volume.mean[1] + 9 * volume.std[1]
    (flag,) = quality.of_input(replace(volume, p99=bright), known)
    assert flag.startswith("input: the 99th percentile of t1ce lies 9.0 standard deviations")
    assert quality.of_input(volume, {}) == []
    for beyond, odd in ((0.4, False), (0.6, True)):  # half a deviation, for the training's differ less
        bright[1] = volume.p99[1] + (0.1 + beyond) * volume.std[1]
        assert bool(quality.of_input(replace(volume, p99=bright), known)) == odd


def test_much_enhancing_tumour_that_became_necrosis_is_flagged(volume, labels):
    everywhere, few = np.full_like(labels, 3), np.where(labels != 0, np.uint8(3), labels)
    (flag,) = quality.of_doubt(everywhere, np.full_like(labels, 1), volume)
    assert flag == f"doubt: {labels.size / 1000:.1f} ml that may enhance are called necrosis"
    assert quality.of_doubt(few, np.where(few == 3, np.uint8(1), few), volume) == []
    assert quality.of_doubt(everywhere, everywhere, volume) == []
    (flag,) = quality.of_doubt(np.full_like(labels, 1), np.full_like(labels, 2), volume)
    assert flag.endswith(" ml of core in small pieces are called oedema")
    (flag,) = quality.of_doubt(everywhere, np.zeros_like(labels), volume)
    assert flag.startswith("doubt: ") and flag.endswith(" ml of tumour in small pieces are left out")
