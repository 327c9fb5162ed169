"""A bucket that an older version left is taken over: nothing is done again, its models load, trainings go on.

frozen/ was made by commit 58fcfa5, the last one with a flat `bts/`: two phantoms of 32×36×24 and two slices
of a figshare patient through preprocess, segment (by untrained models) and evaluate, and the checkpoint of a
training after one epoch. times.json holds the date of each file, versions.json what a
local version of each labelmap was.
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bts.cases.layouts import find_cases
from bts.inference.segmenter import Segmenter
from bts.model.file import load_model
from bts.results.match import match
from bts.scoring.score_cache import ScoreCache
from bts.settings import Budget, Layers, Loss, Optimiser, Preset
from bts.shards.catalogue import read_catalogue
from bts.shards.format import read_volume
from bts.storage import Store
from bts.training.batches import make_batches, samples_of
from bts.training.loop import train
from bts.training.plan import Plan, make_plan
from bts.training.rows import by_case, read_rows
from jobs import preprocess, segment
from jobs.driver.figshare_index import index_figshare

FROZEN = Path(__file__).with_name("frozen")
BUCKETS = {"brats": ("tiny", 2), "figshare": ("tumour_types", 1)}  # model, cases
PRESET = Preset(
    name="frozen", size=(32, 32), batch=4, layers=Layers(widths=(4, 8)), loss=Loss(dice=1, bce=1),
    optimiser=Optimiser(lr=1e-2), budget=Budget(epochs=2),
)  # fmt: skip


@pytest.fixture
def frozen(tmp_path) -> Path:
    """A copy, every file as old as it was."""
    shutil.copytree(FROZEN, tmp_path, dirs_exist_ok=True)
    for key, nanoseconds in json.loads((FROZEN / "times.json").read_text()).items():
        os.utime(tmp_path / key, ns=(nanoseconds, nanoseconds))
    return tmp_path


def files(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and "_runs" not in p.parts}


@pytest.mark.parametrize("bucket", BUCKETS)
def test_nothing_is_done_again(frozen, bucket):
    place, (model, cases) = frozen / bucket, BUCKETS[bucket]
    before = files(place)
    source, labelmaps = str(place / "cases"), str(place / "labelmaps")
    sharded = preprocess.main(preprocess.Settings(source, str(place / "shards")))
    assert (sharded.counts["unchanged"], sharded.counts["written"], sharded.failed) == (cases, 0, [])
    models = (str(frozen / f"{model}.safetensors"),)
    segmented = segment.main(segment.Settings(source, labelmaps, models))
    assert (segmented.counts["unchanged"], segmented.counts["written"], segmented.failed) == (cases, 0, [])
    assert files(place) == before


@pytest.mark.parametrize("bucket", BUCKETS)
def test_no_score_is_computed_again(frozen, bucket):
    place = frozen / bucket
    labelmaps, source, report = (Store(str(place / name)) for name in ("labelmaps", "cases", "report"))
    listing = find_cases(source.list())
    index_figshare(listing, source, labelmaps)
    versions, cache = json.loads((FROZEN / "versions.json").read_text()), ScoreCache(report)
    # A local version of a labelmap tells when this copy of it was made, too.
    pairs = [replace(p, version=versions[p.case.id]) for p in match(listing.cases, labelmaps.list()).pairs]
    assert len(pairs) == BUCKETS[bucket][1] and all(cache.get(pair.fingerprint) for pair in pairs)


def test_its_model_segments(frozen):
    shard = next(iter((frozen / "brats" / "shards").glob("*.parquet"))).read_bytes()
    model = load_model((frozen / "tiny.safetensors").read_bytes(), "tiny")
    labels = Segmenter([model], "cpu")(read_volume(shard, model.preset.modalities))
    assert labels.any()


def plan_of(frozen: Path) -> Plan:
    return make_plan(read_catalogue(Store(str(frozen / "brats" / "shards"))), PRESET, 0)


def test_a_training_is_found_again(frozen):
    known, plan = json.loads((frozen / "training.json").read_text()), plan_of(frozen)
    assert plan.data == known["data"]
    one_epoch = make_plan([*plan.training, *plan.held_out], replace(PRESET, budget=Budget(epochs=1)), 0)
    assert one_epoch.run == known["run"]


def test_a_training_goes_on(frozen):
    """With the very loss that it would have had then, but for what processors round."""
    plan, store = plan_of(frozen), Store(str(frozen / "brats" / "shards"))

    def feed(epoch: int):
        rng = np.random.default_rng([0, epoch])
        items = pa.Table.from_pylist([{"epoch": epoch, "key": shard.key} for shard in plan.training])
        rows = read_rows(items, store, plan.preset, plan.turns(), False)
        samples = (one for table in by_case(rows) for one in samples_of(table, plan.preset, rng))
        return make_batches(samples, plan.preset, rng)

    state = (frozen / "training.pt").read_bytes()
    progress = train(plan.preset, batches=feed, on_epoch=lambda _: None, checkpoint=state, device="cpu")
    known = json.loads((frozen / "training.json").read_text())["losses"]
    assert progress.losses == pytest.approx(known, rel=1e-4)
