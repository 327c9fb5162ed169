"""The bundled model: small, known, and whole."""

import json

import numpy as np
import pytest

from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.inference.segmenter import Segmenter
from bts.model.file import BOX, halved, load_model
from bts.model.header import digest, read_header
from bts.scoring import metrics
from bts.storage import Store
from jobs import segment
from tests import builders

REAL = ("BraTS2021_00000", "BraTS-SSA-00051-000", "BraTS2021_01477")


@pytest.fixture(scope="module")
def box():
    return [load_model(file.read_bytes(), "box") for file in BOX]


def test_it_is_small_and_its_card_is_of_these_very_files(box):
    card = BOX[0].with_name("README.md").read_text("utf-8")
    assert sum(file.stat().st_size for file in BOX) < 12e6
    assert all(file.name in card and digest(file.read_bytes()) in card for file in BOX)
    assert all(patient in card for model in box for patient in model.meta["training_patients"])


def test_half_precision_keeps_the_header_and_almost_the_weights():
    data = builders.tiny_model(by="test")
    half = halved(data)
    assert len(half) < 0.8 * len(data) and read_header(half, "half") == read_header(data, "whole")
    whole, small = (load_model(d, "m").network.state_dict() for d in (data, half))
    for name, values in whole.items():
        assert small[name].dtype == values.dtype
        assert np.allclose(small[name], values, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case_id", REAL)
def test_it_finds_the_tumour_of_real_patients(box, real_cases, case_id):
    """It was trained on them all: this tells that file, preset and reading belong together, no more."""
    (case,) = find_cases(Store(str(real_cases / case_id)).list()).cases
    volume = load_case(case, Store(str(real_cases / case_id)))
    dice = metrics.score(volume.mask, Segmenter(box)(volume))["WT"]["dice"]
    print(f"{case_id}: WT {dice:.3f}")
    assert dice > 0.85


@pytest.mark.slow
def test_it_segments_where_no_model_is_given(tmp_path):
    cases, labelmaps = Store(str(tmp_path / "cases")), Store(str(tmp_path / "labelmaps"))
    builders.put_all(cases, builders.case_files("BraTS-SSA-00001-000", truth=False))
    assert segment.main(segment.Settings(cases.uri, labelmaps.uri, ray="no")).counts["written"] == 1
    (marker,) = labelmaps.list("_done")
    used = json.loads(labelmaps.read(marker.key))["models"]
    assert used == [{"name": "box", "digest": digest(f.read_bytes()), "preset": f.stem} for f in BOX]
