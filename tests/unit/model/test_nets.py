"""bts.model.nets and bts.presets: every preset builds a network that takes and gives the stated shapes."""

import dataclasses
import json
import sys
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from bts.errors import UsageError
from bts.model.device import SAFE_SIDE, autocast, channels_last
from bts.model.nets import FAMILIES, build
from bts.model.nets.attention import Gate
from bts.model.nets.blocks import INSTANCE, Parts, PreActivation
from bts.model.nets.encoder_unet import EncoderUNet, import_timm, load_encoder
from bts.model.nets.folding import folded
from bts.model.nets.own_statistics import with_own_statistics
from bts.model.nets.segnet import unpool
from bts.model.nets.unet import fold, unfold
from bts.presets import PRESETS
from bts.settings import (
    Augmentation,
    Budget,
    Inference,
    Layers,
    Loss,
    Normalisation,
    Optimiser,
    Preset,
    Sampling,
)
from bts.settings_json import from_dict, to_dict
from bts.training.loop import with_shared_norms

OWN = [name for name in FAMILIES if name != "encoder_unet"]
SIDES = (8, 16, 12)
"""Multiples of 4, as networks of three levels need; the first two are a slice's."""

families = pytest.mark.parametrize("family", OWN)
dimensions = pytest.mark.parametrize("dims", [2, 3])


def tiny(family="unet", dims=2, **layers):
    """Three inputs, two outputs, three levels."""
    torch.manual_seed(0)
    return FAMILIES[family](3, 2, dims, Layers(**{"widths": (4, 8, 8), **layers}))


def images(dims, batch=2):
    return torch.randn(batch, 3, *SIDES[:dims], generator=torch.Generator().manual_seed(1))


def preset(**values):
    return Preset(**{"name": "t", "loss": Loss(dice=1), "budget": Budget(epochs=1), **values})


@families
@dimensions
def test_logits_are_as_large_as_the_image(family, dims):
    network = tiny(family, dims, norm="batch").eval()
    smallest = torch.randn(1, 3, *[4] * dims)
    assert network(smallest).shape == (1, 2, *[4] * dims)
    assert network(images(dims)).shape == (2, 2, *SIDES[:dims])
    assert tiny(family, dims, widths=(4,))(images(dims)).shape == (2, 2, *SIDES[:dims])


@families
@dimensions
@pytest.mark.parametrize("norm", ["none", "batch", "instance"])
def test_gradients_reach_every_parameter(family, dims, norm):
    network = tiny(family, dims, norm=norm, activation="prelu", dropout=(0.1, 0.1, 0.1))
    network(images(dims)).square().mean().backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


@families
@dimensions
def test_extreme_intensities_stay_finite_in_half_precision(family, dims):
    network = tiny(family, dims, norm="instance", activation="leaky_relu")
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(1e3 * images(dims))
    assert logits.isfinite().all()
    if dims == 2:  # see the next test
        logits.float().mean().backward()
        assert all(p.grad.isfinite().all() for p in network.parameters())


@families
def test_volumes_learn_are_right_at_every_depth(family):
    """oneDNN's bfloat16 gradients of 3D kernels were wrong, NaN at times, at a depth of kernel - 1."""
    network, x = tiny(family, 3), images(3)
    exact = torch.autograd.grad(network(x).square().mean(), network.parameters())
    with autocast(torch.device("cpu"), learned_side=min(SIDES) // 4):
        found = torch.autograd.grad(network(x).square().mean(), network.parameters())
    for wanted, got in zip(exact, found, strict=True):
        assert (got - wanted).norm() <= 0.01 * wanted.norm()


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_volumes_learn_in_half_precision_where_its_gradients_are_right(kernel, stride):
    x = torch.randn(2, 16, SAFE_SIDE, SAFE_SIDE + 1, SAFE_SIDE).to(memory_format=torch.channels_last_3d)
    conv = nn.Conv3d(16, 32, kernel, stride, kernel // 2).to(memory_format=torch.channels_last_3d)
    (exact,) = torch.autograd.grad(conv(x).square().mean(), [conv.weight])
    with autocast(torch.device("cpu"), learned_side=SAFE_SIDE):
        (found,) = torch.autograd.grad(conv(x).float().square().mean(), [conv.weight])
    assert (found - exact).norm() <= 0.01 * exact.norm()


@dimensions
@pytest.mark.parametrize("batch", [1, 3])
def test_instance_norm_is_pytorchs_in_channels_last_too(dims, batch):
    """PyTorch's own gradients of a batch of 1 in channels-last memory are wrong."""
    ours = INSTANCE[dims](5, affine=True)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims](5, affine=True)
    theirs.load_state_dict(ours.state_dict())
    x, memory = 3 * torch.randn(batch, 5, *SIDES[:dims]) + 7, channels_last(dims)
    slope, found = torch.randn_like(x), []
    for norm, format in ((ours, memory), (theirs, torch.contiguous_format)):
        seen = x.contiguous(memory_format=format).requires_grad_()
        answer = norm(seen)
        wanted = [seen, *norm.parameters()]
        found.append([answer, *torch.autograd.grad(answer, wanted, slope.contiguous(memory_format=format))])
        assert answer.is_contiguous(memory_format=format)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@families
def test_one_definition_makes_2d_and_3d(family):
    flat, deep = tiny(family, 2).state_dict(), tiny(family, 3).state_dict()
    assert [(k, v.shape[:2]) for k, v in flat.items()] == [(k, v.shape[:2]) for k, v in deep.items()]


@families
def test_dropout_acts_in_training_alone(family):
    network = tiny(family, dropout=(0.5, 0.5, 0.5))
    assert not torch.equal(network(images(2)), network(images(2)))
    network.eval()
    assert torch.equal(network(images(2)), network(images(2)))


@pytest.mark.parametrize("down", ["pool", "stride"])
@pytest.mark.parametrize("up", [2, 3])
@pytest.mark.parametrize("stem", [1, 2])
@pytest.mark.parametrize("dims", [2, 3])
def test_unet_keeps_the_size_however_it_goes_down_and_up(down, up, stem, dims):
    seen = images(dims)[..., :8]  # multiples of 8
    assert tiny(dims=dims, down=down, up=up, stem=stem)(seen).shape == (2, 2, *seen.shape[2:])


def test_folded_voxels_are_channels_and_come_back_where_they_were():
    flat, deep = torch.randn(2, 3, 8, 12), torch.randn(2, 3, 6, 8, 4)
    assert torch.equal(fold(flat, 2), functional.pixel_unshuffle(flat, 2))
    assert fold(deep, 2).shape == (2, 24, 3, 4, 2)
    assert torch.equal(unfold(fold(deep, 2), 2), deep) and torch.equal(unfold(fold(flat, 4), 4), flat)


@pytest.mark.parametrize("dims", [2, 3])
def test_own_statistics_take_another_scanners_scale_out(dims):
    norm = tiny(dims=dims, norm="batch").encoder.levels[0][1].eval()
    norm.running_mean += 0.5
    seen = torch.randn(2, norm.num_features, *SIDES[:dims])
    block = torch.nn.Sequential(norm)
    trained, half, own = (with_own_statistics(block, share)[0] for share in (0.0, 0.5, 1.0))
    assert torch.allclose(trained(seen), norm(seen), atol=1e-5)
    assert torch.allclose(own(3 * seen + 2), own(seen), atol=1e-3)
    assert not torch.allclose(half(3 * seen + 2), half(seen), atol=0.1)
    assert torch.equal(own(seen[:1]), own(seen)[:1])  # each item by itself


def test_fields_that_came_later_are_left_out_where_they_change_nothing():
    told = to_dict(preset(inference=Inference(own_statistics=0.5)))
    assert told["inference"]["own_statistics"] == 0.5 and "window" not in told["inference"]
    assert not {"frame", "epsilon"} & {*told, *told["layers"]}
    assert from_dict(told) == preset(inference=Inference(own_statistics=0.5))


def test_place_level_normalises_after_each_pooling_alone():
    network = tiny(norm="batch", momentum=0.2, place="level", dropout=(0.1, 0.2, 0.3))
    kinds = [type(module).__name__ for module in network.encoder.levels[1]]
    assert kinds == ["MaxPool2d", "BatchNorm2d", "Dropout", "Conv2d", "ReLU", "Conv2d", "ReLU"]
    assert network.encoder.levels[1][1].momentum == 0.2 and network.encoder.levels[1][2].p == 0.2
    assert [type(module).__name__ for module in network.decoder[0]][:2] == ["Dropout", "Conv2d"]
    assert not any(
        isinstance(m, nn.BatchNorm2d) for m in [*network.encoder.levels[0], *network.decoder.modules()]
    )


def test_convolutions_have_a_bias_where_no_norm_follows():
    assert {m.bias is None for m in tiny(norm="batch").encoder.modules() if isinstance(m, nn.Conv2d)} == {
        True
    }
    assert {m.bias is None for m in tiny().encoder.modules() if isinstance(m, nn.Conv2d)} == {False}


def test_hypercolumns_are_one_head_on_the_enlarged_concatenation():
    network, x = tiny(widths=(4, 8), hypercolumns=True).eval(), images(2)
    skip, bottom = network.encoder(x)
    finest = network.decoder[0](torch.cat([network.up[0](bottom), skip], dim=1))
    column = torch.cat([functional.interpolate(bottom, scale_factor=2, mode="bilinear"), finest], dim=1)
    weight = torch.cat([head.weight for head in network.heads], dim=1)
    expected = functional.conv2d(column, weight, sum(head.bias for head in network.heads))
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_residual_unit_leaves_its_input_alone():
    x = images(2)
    unit, before = PreActivation(Parts(2, Layers()), 3, 3, []), x.clone()
    assert torch.equal(unit(x), before + unit.body(before.clone())) and torch.equal(x, before)


def test_attention_weighs_each_pixel_of_the_skip_from_0_to_1():
    skip, below = torch.rand(1, 4, 8, 8) + 0.1, torch.randn(1, 6, 4, 4)
    weights = Gate(Parts(2, Layers()), 4, 6)(skip, below) / skip
    assert 0 < weights.min() < weights.max() < 1
    torch.testing.assert_close(weights, weights[:, :1].expand_as(weights))


@dimensions
def test_unpooling_puts_maxima_back(dims):
    x, pool = images(dims), {2: functional.max_pool2d, 3: functional.max_pool3d}[dims]
    maxima, places = pool(x, 2, return_indices=True)
    back = unpool(maxima, places)
    assert torch.equal(back[back != 0], x[back != 0]) and (back != 0).sum() == maxima.numel()


def test_vnet_stages_have_one_to_three_convolutions():
    network = tiny("vnet", 3, widths=(2,) * 5)
    stages = [network.first, *network.encoder, *network.decoder]
    large = [sum(getattr(m, "kernel_size", 0) == (5, 5, 5) for m in stage.modules()) for stage in stages]
    assert large == [1, 2, 3, 3, 3, 3, 3, 2, 1]


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("fast", 1.94e6, 1.95e6),
        ("best", 16e6, 17e6),
    ],
)
def test_our_presets_have_their_number_of_parameters(name, least, most):
    with torch.device("meta"):
        network = build(PRESETS[name])
    assert least <= sum(p.numel() for p in network.parameters()) <= most


def test_outputs_are_targets_and_background_under_softmax():
    layers = Layers(widths=(4, 8))
    sigmoid = build(preset(layers=layers, modalities=("t1", "flair")))
    softmax = build(preset(layers=layers, targets="labels", output="softmax", size=(4, 4, 4),
                           sampling=Sampling(kind="volumes")))  # fmt: skip
    assert sigmoid(torch.randn(1, 2, 8, 8)).shape == (1, 3, 8, 8)
    assert softmax(torch.randn(1, 4, 4, 4, 4)).shape == (1, 4, 4, 4, 4)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    assert PRESETS[name].name == name and PRESETS[name].summary
    assert from_dict(json.loads(json.dumps(to_dict(PRESETS[name])))) == PRESETS[name]


def test_presets_change_by_flags():
    tyro = pytest.importorskip("tyro")
    flags = [
        "--optimiser.lr",
        "0.01",
        "--layers.widths",
        "8",
        "16",
        "--layers.up",
        "3",
        "--network",
        "attention_unet",
    ]
    changed = tyro.cli(Preset, default=PRESETS["best"], args=flags)
    assert changed.optimiser.lr == 0.01 and changed.layers.widths == (8, 16) and changed.layers.up == 3
    assert changed.loss == PRESETS["best"].loss and changed.network == "attention_unet"


def test_every_field_documents_itself_in_help(capsys, monkeypatch):
    tyro = pytest.importorskip("tyro")
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        tyro.cli(Preset, default=PRESETS["fast"], args=["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    shown = {word.strip(",") for word in text.split() if word.startswith("--")}
    assert not {f"--{flag}".replace("_", "-") for flag in _flags(PRESETS["fast"])} - shown
    assert "Learning rate at its highest" in text and "Filters a level, finest first" in text


def _flags(settings, prefix=""):
    """Names of all fields, those of groups as group.field."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flags(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def test_unknown_fields_are_refused():
    with pytest.raises(ValueError, match="magic"):
        from_dict({"name": "t", "magic": 1})


OF_FRAME = Normalisation(kind="slice_zscore", percentiles="frame")
VOLUMES = {"sampling": Sampling(kind="volumes"), "size": (16, 16, 16)}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: preset(size=(161, 128)), ["size", "layers.widths", "multiples of 8"]),
        (lambda: preset(size=(16, 16, 16)), ["size", "sampling.kind"]),
        (lambda: preset(modalities=("t1", "t1")), ["modalities"]),
        (lambda: preset(network="vnet", layers=Layers(stem=2)), ["layers.stem", "vnet"]),
        (lambda: preset(inference=Inference(window=(16, 16, 16))), ["inference.window", "sampling.kind"]),
        (lambda: preset(inference=Inference(window=(9, 16, 16)), **VOLUMES), ["window", "multiples of"]),
        (lambda: Inference(own_statistics=2), ["inference.own_statistics"]),
        (lambda: preset(network="fcn", layers=Layers(hypercolumns=True)), ["layers.hypercolumns", "fcn"]),
        (lambda: preset(network="encoder_unet"), ["encoder_unet", "layers.encoder"]),
        (lambda: preset(layers=Layers(encoder="resnet34")), ["layers.encoder", "unet"]),
        (lambda: preset(output="softmax"), ["output softmax", "targets regions"]),
        (lambda: preset(loss=Loss(ce=1)), ["loss.ce", "output sigmoid"]),
        (
            lambda: preset(targets="labels", output="softmax", loss=Loss(bce=1)),
            ["loss.bce", "output softmax"],
        ),
        (lambda: preset(split="leaking_by_slice", **VOLUMES), ["split leaking_by_slice", "sampling.kind"]),
        (lambda: preset(sampling=Sampling(kind="patches"), resize=(64, 64)), ["sampling.kind", "resize"]),
        (lambda: preset(frame=(160, 120)), ["frame", "at least as large as size"]),
        (lambda: preset(frame=(164, 128)), ["frame", "multiples of 8"]),
        (lambda: preset(frame=(16, 16), **VOLUMES), ["frame", "sampling.kind volumes"]),
        (lambda: preset(normalisation=OF_FRAME), ["normalisation.percentiles frame", "frame None"]),
        (lambda: preset(layers=Layers(first=2)), ["layers.first", "residual_unet"]),
        (lambda: Sampling(neighbours=1), ["sampling.neighbours", "sampling.kind"]),
        (lambda: Sampling(tumour_centred=1), ["sampling.tumour_centred", "sampling.kind"]),
        (lambda: Sampling(repeats=2), ["sampling.repeats", "sampling.kind"]),
        (lambda: Layers(widths=()), ["layers.widths"]),
        (lambda: Layers(dropout=(0.1,)), ["layers.dropout", "layers.widths"]),
        (lambda: Budget(epochs=None, minutes=None), ["budget.epochs", "budget.minutes"]),
        (lambda: Budget(epochs=0), ["budget.epochs"]),
        (lambda: Loss(), ["loss.dice", "loss.bce"]),
        (lambda: Optimiser(ema=1), ["optimiser.ema"]),
    ],
)
def test_settings_that_do_not_go_together_are_named(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Augmentation().flip = 1


SIX = (4, 4, 4, 8, 8, 8)
"""Widths of a decoder for an encoder that halves its input five times."""


@pytest.fixture(scope="module")
def timm():
    try:
        return import_timm()
    except UsageError as error:
        pytest.skip(str(error))


def with_encoder(name="test_resnet", inputs=4, **layers):
    return EncoderUNet(inputs, 3, 2, Layers(**{"widths": SIX, "encoder": name, **layers}))


def test_encoder_unet_says_how_to_get_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"pip install -r requirements-encoders\.txt"):
        with_encoder()


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_encoder_unet_gives_logits_as_large_as_the_image(timm, name):
    network = with_encoder(name, norm="batch")
    assert network.eval()(torch.randn(1, 4, 32, 64)).shape == (1, 3, 32, 64)
    network.train()(torch.randn(2, 4, 64, 64)).square().mean().backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_norms_shared_by_gpus_leave_the_network_what_it_was(timm, name):
    """Many of timm's norms hold the activation; PyTorch's own conversion of a network would drop it."""
    network, images = with_encoder(name, norm="batch").eval(), torch.randn(1, 4, 32, 32)
    before = network(images)
    assert torch.equal(with_shared_norms(network).eval()(images), before)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in network.modules())


@pytest.mark.parametrize("inputs", [1, 4])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_pretrained_weights_fill_the_encoder(timm, name, inputs):
    theirs, network = timm.create_model(name), with_encoder(name, inputs)
    load_encoder(network, safetensors.torch.save(theirs.state_dict()))
    first, *rest = [value for value in network.encoder.state_dict().values() if value.ndim == 4]
    colour, *expected = [value for value in theirs.state_dict().values() if value.ndim == 4]
    assert all(torch.equal(a, b) for a, b in zip(rest, expected, strict=False))
    repeated = colour[:, [0, 1, 2, 0]] * 3 / 4 if inputs == 4 else colour.sum(1, keepdim=True)
    torch.testing.assert_close(first, repeated)


def test_weights_that_do_not_fit_are_refused(timm):
    def weights(name):
        return safetensors.torch.save(timm.create_model(name).state_dict())

    with pytest.raises(UsageError, match=r"not fit layers\.encoder test_resnet"):
        load_encoder(with_encoder(), weights("test_efficientnet"))
    with pytest.raises(UsageError, match=r"not fit layers\.encoder resnet18: .*layer\d\.\d"):
        load_encoder(with_encoder("resnet18"), weights("resnet34"))
    with pytest.raises(UsageError, match="damaged"):
        load_encoder(with_encoder(), weights("test_resnet")[:1000])


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({"name": "resnet43"}, ["layers.encoder resnet43", "did you mean resnet34"]),
        ({"name": "vit_tiny_patch16_224"}, ["layers.encoder vit_tiny", "convolutional"]),
        ({"widths": (8, 8)}, ["layers.widths", "layers.encoder test_resnet", "6 widths"]),
    ],
)
def test_encoders_that_cannot_serve_are_refused(timm, layers, words):
    with pytest.raises(UsageError) as error:
        with_encoder(**layers)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.layers.norm == "batch"])
def test_a_folded_network_is_the_same_function(name):
    preset = PRESETS[name]
    preset = replace(preset, layers=replace(preset.layers, widths=tuple(4 for _ in preset.layers.widths)))
    network = build(preset)
    side = preset.layers.multiple
    images = torch.randn(2, preset.channels, *[side] * (3 if preset.volumetric else 2))
    for norm in (one for one in network.modules() if hasattr(one, "running_var")):
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.normal_(norm.bias)
    network(images)  # the running statistics move
    network.eval()
    light = folded(network)
    with torch.inference_mode():
        assert torch.allclose(light(images), network(images), rtol=1e-3, atol=1e-4)
    left, had = (sum(hasattr(one, "running_var") for one in n.modules()) for n in (light, network))
    assert left < had or preset.layers.place == "level"  # after pooling there is nothing to fold into
