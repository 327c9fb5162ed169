import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bts import shards
from bts.cases import find_cases
from bts.preprocess import load_case
from bts.sampling import collate_slices, split_patients
from bts.storage import Store
from tests import builders

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


def test_another_seed_is_another_split():
    groups = dict.fromkeys(map(str, range(20)), "")
    assert split_patients(groups, seed=0, fold=0) != split_patients(groups, seed=1, fold=0)


def test_no_such_fold():
    with pytest.raises(ValueError, match="fold 5"):
        split_patients({"a": ""}, seed=0, fold=5)


@pytest.fixture
def rows(tmp_path) -> pa.Table:
    store = Store(str(tmp_path))
    builders.put_all(store, builders.case_files("BraTS-SSA-00001-000"))
    (case,) = find_cases(store.list()).cases
    return pq.read_table(io.BytesIO(shards.write_shard(load_case(case, store), {})))


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (32, 8)])
def test_crops_and_padding_keep_image_and_mask_together(rows, size):
    """Pixels stay what they were, with their label: looked up by value in the whole slice."""
    batch = collate_slices(rows, ("flair", "t1"), size, np.random.default_rng(0))
    assert batch["images"].shape == (rows.num_rows, 2, *size) and batch["images"].dtype == np.int16
    for b, row in enumerate(rows.to_pylist()):
        shape = row["height"], row["width"]
        flair, t1 = (np.frombuffer(row[m], "<i2").reshape(shape) for m in ("flair", "t1"))
        mask = np.frombuffer(row["mask"], np.uint8).reshape(shape)
        whole = {(int(f), int(t), int(m)) for f, t, m in zip(flair.flat, t1.flat, mask.flat, strict=True)}
        pixels = zip(*(batch["images"][b, c].flat for c in (0, 1)), batch["mask"][b].flat, strict=True)
        assert {tuple(map(int, p)) for p in pixels} - {(0, 0, 0)} <= whole
        inside = np.prod([min(n, s) for n, s in zip(shape, size, strict=True)])
        assert (batch["images"][b, 0] != 0).sum() == inside
        assert np.allclose(batch["mean"][b], [row["mean"][3], row["mean"][0]])


def test_the_same_generator_gives_the_same_crops(rows):
    one, two = (collate_slices(rows, ("t1",), (8, 8), np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one["images"], two["images"])
