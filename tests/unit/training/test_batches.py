"""bts.training.batches: rows of a shard → samples → batches, nothing shifted against anything."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.errors import RunError, UsageError
from bts.presets import PRESETS
from bts.settings import Layers, Normalisation, Sampling
from bts.shards.format import read_volume, write_shard
from bts.storage import Store
from bts.training import draw
from bts.training.batches import collate, samples_of
from bts.training.rows import by_case, read_rows
from tests import builders

CASE = "BraTS-SSA-00001-000"
FLAT = replace(
    PRESETS["fast"], modalities=("flair", "t1"), size=(8, 8), layers=Layers(widths=(4,)),
    sampling=Sampling(empty_slices=1),
)  # fmt: skip
DEEP = replace(FLAT, size=(4, 8, 8), sampling=Sampling(kind="volumes", repeats=3))


@pytest.fixture
def store(tmp_path) -> Store:
    return shard_of(tmp_path)


def shard_of(folder: Path, zooms=(1, 1, 1), **other: bytes) -> Store:
    """The shard of one case with pixels of so many mm along x, y, z; `other` files for some modalities."""
    cases, made = Store(folder / "cases"), Store(folder / "shards")
    files = builders.case_files(CASE, matrix=builders.affine("LPS", zooms))
    for role, data in other.items():
        files[f"{CASE}/{CASE}-{builders.NAMES_2023[role]}.nii.gz"] = data
    builders.put_all(cases, files)
    (case,) = find_cases(cases.list()).cases
    made.put("case.parquet", write_shard(load_case(case, cases), {}))
    return made


def read(store: Store, preset, epoch: int = 0, **options) -> pa.Table:
    item = pa.table({"epoch": [epoch], "key": ["case.parquet"]})
    options = {"turns": {}, "whole": False, **options}
    return read_rows(item, store, preset, **options)


@pytest.mark.parametrize("whole", [True, False])
def test_many_shards_at_once_are_each_by_itself(tmp_path, whole):
    folder = builders.phantom_shards(tmp_path)
    store, preset = Store(str(folder)), replace(FLAT, sampling=Sampling(empty_slices=0.3))
    keys = [entry.key for entry in store.list() if entry.key.endswith(".parquet")]
    items = pa.Table.from_pylist([{"epoch": 2, "key": key} for key in keys])
    apart = [read_rows(items.slice(n, 1), store, preset, {}, whole) for n in range(len(keys))]
    together = by_case(read_rows(items, store, preset, {}, whole))
    assert len(keys) > 2 and [table.to_pylist() for table in together] == [t.to_pylist() for t in apart]


def test_a_shard_that_is_damaged_is_named(store):
    data = bytearray(store.read("case.parquet"))
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(9)
    assert column.path_in_schema == "t1"
    data[column.data_page_offset + column.total_compressed_size - 9] ^= 1
    store.put("case.parquet", bytes(data))
    with pytest.raises(UsageError, match=r"case\.parquet: not a shard of this project, or damaged"):
        read(store, FLAT)
    store.delete("case.parquet")
    with pytest.raises(RunError, match=r"case\.parquet: cannot be read"):
        read(store, FLAT)


def whole(store: Store, name: str) -> np.ndarray:
    """(D, H, W) of the shard, by the reader of volumes."""
    volume = read_volume(store.read("case.parquet"))
    return volume.mask if name == "mask" else volume.images[volume.modalities.index(name)]


def test_slices_of_another_spacing_are_trained_on_at_one_millimetre(tmp_path):
    """Pixels of 2 × 0.5 mm: the cut holds twice the rows and half the columns, the tumour with them."""
    stores = shard_of(tmp_path / "one"), shard_of(tmp_path / "odd", zooms=(0.5, 2, 1))
    one, odd = (batch_of(store, replace(FLAT, size=(64, 64))) for store in stores)
    assert odd["images"].dtype == np.float32 and len(one["mask"]) == len(odd["mask"])
    assert (odd["mask"] != 0).sum() == (one["mask"] != 0).sum()  # twice the rows, half the columns
    spans = [np.ptp(np.nonzero(batch["mask"][3]), axis=1) + 1 for batch in (one, odd)]
    assert spans[1].tolist() == [2 * spans[0][0], spans[0][1] / 2]


def batch_of(store: Store, preset, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return collate(samples_of(read(store, preset), preset, rng), preset, rng)


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (32, 8)])
def test_crops_and_padding_keep_image_and_mask_together(store, size):
    """Pixels stay what they were, with their label: looked up by value in the whole slice."""
    batch = batch_of(store, replace(FLAT, size=size))
    flair, t1, mask = (whole(store, name) for name in ("flair", "t1", "mask"))
    assert batch["images"].shape == (len(mask), 2, *size) and batch["images"].dtype == np.int16
    assert batch["constants"].shape == (len(mask), 2, 4)
    for b in range(len(mask)):
        there = set(zip(flair[b].flat, t1[b].flat, mask[b].flat, strict=True))
        cut = zip(batch["images"][b, 0].flat, batch["images"][b, 1].flat, batch["mask"][b].flat, strict=True)
        assert set(cut) - {(0, 0, 0)} <= there
        inside = np.prod([min(n, s) for n, s in zip(mask.shape[1:], size, strict=True)])
        assert (batch["images"][b, 0] != 0).sum() == inside


def test_the_same_generator_gives_the_same_crops(store):
    one, two, other = (batch_of(store, FLAT, seed)["images"] for seed in (3, 3, 4))
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_patches_are_centred_on_the_brain(store):
    preset = replace(FLAT, sampling=Sampling(kind="patches", repeats=3, empty_slices=1), size=(4, 4))
    batch = batch_of(store, preset)
    assert len(batch["images"]) == 3 * len(whole(store, "mask"))
    assert (batch["images"][:, 0].any(axis=(1, 2))).all()


def test_volumes_are_slices_in_order_and_hold_tumour_where_asked(store):
    preset = replace(DEEP, sampling=replace(DEEP.sampling, tumour_centred=1.0))
    batch = batch_of(store, preset)
    assert batch["images"].shape == (3, 2, 4, 8, 8) and batch["mask"].shape == (3, 4, 8, 8)
    assert batch["constants"].shape == (3, 2, 4, 4)
    flair, mask = whole(store, "flair"), whole(store, "mask")
    cuts = {
        flair[z : z + 4, y : y + 8, x : x + 8].tobytes(): mask[z : z + 4, y : y + 8, x : x + 8]
        for z in range(len(mask) - 3) for y in range(mask.shape[1] - 7) for x in range(mask.shape[2] - 7)
    }  # fmt: skip
    for image, labels in zip(batch["images"][:, 0], batch["mask"], strict=True):
        assert np.array_equal(cuts[np.ascontiguousarray(image).tobytes()], labels) and labels.any()


@pytest.mark.parametrize("tumour_centred", [0, 1])
def test_a_case_of_fewer_slices_is_padded_on_both_sides(store, tumour_centred):
    depth = len(whole(store, "mask"))
    sampling = replace(DEEP.sampling, tumour_centred=tumour_centred)
    batch = batch_of(store, replace(DEEP, size=(16, 8, 8), sampling=sampling))
    filled = batch["images"][:, 0].any(axis=(2, 3))
    first = (16 - depth) // 2
    assert (filled == np.isin(range(16), range(first, first + depth))).all()
    assert (batch["constants"][:, :, ~filled[0], 3] == 1).all()


def test_a_slice_that_flair_does_not_show_is_cut_anywhere(tmp_path):
    """Other modalities have a wider field of view."""
    flair = builders.voxels()[0]["flair"]
    flair[:, :, 6:] = 0
    store = shard_of(tmp_path, flair=builders.nifti(flair, builders.affine()))
    batch = batch_of(store, replace(FLAT, sampling=Sampling(kind="patches", empty_slices=1)))
    shown = batch["images"].any(axis=(2, 3))
    assert shown[:, 0].any() and not shown[:, 0].all() and shown[:, 1].sum() > shown[:, 0].sum()


def test_a_stack_holds_its_neighbours_as_channels(store):
    preset = replace(FLAT, size=(32, 32), sampling=Sampling(kind="stacks", neighbours=1, empty_slices=1))
    batch = batch_of(store, preset)
    depth = len(whole(store, "mask"))
    assert batch["images"].shape == (depth, 6, 32, 32) and batch["mask"].shape == (depth, 3, 32, 32)
    labels = whole(store, "mask")
    for b in range(depth):
        filled = batch["images"][b].any(axis=(1, 2))
        assert filled.tolist() == [b > 0, True, b < depth - 1] * 2
        for near in range(max(0, 1 - b), min(3, depth + 1 - b)):
            assert batch["mask"][b, near].sum() == labels[b + near - 1].sum()
    middle = batch["images"][:, 1]
    for b in range(1, depth):
        assert set(batch["images"][b, 0].flat) == set(middle[b - 1].flat)


def test_only_the_drawn_slices_and_their_neighbours_are_read(store):
    tumour = np.flatnonzero(whole(store, "mask").any(axis=(1, 2)))
    few, first = replace(FLAT, sampling=Sampling(empty_slices=0)), read(store, DEEP)["z"][0].as_py()
    assert (read(store, few)["z"].to_numpy() - first).tolist() == tumour.tolist()
    near = replace(FLAT, sampling=Sampling(kind="stacks", neighbours=1, empty_slices=0))
    around = {z + step for z in tumour for step in (-1, 0, 1)} & set(range(len(whole(store, "mask"))))
    assert read(store, near).num_rows == len(around)


def test_a_case_that_was_kept_whole_gives_the_same_rows(store):
    for preset in (FLAT, DEEP):
        kept = read(store, preset, whole=True)
        assert draw.needed(kept, preset, 5).equals(read(store, preset, epoch=5))


def test_slices_that_leak_are_not_trained_on(store):
    z = [set(read(store, FLAT, turns={"case.parquet": turn})["z"].to_pylist()) for turn in range(5)]
    everything = set(read(store, FLAT)["z"].to_pylist())
    assert set.union(*z) == everything and sum(len(everything - of) for of in z) == len(everything)


def test_whole_slices_are_resized_at_their_place_in_the_source(store):
    """Half the source's 24×20 pixels: the box of brain lies where it lay."""
    batch = batch_of(store, replace(FLAT, resize=(12, 10), size=(12, 10), layers=Layers(widths=(4,))))
    assert batch["images"].dtype == np.float32 and batch["images"].shape[2:] == (12, 10)
    volume = read_volume(store.read("case.parquet"))
    rows, columns = (np.flatnonzero(batch["images"].any(axis=axes)) for axes in ((0, 1, 3), (0, 1, 2)))
    for found, first, count in zip((rows, columns), volume.origin[1:], volume.images.shape[2:], strict=True):
        assert abs(found[0] - first / 2) <= 1 and abs(found[-1] + 1 - (first + count) / 2) <= 1
    labels = volume.whole(volume.mask)[volume.origin[0] :][: len(batch["mask"])]
    assert np.array_equal(batch["mask"], labels[:, 1::2, 1::2]), "the pixel at the middle of two"


@pytest.mark.parametrize("kind", ["brain_zscore", "slice_zscore", "slice_minmax", "fixed", "global_zscore"])
def test_a_patch_is_normalised_as_its_whole_slice(store, kind):
    settings = Normalisation(kind=kind, mean=(5.0, 6.0), std=(2.0, 3.0), scale=900)
    small, large = (
        batch_of(store, replace(FLAT, size=size, normalisation=settings))["constants"]
        for size in ((4, 4), (32, 32))
    )
    assert np.array_equal(small, large)
    volume = whole(store, "flair").astype(np.float64)
    flair = volume[3]
    brain = flair[flair != 0]
    low, high = np.percentile(brain, (1, 99))
    known = {
        "slice_zscore": (low, high, brain.clip(low, high).mean(), brain.clip(low, high).std()),
        "slice_minmax": (-np.inf, np.inf, 0, flair.max()),
        "fixed": (0, 900, 0, 900),
        "global_zscore": (-np.inf, np.inf, 5, 2),
        "brain_zscore": (-np.inf, np.inf, volume.mean(), volume.std()),
    }[kind]
    assert small[3, 0] == pytest.approx(np.array(known), rel=1e-5)


def test_a_shard_reads_as_plain_parquet(store):
    assert pq.read_table(io.BytesIO(store.read("case.parquet"))).num_rows == len(whole(store, "mask"))
