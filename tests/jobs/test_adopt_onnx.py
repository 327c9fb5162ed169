"""ONNX adopted and run by jobs.segment: the labelmaps of the network that was exported, ours or MONAI's."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
import torch

from bts.labels import TARGETS
from bts.model.file import load_model, save_model
from bts.model.nets import build
from bts.settings import Budget, Layers, Loss, Preset, Sampling
from bts.storage import Store
from jobs import adopt, segment
from tests import builders, bundles, graphs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::(torch|onnxscript)")]

SHAPE = (24, 32, 16)  # x, y, z: of the cases, and of the one window that holds them
CASES = ("BraTS2021_00001", "BraTS2021_00002")
TOML = """
channels = ["t1", "t1ce", "t2", "flair"]
outputs = ["WT", "TC", "ET"]
[window]
roi_size = [16, 32, 24]
[[steps]]
step = "orient"
axes = "SPL"
[[steps]]
step = "zscore"
nonzero = true
channel_wise = true
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(our model's file, the folder of its export)"""
    folder, (x, y, z) = tmp_path_factory.mktemp("models"), SHAPE
    torch.manual_seed(2)
    preset = Preset(
        name="own", size=(z, y, x), layers=Layers(widths=(4, 8), norm="instance"), loss=Loss(bce=1),
        sampling=Sampling(kind="volumes"), budget=Budget(epochs=1),
    )  # fmt: skip
    untrained = build(preset)
    last = [module for module in untrained.modules() if isinstance(module, torch.nn.Conv3d)][-1]
    with torch.no_grad():  # so that each label is somewhere
        last.weight.mul_(8)
        last.bias.zero_()
    (folder / "own.safetensors").write_bytes(save_model(untrained, preset, {}))
    network = load_model((folder / "own.safetensors").read_bytes(), "own").network
    assert list(TARGETS[preset.targets]) == ["WT", "TC", "ET"]
    graph = graphs.exported(network, z, y, x)
    return folder / "own.safetensors", graphs.write(folder / "export", graph, TOML)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Brain from edge to edge, so that our crop is the whole, and stored back to front."""
    store = Store(tmp_path_factory.mktemp("cases"))
    for seed, case in enumerate(CASES):
        rng = np.random.default_rng(seed)
        for role in ("t1", "t1ce", "t2", "flair"):
            voxels = rng.integers(1, 900, SHAPE).astype(np.int16)
            store.put(f"{case}/{case}_{role}.nii.gz", builders.nifti(voxels, builders.affine("RAS")))
    return store.uri


def run(cases, labelmaps, *models, **flags):
    where = {"cases": cases, "labelmaps": str(labelmaps), "model": tuple(map(str, models))}
    outcome = segment.main(segment.Settings(**where, ray="no", gpu="no", **flags))
    assert not outcome.failed and outcome.counts["written"] == len(CASES)
    files = (gzip.decompress(Store(str(labelmaps)).read(f"{case}.nii.gz")) for case in CASES)
    return [np.asanyarray(nib.Nifti1Image.from_bytes(file).dataobj) for file in files]


def test_its_labelmaps_are_the_network_s_own(cases, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # ours in float32 too
    own, export = models
    assert adopt.main(adopt.Settings(str(export), str(tmp_path), "exported")).counts["kind"] == "onnx"
    adopted = tmp_path / "exported.safetensors"
    ours, theirs = run(cases, tmp_path / "a", own), run(cases, tmp_path / "b", adopted, probabilities=True)
    for one, other in zip(ours, theirs, strict=True):
        assert len(np.unique(other)) >= 3
        assert (one != other).mean() < 1e-3, "no more than rounding"
    (marker,) = (tmp_path / "b" / "_done").glob(f"{CASES[0]}.*.json")
    (model,) = json.loads(marker.read_text())["models"]
    assert model["kind"] == "onnx" and model["name"] == str(adopted)
    sure = np.asanyarray(nib.load(tmp_path / "b" / "_probabilities" / f"{CASES[0]}.ET.nii.gz").dataobj)
    np.testing.assert_array_equal(sure >= 128, theirs[0] == 4)
    run(cases, tmp_path / "c", own, adopted)


def test_monai_s_network_in_either_form_from_a_bucket(cases, tmp_path, monkeypatch, bucket):
    """A bundle and an ONNX export of its network, adopted into a bucket and run over cases there."""
    monkeypatch.chdir(tmp_path)
    there = Store(f"{bucket.uri}/cases")
    builders.put_all(there, {entry.key: Store(cases).read(entry.key) for entry in Store(cases).list()})
    bundle = bundles.write_bundle(tmp_path / "bundle")
    toml = TOML.replace('"SPL"', '"RAS"').replace("[16, 32, 24]", "[32, 32, 32]\noverlap = 0.5")
    toml = toml.replace('["t1", "t1ce", "t2", "flair"]', '["t1ce", "t1", "t2", "flair"]')
    toml = toml.replace('["WT", "TC", "ET"]', '["TC", "WT", "ET"]')
    graph = graphs.exported(bundles.untrained(bundles.NETWORK), 32, 32, 32)
    graph = graphs.write(tmp_path / "export", graph, toml)
    labelmaps = {}
    for name, source in (("bundle", bundle), ("graph", graph)):
        adopt.main(adopt.Settings(str(source), f"{bucket.uri}/models", name))
        model = f"{bucket.uri}/models/{name}.safetensors"
        labelmaps[name] = run(there.uri, f"{bucket.uri}/{name}", model)
    for one, other in zip(*labelmaps.values(), strict=True):
        assert len(np.unique(one)) >= 3 and (one != other).mean() < 1e-3
    both = (f"{bucket.uri}/models/{name}.safetensors" for name in labelmaps)
    for one, other in zip(run(there.uri, tmp_path / "both", *both), labelmaps["bundle"], strict=True):
        assert (one != other).mean() < 1e-3, "their mean is what each of them says"
