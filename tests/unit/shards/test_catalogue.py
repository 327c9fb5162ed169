"""bts.shards.catalogue: what a folder of shards holds, and which of them count."""

import io

import pyarrow.parquet as pq
import pytest

from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.errors import UsageError
from bts.shards import catalogue
from bts.shards.format import write_shard
from bts.shards.holds import SUPERSEDED, in_force
from bts.storage import Store
from tests import builders


def put_shard(folder, case_id: str, key: str, *, truth: bool = True) -> None:
    cases = Store(folder / "cases")
    builders.put_all(cases, builders.case_files(case_id, truth=truth))
    (case,) = [c for c in find_cases(cases.list()).cases if c.id == case_id]
    Store(folder / "shards").put(key, write_shard(load_case(case, cases), {}))


def test_a_shard_is_described_by_its_footer(tmp_path):
    put_shard(tmp_path, "BraTS-GLI-00007-000", "BraTS-GLI-00007-000.aaaaaaaaaaaa.parquet")
    put_shard(tmp_path, "BraTS-GLI-00008-000", "BraTS-GLI-00008-000.aaaaaaaaaaaa.parquet", truth=False)
    store = Store(tmp_path / "shards")
    store.put("_runs/x.json", b"{}")
    first, second = catalogue.read_catalogue(store)
    assert (first.case, first.patient) == ("BraTS-GLI-00007-000", "BraTS-GLI-00007")
    assert (first.slices, first.group) == (7, "brats2023-gli")
    assert first.modalities == ("t1", "t1ce", "t2", "flair")
    assert first.labelled and not second.labelled
    assert (first.labels, first.voxels) == ("brats2023", 20 * 24 * 12)
    _, truth = builders.voxels()
    assert first.tumour == (truth > 0).sum() and second.tumour == 0
    assert first.brain == 17 * 20 * 7 and first.mean[3] == pytest.approx(450, abs=30)


def test_a_superseded_shard_counts_until_its_own_case_has_another():
    """X.1 and X.2 are two cases."""
    keys = ["X.1.aaaaaaaaaaaa.parquet", "X.2.aaaaaaaaaaaa.parquet", "X.2.bbbbbbbbbbbb.parquet"]
    marks = [f"{SUPERSEDED}/{key}.json" for key in keys[:2]]
    assert in_force(keys, [*keys, *marks]) == [keys[0], keys[2]]


def test_a_shard_whose_case_failed_since_is_outdated(tmp_path):
    for name in ("BraTS-GLI-00007-000", "BraTS-GLI-00008-000"):
        put_shard(tmp_path, name, f"{name}.aaaaaaaaaaaa.parquet")
    notes = ("BraTS-GLI-00008-000.bbbbbbbbbbbb.2.json", "BraTS-GLI-00007-000.aaaaaaaaaaaa.1.json")
    for note in notes:  # the second is of the shard's own files: it was made after all
        Store(tmp_path / "shards").put(f"_failed/{note}", b"{}")
    found = catalogue.read_catalogue(Store(tmp_path / "shards"))
    assert {shard.case: shard.outdated for shard in found} == {
        "BraTS-GLI-00007-000": False,
        "BraTS-GLI-00008-000": True,
    }


def test_no_shards_is_the_users_mistake(tmp_path):
    with pytest.raises(UsageError, match=r"no shards there; make them with python -m jobs\.preprocess"):
        catalogue.read_catalogue(Store(tmp_path / "nothing"))


def test_a_damaged_shard_is_named(tmp_path):
    Store(tmp_path).put("bad.parquet", b"PAR1 and nothing more")
    with pytest.raises(UsageError, match=r"bad\.parquet: not a shard of this project"):
        catalogue.read_catalogue(Store(tmp_path))


@pytest.mark.parametrize("column", ["t1ce", "mask"])
def test_a_shard_with_a_damaged_pixel_is_named(tmp_path, column):
    """Its footer is sound, and what zstd does not look at has a checksum of its own."""
    key = "BraTS-GLI-00007-000.aaaaaaaaaaaa.parquet"
    put_shard(tmp_path, "BraTS-GLI-00007-000", key)
    store = Store(tmp_path / "shards")
    data = bytearray(store.read(key))
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    (place,) = [group.column(n) for n in range(group.num_columns) if group.column(n).path_in_schema == column]
    data[place.data_page_offset + place.total_compressed_size - 9] ^= 1
    assert catalogue.read_shard(store, key, ("t1", "t1ce")).mask is not None
    store.put(key, bytes(data))
    assert len(catalogue.read_catalogue(store)) == 1
    with pytest.raises(UsageError, match=rf"{key}: not a shard .* or damaged .* jobs\.preprocess again"):
        catalogue.read_shard(store, key, ("t1", "t1ce"))


def test_two_shards_of_one_case_are_refused(tmp_path):
    for mark in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        put_shard(tmp_path, "BraTS-GLI-00007-000", f"BraTS-GLI-00007-000.{mark}.parquet")
    with pytest.raises(UsageError, match=r"has two shards.*run jobs\.preprocess again"):
        catalogue.read_catalogue(Store(tmp_path / "shards"))
