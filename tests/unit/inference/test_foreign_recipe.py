"""bts.inference.foreign: steps and windows, beside MONAI's own."""

import numpy as np
import pytest
import torch

from bts.errors import UsageError
from bts.inference.foreign.recipe import read_recipe
from bts.inference.foreign.steps import Placed, read_step
from bts.inference.foreign.windows import Window, slide
from tests import builders

pytestmark = pytest.mark.filterwarnings("ignore:::(torch|monai)")

ZSCORE = {"step": "zscore", "nonzero": True, "channel_wise": True}
ORIENT, RESAMPLE = {"step": "orient", "axes": "RAS"}, {"step": "resample", "mm": [1.5, 1, 2]}
RESCALE = {"step": "rescale", "low": 10, "high": 600, "to_low": -1, "to_high": 2, "clip": True}
WHOLE = {"roi_size": [-1, -1, -1]}
GOOD = {"steps": [ZSCORE], "window": WHOLE, "outputs": ["TC", "WT", "ET"], "activation": "sigmoid"}
GOOD["half_counts"] = True


def monai_steps(steps: list[dict]):
    from monai import transforms as of

    made = {
        "zscore": lambda nonzero=False, channel_wise=False: of.NormalizeIntensityd(
            "image", nonzero=nonzero, channel_wise=channel_wise
        ),
        "orient": lambda axes: of.Orientationd("image", axcodes=axes),
        "resample": lambda mm: of.Spacingd("image", pixdim=mm, mode="bilinear"),
        "rescale": lambda low, high, to_low, to_high, clip: of.ScaleIntensityRanged(
            "image", low, high, to_low, to_high, clip
        ),
    }
    return of.Compose([made[one["step"]](**{k: v for k, v in one.items() if k != "step"}) for one in steps])


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps",
    [
        [ZSCORE],
        [{"step": "zscore"}],
        [{"step": "zscore", "nonzero": True}],
        [RESCALE],
        [ORIENT, ZSCORE],
        [{"step": "orient", "axes": "SPL"}],
        [ORIENT, RESAMPLE, ZSCORE],
        [RESAMPLE, {"step": "orient", "axes": "LPS"}],
        [{"step": "resample", "mm": [1, 1, 1.0004]}],
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("codes", "zooms"), [("LPS", (1, 1, 1)), ("RAS", (1, 0.8, 3)), ("SRP", (0.9, 1.2, 1))]
)
def test_steps_are_those_of_monai_there_and_back(steps, codes, zooms):
    from monai.data import MetaTensor
    from monai.transforms import Invertd

    affine = builders.affine(codes, zooms, rotation=0.2)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 900, (2, 13, 17, 9)) * (rng.random((2, 13, 17, 9)) > 0.3)
    images = torch.from_numpy(images.astype(np.float32))
    theirs = monai_steps(steps)
    prepared = theirs({"image": MetaTensor(images.clone(), affine=torch.from_numpy(affine))})
    before, placed = [], Placed(images, affine)
    for step in (read_step(one, "m") for one in steps):
        before.append((step, placed.affine, placed.shape))
        placed = step.apply(placed)
    expected = prepared["image"].as_tensor()
    assert placed.images.shape == expected.shape
    torch.testing.assert_close(placed.images, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(placed.affine, prepared["image"].affine.numpy(), atol=1e-6)

    found = torch.rand((3, *placed.shape), generator=torch.Generator().manual_seed(2))
    back = Invertd("pred", theirs, orig_keys="image", nearest_interp=False)
    inverted = back({**prepared, "pred": MetaTensor(found.clone())})["pred"].as_tensor()
    for step, where, shape in reversed(before):
        found = step.undo(found, where, shape)
    torch.testing.assert_close(found, inverted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "window",
    [
        {"roi_size": (8, 8, 8)},
        {"roi_size": (16, 8, 24), "overlap": (0.5, 0.5, 0.5), "mode": "gaussian", "sw_batch_size": 3},
        {"roi_size": (24, 24, 24), "overlap": (0.6, 0.1, 0.3), "mode": "gaussian", "sigma_scale": 0.2},
        {"roi_size": (-1, 8, -1)},
        {"roi_size": (40, 8, 40), "padding_mode": "replicate"},
        {"roi_size": (40, 40, 40), "cval": -1.5},
    ],
    ids=str,
)
def test_windows_are_those_of_monai_to_the_last_bit(window):
    from monai.inferers import SlidingWindowInferer

    torch.manual_seed(0)
    images, network = torch.randn(2, 21, 16, 30), torch.nn.Conv3d(2, 3, 3, padding=1)
    with torch.inference_mode():
        theirs = SlidingWindowInferer(**window)(images[None], network)[0]
        assert torch.equal(slide(images, Window(**window), network), theirs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": [{"step": "blur"}]}, "not known; known are orient, resample, zscore"),
        ({"steps": [{"step": "zscore", "std": 3}]}, "'std' is not supported; supported are nonzero"),
        ({"steps": [{"step": "zscore", "nonzero": "yes"}]}, "'yes' where a bool is due"),
        ({"steps": [{"step": "orient"}]}, "axes is missing"),
        ({"steps": [{"step": "orient", "axes": "RAR"}]}, "none such as RAS"),
        ({"steps": [{"step": "orient", "axes": "XYZ"}]}, "none such as RAS"),
        ({"steps": [{"step": "resample", "mm": [1, 1, 1e-9]}]}, "not three numbers of 0.1 to 20 mm"),
        ({"steps": [{"step": "resample", "mm": [1, 1]}]}, "where 3 values are due"),
        ({"steps": [{"step": "rescale", "low": 1, "high": 1}]}, "range 1 to 1 is empty"),
        ({"steps": [{"step": "rescale", "low": float("nan"), "high": 1}]}, "nan where a float is due"),
        ({"steps": [ZSCORE] * 99}, "not a list of at most 16"),
        ({"window": {"roi_size": [9999, 8, 8]}}, "at most 512"),
        ({"window": WHOLE | {"overlap": [0.99, 0, 0]}}, "below 0.95"),
        ({"window": WHOLE | {"mode": "cubic"}}, "neither constant nor gaussian"),
        ({"window": WHOLE | {"sw_batch_size": 10**9}}, "from 1 to 64"),
        ({"window": 3}, "3 where its settings are due"),
        ({"outputs": ["WT", "TC"]}, "neither WT, TC, ET nor background"),
        ({"outputs": ["WT", "TC", "TC"]}, "neither WT, TC, ET nor background"),
        ({"activation": "softmax"}, "activation 'softmax' with TC, WT, ET; give sigmoid or none"),
        ({"code": "import os"}, "other parts than steps, window, outputs, activation"),
    ],
)
def test_a_recipe_is_checked(change, words):
    read_recipe(GOOD, "m")
    with pytest.raises(UsageError, match=words):
        read_recipe(GOOD | change, "m")
