"""bts.inference.finish: a prediction cut to the tumour's box and sent through a row loses nothing."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from bts.cases.case import CaseVolume
from bts.images.grid import guess
from bts.inference import quality
from bts.inference.finish import shared
from bts.inference.segmenter import Segmenter
from bts.model.load import load
from bts.notebook import read_case
from bts.settings import Inference
from tests import builders

RULES = Inference(
    min_et_ml=0.01,
    min_et_share=0.05,
    min_tumour_ml=0.02,
    min_core_ml=0.02,
    min_et_piece_ml=0.01,
    fill_core=True,
)
KNOWN = {f"{what}/{region}": 0.8 for what in ("dice", "agreement") for region in ("WT", "TC", "ET")}


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> CaseVolume:
    folder = tmp_path_factory.mktemp("cases")
    for key, data in builders.case_files("BraTS-GLI-00001-000").items():
        (folder / key).parent.mkdir(exist_ok=True)
        (folder / key).write_bytes(data)
    return read_case(folder, truth=False)


def saying(*said: torch.Tensor) -> Segmenter:
    """A model of ours for each, that says this of every case."""
    segmenter = Segmenter([load(builders.tiny_model(seed), "m") for seed in range(len(said))], "cpu")
    for model, found in zip(segmenter.models, said, strict=True):
        model.probabilities = lambda volume, found=found: found.clone()
    cards = [replace(card, inference=RULES, validation=KNOWN) for card in segmenter.finish.cards]
    segmenter.finish = replace(segmenter.finish, cards=tuple(cards))
    return segmenter


def blobs(case: CaseVolume, seed: int) -> torch.Tensor:
    """Probabilities of an uneven tumour, crumbs around it, some of both outside the brain."""
    rng = np.random.default_rng(seed)
    found = rng.random((3, *case.images.shape[1:])).astype(np.float32) * 0.4
    found[:, 2:7, 4:13, 5:11] += 0.35
    found[0, 2:7, 4:13, 5:11] += 0.2
    found[:, 1, 1, 1] = 0.9
    return torch.from_numpy(found)


def through_a_row(segmenter: Segmenter, case: CaseVolume):
    """As jobs.segment does it: (labels, quality warnings, expected Dice)."""
    said = segmenter.predict(case, case.brain)
    again = CaseVolume.outlined(case.outline, case.describe())
    return segmenter.finish(again, pickle.loads(pickle.dumps(said)), quality.of_noise(case))


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_those_of_the_whole_volume(case, seed):
    segmenter = saying(blobs(case, seed))
    labels, _, _ = through_a_row(segmenter, case)
    assert labels.dtype == np.uint8 and len(np.unique(labels)) == 4
    assert np.array_equal(labels, segmenter(case))


def test_the_expected_dice_is_that_of_all_probabilities(case):
    segmenter = saying(blobs(case, 1), blobs(case, 2))
    labels, _, expected = through_a_row(segmenter, case)
    # These models' held-out cases got in Dice what they got in agreement.
    agreed = segmenter.agreement(case, segmenter.probabilities(case), labels)
    assert set(expected) == {"WT", "TC", "ET"} and expected == pytest.approx(agreed, abs=1e-5)


def test_two_models_that_differ_are_flagged_and_two_that_do_not_are_not(case):
    one = blobs(case, 1)
    elsewhere = one.flip(1, 2, 3) * (one < 0.5)
    for other, differ in ((one, False), (elsewhere, True)):
        _, found, _ = through_a_row(saying(one, other), case)
        assert any(flag.startswith("disagreement:") for flag in found) == differ


def test_what_is_odd_of_the_labels_and_of_the_files_is_told(case):
    """0.6 ml that enhance are below the least, and become necrosis; the files tell no place."""
    probable = torch.zeros((3, *case.images.shape[1:]))
    probable[:, 2:7, 4:16, 4:14] = 0.9
    segmenter = saying(probable)
    (card,) = segmenter.finish.cards
    card = replace(card, inference=replace(RULES, min_et_ml=1.0))
    segmenter.finish = replace(segmenter.finish, cards=(card,))
    placeless = replace(case, grid=guess(case.grid.source_shape, case.grid.source_zooms))
    _, found, _ = through_a_row(segmenter, placeless)
    assert {flag.partition(":")[0] for flag in found} == {"edge", "doubt", "place"}, found


def test_models_together_do_what_each_of_them_would():
    """The mean threshold, and of the rules what all of them have."""
    one, other = replace(RULES, threshold=0.4), Inference(threshold=0.6, min_et_ml=0.5, min_et_share=0.1)
    for both in ([one, other], [other, one]):
        found = shared(both)
        assert (found.threshold, found.fill_core) == (0.5, False)
        assert (found.min_et_ml, found.min_et_share, found.min_tumour_ml) == (0.01, 0.05, other.min_tumour_ml)


def test_nothing_found_is_one_voxel_of_nothing(case):
    nothing = torch.zeros((3, *case.images.shape[1:]))
    said = saying(nothing).predict(case, case.brain, probabilities=True)
    assert said.labels.shape == (1, 1, 1) and not said.whole.any()
    labels, found, expected = through_a_row(saying(nothing), case)
    assert not labels.any() and found[0].startswith("empty:") and expected == {}


def test_the_outline_is_the_brain(case):
    again = CaseVolume.outlined(case.outline, case.describe())
    assert np.array_equal(again.brain, case.brain) and again.grid == case.grid
    assert again.modalities == case.modalities and np.array_equal(again.p99, case.p99)


def test_a_case_over_the_whole_grid_is_itself(case):
    again = case.uncropped()
    assert np.array_equal(again.images, case.whole(case.images)) and again.origin == (0, 0, 0)
    assert np.array_equal(again.brain, case.whole(case.brain))


def test_a_cut_lies_where_it_was(case):
    box = (slice(2, 5), slice(1, 9), slice(3, 4))
    part = case.cut(box)
    assert np.array_equal(part.whole(part.images), case.whole(case.images) * (part.whole(part.brain) != 0))
