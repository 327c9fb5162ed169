"""bts.cases.datasets: every name in a `dataset` column finds its record, and every record its reader."""

import pytest

from bts.cases.datasets import DATASETS, FIGSHARE, OTHER, dataset_of
from bts.cases.layouts import LAYOUTS
from bts.cases.read import READERS
from bts.labels import CONVENTIONS, TARGETS, teaches


@pytest.mark.parametrize(
    ("name", "record"),
    [("brats2017", "brats20{y}"), ("brats2021", "brats2021"), ("brats2023-ssa", "brats2023-{c}"),
     ("brats-ped", "brats-ped"), ("msd", "msd"), ("figshare", "figshare"), ("other", "other"),
     ("x", "other")],
)  # fmt: skip
def test_a_name_finds_its_record(name, record):
    assert dataset_of(name).name == record


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: dataset.name)
def test_a_record_is_whole(dataset):
    assert dataset.reader in READERS
    if dataset.convention:
        assert dataset.convention in CONVENTIONS
        taught = {"tumour", "tumour_types"} if dataset is FIGSHARE else {"regions", "labels"}
        assert {t for t in TARGETS if teaches(dataset.convention, t)} == taught


def test_layouts_name_datasets_that_there_are():
    assert all(dataset_of(layout.dataset).name == layout.dataset for layout in LAYOUTS)


def test_what_the_figshare_set_does_not_tell():
    assert not FIGSHARE.placed and not FIGSHARE.spaced and not FIGSHARE.stripped
    assert OTHER.placed and OTHER.spaced and OTHER.stripped
