"""The five published systems, to the letter: what docs/results/systems.md says of each preset."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.nn import functional

from bts.cases.figshare import read_slice
from bts.cases.layouts import find_cases
from bts.cases.read import load_case
from bts.inference.segmenter import Segmenter
from bts.model.file import Model
from bts.model.nets import build
from bts.model.normalise import constants, fill_background, normalise
from bts.model.resample import resize_labels, resize_probabilities
from bts.presets import PRESETS
from bts.settings import Normalisation
from bts.shards.format import read_volume, write_shard
from bts.storage import Store
from bts.training.batches import collate, samples_of
from bts.training.losses import total_loss
from bts.training.rows import read_rows
from bts.training.state import start
from bts.training.step import learning_rate
from tests import builders


def small(name: str, levels: int = 5, **changes):
    """The preset with few filters, at most so many levels of them."""
    preset = PRESETS[name]
    widths = tuple(4 for _ in preset.layers.widths[:levels])
    dropout = preset.layers.dropout[:levels]
    return replace(preset, layers=replace(preset.layers, widths=widths, dropout=dropout), **changes)


def rates(name: str, epochs: int, steps: int = 1000) -> list[float]:
    """Learning rate at the first step of each epoch of so many steps."""
    progress = start(small(name), torch.device("cpu"))
    found = []
    for progress.epoch in range(epochs):
        progress.step = progress.epoch * steps
        found.append(learning_rate(progress, 0.0))
    return found


def test_resunet2d_divides_its_rate_before_the_first_epoch_and_multiplies_its_decay():
    expected = [0.08 / 10 ** (n + 1) / (1 + 5e-6 * 10 ** (n + 1) * 1000 * n) for n in range(5)]
    assert rates("resunet2d", 5) == pytest.approx(expected)
    assert rates("resunet2d", 5, steps=0) == pytest.approx([8e-3, 8e-4, 8e-5, 8e-6, 8e-7])


@pytest.mark.parametrize(
    ("name", "after", "lowest"),
    [("unet2d", [1e-4, 5e-5, 2.5e-5], 1e-6), ("figshare2d", [1e-3, 1e-4, 1e-4], 1e-4),
     ("figshare3d", [5e-4, 2.5e-4, 1.25e-4], 0), ("unet3d", [1e-4, 1e-4, 1e-4], 1e-4)],
)  # fmt: skip
def test_the_others_rate_falls_on_plateaus_alone(name, after, lowest):
    assert rates(name, 3) == pytest.approx(after[:1] * 3)
    progress, found = start(small(name), torch.device("cpu")), []
    for progress.falls in range(3):
        found.append(learning_rate(progress, 0.0))
    assert found == pytest.approx(after)
    progress.falls = 99
    assert learning_rate(progress, 0.0) == pytest.approx(lowest)


@pytest.mark.parametrize(
    ("name", "trainable", "running"),
    [
        ("unet2d", 34_514_051, 0),
        ("figshare2d", 22_716_609, 1_920),  # as Keras counts them: 22,718,529
        ("figshare3d", 8_266_057, 0),
        ("unet3d", 5_645_828, 0),
        # Keras' 10,153,092 but for the biases of convolutions before a norm, which takes them out again.
        ("resunet2d", 10_153_092 - 1_408, 6_656),
    ],
)
def test_parameters_are_counted(name, trainable, running):
    with torch.device("meta"):
        network = build(PRESETS[name])
    assert sum(p.numel() for p in network.parameters()) == trainable
    assert sum(b.numel() for key, b in network.named_buffers() if "running" in key) == running


@pytest.fixture(scope="module")
def resunet() -> nn.Module:
    return build(PRESETS["resunet2d"])


def test_resunet2d_begins_with_2_by_2_pixels_and_has_3_by_3_and_1_by_1_after(resunet):
    kernels = [m.kernel_size for m in resunet.modules() if isinstance(m, nn.Conv2d)]
    assert kernels[0] == (2, 2) and resunet.down[0](torch.zeros(1, 4, 8, 8)).shape == (1, 64, 8, 8)
    assert kernels.count((2, 2)) == 1 + 3 + 3, "the first, three down, three up"
    assert kernels.count((3, 3)) == 2 * 7 and kernels.count((1, 1)) == 3 + 1


def test_the_2_by_2_kernel_sees_its_pixel_and_those_right_and_below(resunet):
    with torch.no_grad():
        spot = torch.zeros(1, 4, 8, 8)
        spot[..., 4, 4] = 1
        seen = (resunet.down[0](spot) - resunet.down[0](torch.zeros_like(spot))).abs().sum(dim=(0, 1))
    assert sorted(map(tuple, seen.nonzero().tolist())) == [(3, 3), (3, 4), (4, 3), (4, 4)]


def test_resunet2d_starts_as_keras_does(resunet):
    for module in resunet.modules():
        if isinstance(module, nn.PReLU):
            assert (module.weight == 0).all()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.momentum, module.eps) == (pytest.approx(0.01), 1e-3)
        if isinstance(module, nn.Conv2d):
            inputs, outputs = (
                n * math.prod(module.kernel_size) for n in (module.in_channels, module.out_channels)
            )
            bound = math.sqrt(6 / (inputs + outputs))
            assert 0.9 * bound < module.weight.abs().max() <= bound
            assert module.bias is None or (module.bias == 0).all()


def test_figshare2d_and_unet3d_start_with_hes_scale():
    for name in ("unet2d", "figshare2d", "unet3d"):
        for module in build(PRESETS[name]).modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d) and max(module.kernel_size) > 1:
                scale = math.sqrt(2 / (module.in_channels * math.prod(module.kernel_size)))
                assert module.weight.std().item() == pytest.approx(scale, rel=0.15)
                assert (module.bias == 0).all()


def test_figshare2d_norms_have_keras_epsilon():
    norms = [m for m in build(small("figshare2d")).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.momentum, m.eps) for m in norms} == {(0.2, 1e-3)} and len(norms) == 4


def test_unet3d_loss_is_dice_of_equal_weights_and_focal_of_alpha_a_quarter():
    """By hand as segmentation_models_3D has it, but for the constant that equal weights of 0.25 leave."""
    torch.manual_seed(0)
    logits = torch.randn(1, 4, 6, 6, 6)
    targets = nn.functional.one_hot(torch.randint(4, (1, 6, 6, 6)), 4).movedim(-1, 1).float()
    p, smooth = logits.softmax(1), 1e-5
    axes = (0, 2, 3, 4)
    scores = (2 * (p * targets).sum(axes) + smooth) / ((p + targets).sum(axes) + smooth)
    dice = 1 - (0.25 * scores).mean()
    focal = (-targets * 0.25 * (1 - p) ** 2 * p.log()).mean()
    found = total_loss(logits, targets, PRESETS["unet3d"].loss, "softmax")
    assert found + 0.75 == pytest.approx((dice + focal).item(), abs=1e-6)


def test_figshare3d_dice_is_hardly_smoothed():
    found = torch.full((1, 3, 2, 2, 2), 30.0)
    targets = torch.zeros_like(found)
    targets[:, 0] = 1  # the two absent types are found everywhere
    cost = total_loss(found, targets, PRESETS["figshare3d"].loss, "sigmoid")
    assert cost == pytest.approx(2 / 3, abs=1e-5)


FRAME = (64, 56)  # of a source of 24 × 20 pixels


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """The shard of one case whose brain does not fill its slices."""
    folder = tmp_path_factory.mktemp("systems")
    cases, made = Store(folder / "cases"), Store(folder / "shards")
    builders.put_all(cases, builders.case_files("BraTS-SSA-00001-000"))
    (case,) = find_cases(cases.list()).cases
    made.put("case.parquet", write_shard(load_case(case, cases), {}))
    return made


def trained_on(store: Store, preset) -> torch.Tensor:
    """What the network sees of the case's slices in an epoch of training, in their order."""
    items = pa.table({"epoch": [0], "key": ["case.parquet"]})
    table = read_rows(items, store, preset, {}, whole=False)
    rng = np.random.default_rng(0)
    batch = collate(samples_of(table, preset, rng), preset, rng)
    images, known = (torch.from_numpy(batch[name]) for name in ("images", "constants"))
    return fill_background(normalise(images, known), known, preset.normalisation)


def segmented(store: Store, preset) -> torch.Tensor:
    """What it sees of them when the case is segmented."""
    outputs, seen = 4 if preset.output == "softmax" else 3, []

    class Recorder(nn.Module):
        def forward(self, x_BCHW):
            seen.append(x_BCHW.cpu())
            return x_BCHW[:, :1].expand(-1, outputs, -1, -1)

    volume = read_volume(store.read("case.parquet"), preset.modalities)
    Segmenter([Model(Recorder(), preset, {}, "")]).probabilities(volume)
    return torch.cat(seen)


UNET2D = small(
    "unet2d", size=FRAME, frame=FRAME, levels=2,
    normalisation=Normalisation(kind="global_zscore", mean=(90.5,) * 4, std=(40.0,) * 4),
)  # fmt: skip


def test_unet2d_is_trained_on_just_what_it_segments(store):
    trained, segment = trained_on(store, UNET2D), segmented(store, UNET2D)
    assert trained.shape[2:] == FRAME and torch.equal(trained, segment)
    loose = replace(UNET2D, frame=None)
    assert not torch.equal(trained_on(store, loose), trained)
    assert segmented(store, loose).shape[2] < FRAME[0]


def test_the_brain_lies_in_the_frame_where_it_lies_in_the_source(store):
    volume = read_volume(store.read("case.parquet"), UNET2D.modalities)
    wanted = np.zeros((len(volume.mask), 4, *FRAME), bool)
    full = volume.whole(volume.images)[:, volume.origin[0] :][:, : len(volume.mask)].swapaxes(0, 1)
    height, width = full.shape[2:]
    y, x = (FRAME[0] - height) // 2, (FRAME[1] - width) // 2
    wanted[:, :, y : y + height, x : x + width] = full != 0
    assert np.array_equal((trained_on(store, UNET2D) != -90.5 / 40).numpy(), wanted)


def test_resunet2d_segments_whole_slices_normalised_as_they_are(store):
    preset = small("resunet2d", size=(8, 8), frame=FRAME, levels=2)
    seen = segmented(store, preset)
    assert seen.shape[2:] == FRAME and (seen[..., 0, 0] == -9).all()
    volume = read_volume(store.read("case.parquet"), preset.modalities)
    image = np.zeros(FRAME, np.float32)
    n, flair = 3, volume.images[0, 3]
    image[: flair.shape[0], : flair.shape[1]] = flair
    low, high = np.percentile(image, (1, 99))
    clipped = image.clip(low, high)
    inside = clipped[clipped != 0]
    expected = (clipped[image != 0] - inside.mean()) / inside.std()
    found = seen[n, 0].numpy()
    assert found[found != -9] == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("zeros", [0, 3, 50, 5000])
def test_percentiles_of_a_frame_are_numpys_of_the_whole_slice(zeros):
    brain = np.random.default_rng(0).normal(5, 4, (1, 1, 30, 40)).astype(np.float32)
    frame = (1, brain.size + zeros)
    settings = Normalisation(kind="slice_zscore", percentiles="frame")
    low, high, *_ = constants(brain, np.ones(1), np.ones(1), settings, frame)[0, 0]
    whole = np.concatenate([brain.ravel(), np.zeros(zeros, np.float32)])
    assert (low, high) == pytest.approx(np.percentile(whole, (1, 99)), rel=1e-5, abs=1e-6)


def test_a_slice_of_hardly_any_brain_is_all_background_to_a_frame():
    image = np.zeros((1, 1, 16, 16), np.float32)
    image[..., 3, 3] = 500
    settings = Normalisation(kind="slice_zscore", percentiles="frame", background=-9)
    known = torch.from_numpy(constants(image, np.ones(1), np.ones(1), settings, (240, 240)))
    assert (fill_background(normalise(torch.from_numpy(image), known), known, settings) == -9).all()


@pytest.mark.slow
def test_the_original_figshare2d_masks_would_be_too_large(real_data):
    """Its masks: a Gaussian of 1.5 pixels that ends at 6 (scikit-image's anti-aliasing), then bilinear, and
    all above 0 is tumour. Resized back, they cap the IoU with the set's own masks at 0.61, ours at 0.93.
    """
    files = (real_data / "figshare").glob("[0-9]*.mat")
    masks = [read_slice(path.read_bytes(), path.name).mask for path in files]
    masks = torch.from_numpy(np.stack([mask for mask in masks if mask.shape == (512, 512)]))[:, None]
    small = (128, 128)
    spread = functional.max_pool2d(masks.float(), 13, stride=1, padding=6)
    theirs = functional.interpolate(spread, small, mode="bilinear") > 0
    ours = resize_labels(masks[:, 0], small)[:, None]

    def iou(resized) -> float:
        back = resize_probabilities(resized.float(), (512, 512)) > 0.5
        both, either = (back & (masks > 0)), (back | (masks > 0))
        return (both.sum(dim=(1, 2, 3)) / either.sum(dim=(1, 2, 3))).mean().item()

    assert iou(theirs) == pytest.approx(0.61, abs=0.03) and iou(ours) == pytest.approx(0.93, abs=0.02)
