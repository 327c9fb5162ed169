"""jobs.segment: what it refuses to replace, where its networks run, ensembles and engines."""

import gzip
import importlib.metadata
from dataclasses import replace

import numpy as np
import pytest

from bts.cases.layouts import find_cases
from bts.errors import UsageError
from bts.images.nifti import read_nifti, write_labelmap
from bts.model.file import save_model
from bts.model.nets import build
from bts.results.marker import Marker
from bts.settings import Budget, Layers, Loss, Preset
from bts.storage import Entry, Store
from jobs import segment
from jobs.driver import sizes
from jobs.driver.predicting import pool, side_by_side, wanted_gpus
from jobs.segment import check_apart
from tests import builders


def test_labelmaps_never_go_where_they_would_count_as_truths(tmp_path):
    keys = ["imagesTr/BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz", "imagesTs/BRATS_485.nii.gz"]
    cases, source = find_cases(Entry(key, 1, "v") for key in keys).cases, Store(tmp_path / "Task01")
    for folder in ("labelsTr", "labelsTs"):
        with pytest.raises(UsageError, match=f"{folder}/BRATS_001.nii.gz would count as ground truth"):
            check_apart(cases, source, Store(tmp_path / "Task01" / folder))
    for elsewhere in ("Task01", "Task01/labelmaps", "Task01b/labelsTr", "labelsTr"):
        check_apart(cases, source, Store(tmp_path / elsewhere))
    with pytest.raises(UsageError, match="another folder"):
        check_apart(cases, Store("s3://b"), Store("s3://b/x/labelsTs/"))


@pytest.mark.parametrize(
    ("cpus", "actors", "threads", "reserved"),
    [
        ([2], 1, 2, 1),
        ([16], 4, 4, 3),
        ([1, 1, 1], 3, 1, 0.5),  # three small nodes: no actor asks for more than one of them has
        ([0, 8, 8], 4, 4, 3),  # a head that computes nothing
        ([0], 1, 1, 0.5),  # an autoscaler that has no worker yet
    ],
)
def test_actors_fit_their_nodes(cpus, actors, threads, reserved):
    assert pool(cpus, 0) == (actors, threads, {"num_cpus": reserved})


def test_one_actor_a_gpu():
    assert pool([16, 16], 2) == (2, 1, {"num_gpus": 1})
    assert pool([16, 16], 2, share=0.4) == (4, 1, {"num_gpus": 0.4})


@pytest.mark.parametrize(
    ("room", "gibibytes", "cases"), [(1, 24, 2), (4, 64, 4), (4, 24, 3), (1, 8, 1), (0, 2, 1)]
)
def test_one_process_predicts_as_many_cases_as_fit(room, gibibytes, cases):
    assert side_by_side(room, gibibytes << 30) == cases


def test_gpus_are_asked_for(capsys):
    assert [wanted_gpus(gpu, 0, alone=False) for gpu in ("auto", "yes", "no")] == [0, 1, 0]
    assert capsys.readouterr().err.splitlines() == [
        "--gpu yes: the cluster has no GPU yet; predicting waits for one"
    ]
    assert [wanted_gpus(gpu, 3, alone=True) for gpu in ("auto", "yes", "no")] == [3, 3, 0]
    with pytest.raises(UsageError, match="no GPU"):
        wanted_gpus("yes", 0, alone=True)


def test_a_large_case_is_not_predicted_beside_another(tmp_path, model, monkeypatch, capsys):
    cases, labelmaps = Store(tmp_path / "cases"), Store(tmp_path / "labelmaps")
    small, large = (f"BraTS-SSA-0000{n}-000" for n in (0, 1))
    builders.put_all(cases, builders.case_files(small))
    builders.put_all(cases, builders.case_files(large, shape=(64, 64, 48)))
    most = sum(entry.size for entry in cases.list() if large in entry.key and "seg" not in entry.key)
    monkeypatch.setattr(sizes, "LARGE", most - 1)
    assert segment.main(segment.Settings(cases.uri, labelmaps.uri, (model,), ray="no")).counts["written"] == 2
    assert capsys.readouterr().err.count("segment: 1/1 cases") == 2


def test_a_labelmap_of_others_is_never_replaced_unless_asked_for(tmp_path, model):
    name = "BraTS-SSA-00000-000"
    cases, labelmaps = Store(tmp_path / "cases"), Store(tmp_path / "labelmaps")
    files = builders.case_files(name)
    builders.put_all(cases, files)
    truth = files[f"{name}/{name}-seg.nii.gz"]
    settings = segment.Settings(
        cases=cases.uri, labelmaps=labelmaps.uri, model=(model,), dry_run=True, overwrite=False
    )
    for foreign in (truth, b"no NIfTI", gzip.compress(b"short")):
        labelmaps.put(f"{name}.nii.gz", foreign)
        with pytest.raises(UsageError, match=rf"{name}.nii.gz: jobs.segment did not make .*--overwrite"):
            segment.main(settings)
        assert segment.main(replace(settings, overwrite=True)).counts["todo"] == 1
    grid = read_nifti(truth, "truth").grid
    labelmaps.put(f"{name}.nii.gz", write_labelmap(np.zeros(grid.shape, np.uint8), grid, "bts 0123"))
    assert segment.main(settings).counts["todo"] == 1  # cut off before its marker was written
    labelmaps.put(f"{name}.nii.gz", truth)
    labelmaps.put(f"_done/{name}.{'0' * 12}.json", b"{}")  # one of ours, edited since
    assert segment.main(settings).counts["todo"] == 1


def test_an_ensemble_is_of_one_kind(tmp_path):
    names = []
    for output, loss in (("sigmoid", Loss(bce=1)), ("softmax", Loss(ce=1))):
        preset = Preset(
            name=output,
            targets="labels",
            output=output,
            size=(32, 32),
            layers=Layers(widths=(4, 8)),
            budget=Budget(epochs=1),
            loss=loss,
        )
        names.append(str(tmp_path / output))
        (tmp_path / output).write_bytes(save_model(build(preset), preset, {}))
    with pytest.raises(UsageError, match=r"labels \(sigmoid\).*labels \(softmax\)"):
        segment.read_models(names)
    assert segment.read_models(names[:1]).finish.predicts.targets == "labels"


def test_another_engine_makes_the_labelmap_again_and_its_marker_says_so(tmp_path, model):
    cases, labelmaps = Store(tmp_path / "cases"), Store(tmp_path / "labelmaps")
    builders.put_all(cases, builders.case_files("BraTS-SSA-00000-000"))
    settings = segment.Settings(cases.uri, labelmaps.uri, (model,), ray="no")
    other = replace(settings, engine="openvino")

    def marker() -> Marker:
        (key,) = (entry.key for entry in labelmaps.list() if entry.key.startswith("_done/"))
        return Marker.from_json(labelmaps.read(key))

    assert segment.main(settings).counts["written"] == 1
    by_torch = marker()
    assert "engine" not in by_torch.options
    assert segment.main(other).counts["written"] == 1 and segment.main(other).counts["unchanged"] == 1
    assert marker().options["engine"] == f"openvino {importlib.metadata.version('openvino')}"
    assert marker().fingerprint != by_torch.fingerprint
    with pytest.raises(UsageError, match="runs on CPUs alone; give --gpu no"):
        segment.main(replace(other, gpu="yes"))
