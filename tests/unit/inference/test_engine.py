"""bts.inference.engine: networks by OpenVINO give the labels that PyTorch gives."""

import importlib.metadata
import importlib.util
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from bts.errors import UsageError
from bts.inference import foreign
from bts.inference.engine import Compiled
from bts.inference.engine import load as load_openvino
from bts.inference.foreign.source import Asked, Source
from bts.inference.options import engine_version
from bts.inference.predictor import How
from bts.inference.segmenter import Segmenter
from bts.labels import REGIONS
from bts.model.device import has_bfloat16
from bts.model.file import Model
from bts.model.load import load
from bts.model.nets import FAMILIES, build
from bts.model.nets.folding import folded
from bts.notebook import read_case
from bts.presets import FAST, FAST3D
from bts.scoring.metrics import score
from bts.settings import Layers, Preset
from bts.storage import Store
from tests import builders, bundles, graphs, nnunet_folders

if importlib.util.find_spec("openvino") is None:  # not imported here: see the test of what it tells
    pytest.skip("OpenVINO is not installed", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore:::(torch|monai|onnxscript|openvino)")

SMALL = Layers(widths=(4, 8, 8), norm="instance", activation="leaky_relu")
TOML = """
channels = ["T1c", "T1", "T2", "FLAIR"]
outputs = ["TC", "WT", "ET"]
[window]
roi_size = [16, 16, 16]
overlap = 0.5
[[steps]]
step = "zscore"
nonzero = true
channel_wise = true
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    builders.put_all(Store(folder), builders.case_files("BraTS-GLI-00001-000", shape=(35, 30, 26)))
    return read_case(folder / "BraTS-GLI-00001-000")


def both(model, head) -> tuple[np.ndarray, np.ndarray]:
    """Labels by PyTorch, and by OpenVINO."""
    return Segmenter([model], "cpu")(head), Segmenter([model], "cpu", engine="openvino")(head)


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "norm"), [(2, "batch"), (3, "instance")])
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"encoder_unet"}))
def test_every_network_of_ours_at_sizes_and_batches_other_than_it_was_followed_at(family, dims, norm):
    torch.manual_seed(0)
    network = FAMILIES[family](4, 3, dims, replace(SMALL, norm=norm)).eval()
    compiled = Compiled(folded(network), torch.zeros(1, 4, *[8] * dims), any_size=True)
    for images in (torch.randn(3, 4, *[24, 16, 32][:dims]), torch.randn(1, 4, *[16] * dims)):
        with torch.inference_mode():
            expected = network(images)
        assert torch.allclose(compiled(images), expected, atol=2e-3 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("preset", "share"),
    [
        pytest.param(FAST, 0.0, id="fast"),
        pytest.param(FAST, 0.5, id="fast-own", marks=pytest.mark.slow),
        pytest.param(FAST3D, 0.0, id="fast3d", marks=pytest.mark.slow),
    ],
)
def test_labels_of_ours(head, preset: Preset, share):
    torch.manual_seed(1)
    settings = replace(preset.inference, own_statistics=share)
    preset = replace(preset, layers=replace(preset.layers, widths=(8, 16)), inference=settings)
    ours, theirs = both(Model(build(preset), preset, {}, ""), head)
    assert len(np.unique(ours)) > 1
    # Of an untrained network most voxels are near a half, and bfloat16 is rounded in another order.
    assert np.mean(ours != theirs) < (0.02 if has_bfloat16(torch.device("cpu")) else 0.001)


def nnunet(folder):
    return nnunet_folders.write(folder, regions=True, family="residual", mirror=(1,), folds=2)


def segresnet(folder):
    return bundles.write_bundle(folder)


def graph(folder):
    return graphs.write(folder, graphs.exported(bundles.untrained(bundles.NETWORK), 16, 16, 16), TOML)


@pytest.mark.slow
@pytest.mark.parametrize("make", [nnunet, segresnet, graph])
def test_labels_of_models_of_other_tools(tmp_path, head, make):
    """In float32: what differs is the order of sums."""
    _, data = foreign.convert(Source(str(make(tmp_path / "source"))), Asked(name="theirs"))
    ours, theirs = both(load(data, "theirs"), head)
    assert (ours != theirs).sum() <= 0.0005 * ours.size
    dice = score(ours, theirs, REGIONS, {})
    assert min(dice[region]["dice"] for region in REGIONS) >= 0.999
    assert len(np.unique(ours)) > 1


UNET = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 4, "out_channels": 3, "channels": [4, 8],
    "strides": [2],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "shapes"),
    [
        (bundles.NETWORK, ((16, 24, 16), (32, 16, 8), (16, 24, 16))),
        (bundles.NETWORK | {"upsample_mode": "pixelshuffle"}, ((16, 24, 16), (32, 16, 8))),
        (bundles.NETWORK | {"upsample_mode": "deconv"}, ((16, 24, 16), (32, 16, 8))),
        (UNET, ((16, 24, 16), (32, 16, 8))),
    ],
)
def test_windows_as_large_as_the_case_are_of_every_size(tmp_path, network, shapes):
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [-1, -1, -1]}
    source = bundles.write_bundle(tmp_path / "source", network_def=network, inferer=inferer)
    _, data = foreign.convert(Source(str(source)), Asked(name="theirs"))
    ready = foreign.predictor(load(data, "theirs"), How(device=torch.device("cpu"), engine="openvino"))
    plain = foreign.predictor(load(data, "theirs"), How(device=torch.device("cpu")))
    for shape in shapes:
        images = torch.randn(1, 4, *shape)
        with torch.inference_mode():
            expected = plain.forward(images)
            assert torch.allclose(ready.forward(images), expected, atol=2e-3 * expected.abs().max().item())


def test_a_network_that_openvino_does_not_run_is_refused(tmp_path):
    network = {
        "_target_": "SwinUNETR", "in_channels": 4, "out_channels": 3, "feature_size": 12,
        "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4],
    }  # fmt: skip
    source = bundles.write_bundle(tmp_path / "source", network_def=network)
    _, data = foreign.convert(Source(str(source)), Asked(name="theirs"))
    with pytest.raises(UsageError, match="theirs: OpenVINO does not run a SwinUNETR; give --engine torch"):
        Segmenter([load(data, "theirs")], "cpu", engine="openvino")


def test_openvino_tells_its_makers_nothing():
    load_openvino()
    assert sys.modules["openvino_telemetry"] is None


def test_without_the_package_it_says_what_to_install(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(UsageError, match=r"pip install -r requirements-openvino\.txt"):
        engine_version("openvino")
    with pytest.raises(UsageError, match=r"pip install -r requirements-openvino\.txt"):
        Compiled(torch.nn.Identity())


def test_gpus_are_refused():
    with pytest.raises(UsageError, match="runs on CPUs alone; give --gpu no"):
        How(device=torch.device("cuda"), engine="openvino")
