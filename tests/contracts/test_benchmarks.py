"""benchmarks: ratios that point the right way, material that is what it says, a cost model that adds up."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import requests, scale, segment
from benchmarks.accuracy import alone, arena, poses, robust
from benchmarks.gpu import bundle, pack, steps
from benchmarks.material import make_cases
from benchmarks.table import Row
from bts.cases.layouts import find_cases
from bts.intake import grids
from bts.model.file import load_model
from bts.presets import PRESETS
from bts.settings import Inference
from bts.storage import Store
from jobs import train
from jobs.driver import preset_flags
from tests import builders


def row(unit: str, ours: list[float], theirs: list[float], target: float) -> Row:
    return Row(what="x", unit=unit, ours=ours, against="y", theirs=theirs, target=target)


def test_a_ratio_says_how_many_times_better_ours_is_pair_by_pair():
    seconds = row("s/case", [1.0, 2.0, 1.0], [3.0, 8.0, 2.0], target=3)
    assert seconds.ratios == [3, 4, 2] and seconds.ratio == 3
    assert "yes" in seconds.line() and "2.00–4.00" in seconds.line()
    rates = row("slices/s", [300.0], [100.0], target=4)
    assert rates.ratio == 3 and "NO" in rates.line()


def test_two_systems_are_compared_over_the_cases_that_both_have():
    mine, others = ({f"c{n}": less + n / 10 for n in range(7)} for less in (0.2, 0.1))
    assert arena.difference(mine, others) == "+0.100 (+0.100 to +0.100), p 0.016"
    assert arena.difference(mine, {"c0": 0.1, "other": 1.0}) == "+0.100"


def test_more_cases_than_originals_are_whole_cases_of_other_names(tmp_path):
    listing = find_cases(Store(str(make_cases(tmp_path, 40))).list(), "auto")
    assert len(listing.cases) == 40 and not listing.strays and not listing.problems
    assert all(set(case.files) == {"t1", "t1ce", "t2", "flair", "seg"} for case in listing.cases)


def test_the_flags_of_their_trainings_are_flags():
    def parsed(*flags: str):
        given = ["fast", "--shards", "s", "--models", "m", *flags]
        return preset_flags.parse("train", train.Settings, train.__doc__, given).preset

    assert parsed(*segment.BASIC).inference == Inference(), "MONAI's chain has no postprocessing"


def test_what_is_trained_on_a_gpu_are_presets_with_flags_of_theirs():
    for trainings in steps.TRAININGS.values():
        for flags in trainings.values():
            given, preset = alone.parse([*flags, "--shards", "s", "--place", "p", "--minutes", "2"])
            assert preset.budget.minutes == 2 and preset.budget.epochs is None
            assert given.preset == flags[0] and ("--everyone" in flags) == given.everyone


def test_the_mean_of_trainings_is_that_of_their_weights(tmp_path):
    outs = [tmp_path / "one", tmp_path / "two"]
    for seed, out in enumerate(outs):
        (out / "fast-0-fold-0").mkdir(parents=True)
        (out / "fast-0-fold-0" / "fast-0.safetensors").write_bytes(builders.tiny_model(seed, epochs=seed))
    one, two = (bundle.read([out], "fast", "0") for out in outs)
    mean = bundle.read(outs, "fast", "0")
    for name, of in mean.network.state_dict().items():
        first, second = (model.network.state_dict()[name] for model in (one, two))
        assert np.allclose(of, (first + second) / 2) and of.dtype == first.dtype
    assert mean.meta["mean_of"] == [one.digest, two.digest] and mean.meta["epochs"] == 1
    assert mean.preset.inference == PRESETS["fast"].inference and "mean_of" not in two.meta


@pytest.mark.slow
def test_a_model_is_judged_under_each_condition(tmp_path, monkeypatch, capsys):
    cases, model = tmp_path / "cases", tmp_path / "model.safetensors"
    builders.put_all(Store(str(cases)), builders.case_files("BraTS-GLI-00001-000"))
    model.write_bytes(builders.tiny_model())
    few = {name: robust.CONDITIONS[name] for name in ("as it is", "without t1ce", "slices 3 mm apart")}
    monkeypatch.setattr(robust, "CONDITIONS", few)
    monkeypatch.setattr(sys, "argv", ["robust", str(cases), "--model", str(model)])
    robust.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].removeprefix("| ") for row in rows] == list(few)
    assert all(0 <= float(dice) <= 1 for row in rows for dice in row[1:4])
    assert "missing" in rows[1][4] and "missing" not in rows[0][4]


def test_the_dice_of_poses_counts_a_region_that_is_empty_on_both_sides_as_1():
    truth, found = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)
    truth[0, :2], found[0, :1] = 2, 2  # oedema: no core, nothing enhances
    assert poses.dice(truth, found) == {"WT": pytest.approx(2 / 3), "TC": 1, "ET": 1}


def test_parts_of_a_pack_are_filled_in_order_and_none_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "MOST", 10)
    (tmp_path / "part-1").mkdir()
    (tmp_path / "part-1" / "code.tar.gz").write_bytes(b"1234")
    files = [("figshare/a", b"123456"), ("brats/b", b"12345"), ("brats/c", b"12345"), ("brats/d", b"1")]
    assert pack.fill(tmp_path, files) == 3
    parts = {file.name: file.parent.parent.name for file in tmp_path.glob("part-*/*/*")}
    assert parts == {"a": "part-1", "b": "part-2", "c": "part-2", "d": "part-3"}


def test_a_head_in_a_known_pose_and_thick_slices_comes_back_by_it():
    pytest.importorskip("SimpleITK", reason="requirements-intake.txt is not installed")
    ball = np.zeros(grids.BRATS.shape, np.float32)
    ball[60:90, 100:140, 70:120] = 100
    moved = poses.pose(np.random.default_rng(0), *poses.BASE, grids.BRATS.centre)
    seen = poses.scan(grids.Image(ball, grids.BRATS), moved, 5.0)
    assert np.allclose(seen.lattice.zooms, (0.9, 0.9, 5)) and grids.turn_deg(moved) > 5
    back = grids.resample(seen, grids.BRATS, moved)
    middles = [np.argwhere(voxels > 50).mean(0) for voxels in (ball, back)]
    assert np.abs(middles[0] - middles[1]).max() < 0.5
    assert (back > 50).sum() == pytest.approx((ball > 50).sum(), rel=0.05)


def test_twice_the_cluster_takes_half_the_hours_and_the_scarcer_part_binds():
    few = scale.Figures(cores=8, gpus=1, read_s=0.3, write_s=0.1, predict_gpu_s=0.05)
    first, second, binds = scale.hours(few, 1000)
    assert first == pytest.approx(1000 * few.preprocess_s / 8 / 3600)
    assert second == pytest.approx(1000 * 0.05 / 3600) and binds == "CPU"  # 8 cores: in balance
    assert scale.hours(replace(few, cores=16), 1000)[1:] == (second, "GPU")
    assert scale.hours(replace(few, cores=16, gpus=2), 1000)[1] == pytest.approx(second / 2)
    without = replace(few, gpus=0)
    assert scale.hours(without, 1000)[1] == pytest.approx(1000 * (0.4 + without.predict_cpu_s) / 8 / 3600)


def test_the_cases_requests_are_counted_over_the_jobs_own_tasks(tmp_path, capsys):
    builders.put_all(Store(str(tmp_path / "cases")), builders.case_files("BraTS-SSA-00001-000"))
    requests.send(str(tmp_path))
    said = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["list 1 cases", "preprocess", "segment", "evaluate"]
    for folder, pattern in (("shards", "*.parquet"), ("labelmaps", "*.nii.gz"), ("report", "cases/*.html")):
        assert len(list((tmp_path / folder).glob(pattern))) == 1


@pytest.mark.slow
def test_a_training_without_ray_goes_on_where_it_was_cut_off(tmp_path, monkeypatch, capsys):
    shards, place = builders.phantom_shards(tmp_path), tmp_path / "place"
    epochs = []
    flags = ["fast", "--shards", str(shards), "--place", str(place), "--budget.minutes", "None"]
    flags += ["--size", "32", "32", "--batch", "8", "--layers.widths", "8", "16"]
    for upto in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["alone", *flags, "--budget.epochs", upto])
        alone.main()
        model = load_model((place / "fast-fold-0" / "fast.safetensors").read_bytes(), "fast")
        epochs.append(model.meta["epochs"])
    assert epochs == [1, 2]
    assert capsys.readouterr().out.count("epoch 1, ") == 1, "the second run did not begin anew"
