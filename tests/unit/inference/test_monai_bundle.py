"""bts.inference.foreign.bundle: a bundle of MONAI's model zoo is adopted, and nothing of it is run."""

import json
import os
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bts.errors import UsageError
from bts.inference import foreign
from bts.inference.foreign.source import Asked, Source
from bts.inference.predictor import How
from bts.model.adopted import load_adopted
from bts.model.targets import LABELS, REGIONAL
from tests import bundles
from tests.bundles import FINISH, INVERT, PREPARE, step

pytestmark = pytest.mark.filterwarnings("ignore:::(torch|monai)")

HOW = How(device=torch.device("cpu"))


@pytest.fixture(scope="module")
def weights():
    return bundles.untrained(bundles.NETWORK).state_dict()


def adopt(folder, name="zoo", **asked):
    kind, data = foreign.convert(Source(str(folder)), Asked(name=name, **asked))
    assert kind == "monai"
    return load_adopted(data, name)


def compose(*steps: dict) -> dict:
    return {"_target_": "Compose", "transforms": list(steps)}


def test_the_zoo_s_bundle_is_understood(tmp_path, weights):
    model = adopt(bundles.write_bundle(tmp_path, weights))
    assert model.card.modalities == ("t1ce", "t1", "t2", "flair") and model.card.predicts == REGIONAL
    assert model.description["recipe"] == {
        "steps": [{"step": "zscore", "nonzero": True, "channel_wise": True}],
        "window": {"roi_size": [32, 32, 32], "sw_batch_size": 1, "overlap": [0.5, 0.5, 0.5]},
        "outputs": ["TC", "WT", "ET"],
        "activation": "sigmoid",
        "half_counts": True,
    }
    arguments = {key: value for key, value in bundles.NETWORK.items() if key != "_target_"}
    assert model.description["network"] == {"name": "SegResNet", "arguments": arguments}
    assert model.description["amp"] is True
    ready = foreign.predictor(model, HOW)
    assert torch.equal(ready.network.state_dict()["convInit.conv.weight"], weights["convInit.conv.weight"])


def test_a_zip_is_as_good_and_gives_the_same_voxels(tmp_path, weights):
    folder = bundles.write_bundle(tmp_path / "brats", weights)
    with zipfile.ZipFile(tmp_path / "brats.zip", "w") as file:
        for path in folder.rglob("*.*"):
            file.write(path, path.relative_to(tmp_path))
    zipped, plain = adopt(tmp_path / "brats.zip"), adopt(folder)
    assert zipped.description == plain.description and zipped.card == replace(
        plain.card, digest=zipped.card.digest
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"network_def": bundles.NETWORK | {"_target_": "monai.networks.nets.SegResNet"}}, None),
        ({"network_def": bundles.NETWORK | {"_target_": "monai.networks.nets.segresnet.SegResNet"}}, None),
        ({"roi": [24, 24, 24], "inferer": {"_target_": "SlidingWindowInferer", "roi_size": "@roi"}}, None),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": "$(24, 24, 24)"}}, None),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": 24, "device": "$torch.device('cuda')"}},
         None),
        ({"preprocessing": compose({**PREPARE[0], "_target_": "monai.transforms.LoadImageD"}, *PREPARE[1:])},
         [{"step": "zscore", "nonzero": True, "channel_wise": True}]),
        ({"preprocessing": compose(
            PREPARE[0], step("EnsureChannelFirstd", "image"), step("EnsureTyped", "image", device="@device"),
            step("Orientationd", "image", axcodes="RAS"),
            step("Spacingd", "image", pixdim=[1, 1, 1], mode="bilinear"),
            step("ScaleIntensityRanged", ["image"], a_min=0, a_max=9, b_min=0, b_max=1, clip=True),
            {**step("RandFlipd", "image"), "_disabled_": True})},
         [{"step": "orient", "axes": "RAS"},
          {"step": "resample", "mm": [1, 1, 1], "nearest": False},
          {"step": "rescale", "low": 0, "high": 9, "to_low": 0, "to_high": 1, "clip": True}]),
    ],
)  # fmt: skip
def test_ways_to_write_the_same(tmp_path, weights, change, expected):
    model = adopt(bundles.write_bundle(tmp_path, weights, **change))
    if expected is not None:
        assert model.description["recipe"]["steps"] == expected
    foreign.predictor(model, HOW)


def test_exclusive_labels_by_softmax(tmp_path):
    finish = [step("Activationsd", softmax=True), INVERT, step("AsDiscreted", argmax=True), FINISH[-1]]
    network = bundles.NETWORK | {"out_channels": 4}
    meta = bundles.metadata(outputs=("background", "NCR/NET", "edema", "enhancing tumor"))
    folder = bundles.write_bundle(tmp_path, meta=meta, network_def=network, postprocessing=compose(*finish))
    model = adopt(folder)
    assert model.card.predicts == LABELS
    assert model.description["recipe"]["outputs"] == ["background", "NCR", "ED", "ET"]
    foreign.predictor(model, HOW)


def test_channels_are_named_or_said(tmp_path, weights):
    folder = bundles.write_bundle(tmp_path, weights, meta=bundles.metadata(inputs=("a", "b", "c", "d")))
    with pytest.raises(UsageError, match="its channels are called a, b, c, d; say which"):
        adopt(folder)
    assert adopt(folder, channels=("flair", "t1", "t1ce", "t2")).card.modalities[0] == "flair"
    with pytest.raises(UsageError, match="--channels t1: the model has 4: a, b, c, d"):
        adopt(folder, channels=("t1",))
    folder = bundles.write_bundle(tmp_path, weights, meta={})
    with pytest.raises(UsageError, match=r"4 input and 3 output channels, the description 1 \(t1\) and 3"):
        foreign.predictor(adopt(folder, channels=("t1",)), HOW)


def one_step(name: str, **arguments: object) -> dict:
    return {"preprocessing": compose(*PREPARE, step(name, "image", **arguments))}


def finish_with(*steps: dict) -> dict:
    return {"postprocessing": compose(*steps)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (one_step("CropForegroundd", source_key="image"), "transforms::2: the step CropForegroundd is not"),
        (one_step("Spacingd", pixdim=[1, 1, 1], mode=3), "Spacingd's mode 3 is not supported; 'bilinear' is"),
        (one_step("NormalizeIntensityd", subtrahend=[1]), "argument subtrahend is not supported"),
        (one_step("EnsureTyped", dtype="$torch.float16"), "would be run as Python"),
        (one_step("Orientationd", axcodes="RAS", lazy=True), "argument lazy is not supported"),
        ({"preprocessing": compose(PREPARE[1])}, "does not begin with LoadImaged"),
        ({"inferer": {"_target_": "SliceInferer", "roi_size": 8}}, "inferer SliceInferer is not supported"),
        ({"network_def": {"_target_": "HighResNet"}}, "network HighResNet is not supported; supported are"),
        ({"network_def": bundles.NETWORK | {"spatial_dims": 2}}, "only 3 is supported"),
        ({"network_def": bundles.NETWORK | {"blocks": 2}}, "argument blocks is not supported"),
        ({"network_def": bundles.NETWORK | {"init_filters": 10**9}}, "more than any network has"),
        ({"network_def": bundles.NETWORK | {"init_filters": 16}}, "SegResNet and its weights do not match"),
        ({"network_def": bundles.NETWORK | {"init_filters": 4096}}, "SegResNet and its weights do not match"),
        ({"network_def": bundles.NETWORK | {"_mode_": "callable"}}, "_mode_ is not supported"),
        (finish_with(*FINISH[:2], step("KeepLargestConnectedComponentd")), "KeepLargestConnectedComponent"),
        (finish_with(FINISH[0], step("AsDiscreted", threshold=0.3)), "'threshold': 0.3} is not supported"),
        (finish_with(FINISH[2], FINISH[0]), "an order that is not supported"),
        (one_step("Spacingd", pixdim=[1, 1, 1]) | finish_with(FINISH[0], FINISH[2]), "no Invertd"),
        (one_step("Spacingd", pixdim=[1, 1, 1]) | finish_with(FINISH[0], FINISH[2], INVERT),
         "Invertd after AsDiscreted without nearest_interp"),
        ({"roi": ["@roi"], "inferer": {"_target_": "SlidingWindowInferer", "roi_size": "@roi"}},
         "in a circle"),
        ({"a": "@b", "b": "@a", "inferer": "@a"}, "in a circle"),
        ({"inferer": "@nowhere"}, "refers to nowhere, which is not there"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(tmp_path, weights, change, words):
    with pytest.raises(UsageError, match=words) as refused:
        foreign.predictor(adopt(bundles.write_bundle(tmp_path, weights, **change)), HOW)
    assert "\n" not in str(refused.value)


def paint(func: str) -> dict:
    return finish_with(*FINISH[:3], step("Lambdad", func=func))


class Trap:
    """What pickle would call on loading."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def hostile(trace) -> dict[str, dict]:
    """Changes of a config that would each make a folder if anything of it were run."""
    run = f"__import__('os').mkdir({str(trace)!r})"
    return {
        "expression": {"inferer": {"_target_": "SlidingWindowInferer", "roi_size": f"${run}"}},
        "nested": {"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [f"$[{run}, 8][1]", 8, 8]}},
        "target": {"network_def": {"_target_": "os.mkdir", "path": str(trace)}},
        "step": {"preprocessing": compose(*PREPARE, {**step("os.mkdir", "image"), "path": str(trace)})},
        "package": {"network_def": bundles.NETWORK | {"_target_": "monai.utils.SegResNet"}},
        "lambda": paint(f"$lambda x: torch.where(x[[2]] > 0, 4, {run})"),
        "first": paint(f"${run} or (lambda x: x)"),
        "requires": {"network_def": bundles.NETWORK | {"_requires_": f"${run}"}},
        "macro": {"inferer": "%/etc/passwd::inferer"},
        "disabled": {"network_def": bundles.NETWORK | {"_disabled_": f"${run}"}},
    }


@pytest.mark.parametrize("which", hostile("x"))
def test_a_hostile_config_is_refused_and_not_run(tmp_path, weights, which):
    trace = tmp_path / "ran"
    folder = bundles.write_bundle(tmp_path / "bundle", weights, **hostile(trace)[which])
    with pytest.raises(UsageError, match=r"refused|not supported|would be run as Python"):
        adopt(folder)
    assert not trace.exists()


def test_expressions_that_nobody_needs_are_left_alone(tmp_path, weights):
    """As the zoo's own imports and lists of cases are."""
    trace = tmp_path / "ran"
    run = f"$__import__('os').mkdir({str(trace)!r})"
    adopt(bundles.write_bundle(tmp_path / "bundle", weights, imports=[run], test_datalist=run, run=[run]))
    assert not trace.exists()


def test_a_pickle_with_a_trap_is_not_loaded(tmp_path):
    trace = tmp_path / "ran"
    folder = bundles.write_bundle(tmp_path / "bundle", {"model": {"w": Trap(trace)}})
    with pytest.raises(UsageError, match=r"models/model\.pt: no plain weights, and nothing else is loaded"):
        adopt(folder)
    assert not trace.exists()


@pytest.mark.parametrize(
    "holds",
    [
        [1, 2],
        {"model": {"w": 3}},
        {},
        {None: torch.zeros(3)},
        {"w": torch.zeros(3, device="meta")},
        {"w": torch.eye(3).to_sparse()},
    ],
)
def test_a_checkpoint_without_a_network(tmp_path, holds):
    with pytest.raises(UsageError, match="holds no state dict of a network"):
        adopt(bundles.write_bundle(tmp_path, holds))


def test_a_checkpoint_of_training(tmp_path, weights):
    plain = adopt(bundles.write_bundle(tmp_path / "a", weights))
    trained = adopt(bundles.write_bundle(tmp_path / "b", {"model": weights, "epoch": 3}))
    assert plain.weights.keys() == trained.weights.keys()


def test_the_checkpoint_that_the_bundle_loads_is_the_one_that_is_read(tmp_path, weights):
    """Not another one beside it, nor another network's weights within it."""
    other = [{"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model_best.pt'",
              "load_dict": {"model": "@network"}}]  # fmt: skip
    folder = bundles.write_bundle(tmp_path / "other", weights, handlers=other)
    with pytest.raises(UsageError, match=r"handlers::0: loads .*model_best\.pt', .* models/model\.pt"):
        adopt(folder)
    mean = [{**other[0], "load_path": "$@ckpt_dir + '/model.pt'", "load_dict": {"ema": "@network"}}]
    both = {"model": {key: value + 1 for key, value in weights.items()}, "ema": weights}
    model = adopt(bundles.write_bundle(tmp_path / "mean", both, handlers=mean))
    assert all(torch.equal(model.weights[key], value) for key, value in weights.items())


@pytest.mark.parametrize("keys", [["label", "image"], ["image", "label"]])
def test_steps_of_the_image_count_wherever_it_stands_beside_a_label(tmp_path, weights, keys):
    load, space = {**PREPARE[0], "keys": keys}, step("Spacingd", keys, pixdim=[1.0, 1.0, 2.0])
    modes = {"image": "bilinear", "label": "nearest"}
    steps = compose(load, {**space, "mode": [modes[key] for key in keys]}, PREPARE[1])
    finish = compose(*FINISH)
    folder = bundles.write_bundle(tmp_path, weights, preprocessing=steps, postprocessing=finish)
    found = [one["step"] for one in adopt(folder).description["recipe"]["steps"]]
    assert found == ["resample", "zscore"]
    swapped = compose(load, {**space, "mode": [modes[key] for key in keys[::-1]]}, PREPARE[1])
    with pytest.raises(UsageError, match="Spacingd's mode"):
        adopt(bundles.write_bundle(tmp_path, weights, preprocessing=swapped))


EVALUATOR = {"_target_": "SupervisedEvaluator"}
OTHER = {"_target_": "SlidingWindowInferer", "roi_size": [64, 64, 64]}
SWAPPED = bundles.metadata(outputs=("Enhancing tumor", "Tumor core", "Whole tumor"))
HALF = step("ScaleIntensityRanged", "image", a_min=0, a_max=9, b_min=-1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evaluator": EVALUATOR | {"inferer": OTHER}}, "evaluator::inferer is .*@inferer"),
        ({"evaluator": EVALUATOR | {"network": "@teacher"}}, "@teacher.*@network"),
        ({"evaluator": EVALUATOR | {"postprocessing": "@quick"}}, "@quick.*@postproc"),
        ({"dataset": {"_target_": "Dataset", "transform": "@other"}}, "dataset::transform is '@other'"),
        ({"meta": SWAPPED}, "metadata.json calls output 0 Enhancing tumor, .* paints TC"),
        ({"preprocessing": compose(PREPARE[0], HALF)}, "ScaleIntensityRanged .*b_min and b_max"),
    ],
)
def test_what_the_bundle_says_twice_must_agree(tmp_path, weights, change, words):
    """Whichever was read, the other might be what runs."""
    with pytest.raises(UsageError, match=words):
        adopt(bundles.write_bundle(tmp_path, weights, **change))


def test_interpolated_logits_are_not_interpolated_probabilities(tmp_path):
    network, meta = (
        bundles.NETWORK | {"out_channels": 4},
        bundles.metadata(outputs=("background", "NCR", "ED", "ET")),
    )
    prepare = compose(PREPARE[0], step("Spacingd", "image", pixdim=[1, 1, 2]), PREPARE[1])
    finish = compose(INVERT, step("AsDiscreted", argmax=True), FINISH[-1])
    with pytest.raises(UsageError, match="without Activationsd before it"):
        adopt(bundles.write_bundle(tmp_path, meta=meta, network_def=network, preprocessing=prepare,
                                   postprocessing=finish))  # fmt: skip


def test_weights_that_were_not_downloaded(tmp_path, weights):
    folder = bundles.write_bundle(tmp_path, weights)
    (folder / "models" / "model.pt").unlink()
    with pytest.raises(UsageError, match=r"has no models/model\.pt; download the whole bundle"):
        adopt(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"name": "os.system", "arguments": {}}},
        {"network": {"name": "SegResNet", "arguments": {"init_filters": 1e30}}},
        {"network": {"name": ["SegResNet"], "arguments": {}}},
        {"network": None},
        {"recipe": {"steps": "$import os"}},
        {"recipe": None},
    ],
    ids=json.dumps,
)
def test_a_description_from_anybody_is_checked_again(tmp_path, weights, change):
    model = adopt(bundles.write_bundle(tmp_path, weights))
    changed = SimpleNamespace(card=model.card, weights=model.weights, description=model.description | change)
    with pytest.raises(UsageError, match="zoo"):
        foreign.KINDS["monai"].predictor(changed, HOW)


@pytest.mark.parametrize(
    "definition",
    [
        {"_target_": "UNet", "spatial_dims": 3, "channels": [4, 8], "strides": [2], "num_res_units": 1,
         "norm": "batch", "act": ["leakyrelu", {"negative_slope": 0.1}]},
        {"_target_": "DynUNet", "spatial_dims": 3, "kernel_size": [3, 3, 3], "strides": [1, 2, 2],
         "upsample_kernel_size": [2, 2], "filters": [4, 8, 8], "deep_supervision": True, "deep_supr_num": 1,
         "norm_name": ["INSTANCE", {"affine": True}]},
        {"_target_": "SwinUNETR", "feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4],
         "use_checkpoint": True},
        {"_target_": "SegResNet", "init_filters": 8, "blocks_down": [1, 2, 1], "blocks_up": [2, 1],
         "upsample_mode": "deconv"},
    ],
    ids=lambda definition: definition["_target_"],
)  # fmt: skip
def test_every_network_of_the_list(tmp_path, definition):
    """With the numbers that MONAI's own has."""
    definition |= {"in_channels": 4, "out_channels": 3}
    network = bundles.untrained(definition)
    model = adopt(bundles.write_bundle(tmp_path, network.state_dict(), network_def=definition))
    images = torch.randn(1, 4, 64, 32, 32)
    with torch.inference_mode():
        assert torch.equal(foreign.predictor(model, HOW).network(images), network(images))
