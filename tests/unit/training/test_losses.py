"""bts.training.losses: values by hand, by definition and by others' implementations; gradients; extremes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from bts.settings import Loss
from bts.training.losses import total_loss

TERMS = {
    "sigmoid": ("dice", "generalised_dice", "bce", "focal", "lovasz"),
    "softmax": ("dice", "generalised_dice", "ce", "focal", "lovasz"),
}
CASES = [(output, term) for output, terms in TERMS.items() for term in terms]
each_term = pytest.mark.parametrize(("output", "term"), CASES)


def sample(output: str, *space: int, batch: int = 3, channels: int = 4, seed: int = 0):
    """Random logits and targets: one-hot under softmax, nested under sigmoid; every channel occurs."""
    generator = torch.Generator().manual_seed(seed)
    space = space or (5, 4)
    logits = 2 * torch.randn(batch, channels, *space, generator=generator)
    labels = torch.randint(channels + 1, (batch, *space), generator=generator)
    labels.view(-1)[: channels + 1] = torch.arange(channels + 1)
    if output == "softmax":
        return logits, one_hot(labels % channels, channels)
    return logits, torch.stack([labels > channel for channel in range(channels)], dim=1).float()


def one_hot(labels: torch.Tensor, channels: int) -> torch.Tensor:
    return functional.one_hot(labels, channels).movedim(-1, 1).float()


def confident(targets: torch.Tensor, logit: float = 20.0) -> torch.Tensor:
    return (2 * targets - 1) * logit


def channels_of(*rows: list[float]) -> torch.Tensor:
    """One sample of one row of pixels, a list a channel → (1, K, 1, W)."""
    return torch.tensor(rows, dtype=torch.float32)[None, :, None]


def loss(logits, targets, output="sigmoid", **weights) -> float:
    return total_loss(logits, targets, Loss(**weights), output).item()


# Values


def test_dice_by_hand():
    # Two pixels true of four, each with probability one half.
    targets = channels_of([1, 1, 0, 0])
    assert loss(torch.zeros(1, 1, 1, 4), targets, dice=1) == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert loss(torch.zeros(1, 1, 1, 4), targets, dice=1, smooth=0) == pytest.approx(1 - 2 / 4)


def test_dice_sums_over_the_batch_not_by_slice():
    # The second slice is empty and half of its pixels are false alarms.
    targets, found = torch.zeros(2, 1, 1, 4), torch.zeros(2, 1, 1, 4)
    targets[0], found[0], found[1, ..., :2] = 1, 1, 1
    assert loss(confident(found), targets, dice=1) == pytest.approx(1 - (8 + 1) / (4 + 6 + 1), abs=1e-6)


def test_generalised_dice_by_hand():
    # Channels of 1 and 2 pixels, weights 1 and 1/4, probability one half everywhere.
    targets = channels_of([1, 0, 0, 0], [0, 1, 1, 0])
    expected = 1 - 2 * (1 * 0.5 + 0.25 * 1) / (1 * (1 + 2) + 0.25 * (2 + 2))
    assert loss(torch.zeros(1, 2, 1, 4), targets, generalised_dice=1) == pytest.approx(expected)


def test_generalised_dice_of_an_absent_channel_does_not_hide_the_others():
    # Two pixels of the absent channel are false alarms: they weigh as the smallest channel's (2 pixels) do.
    targets = channels_of([1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [0] * 6)
    found = confident(channels_of([1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]))
    assert loss(found, targets, generalised_dice=1) == pytest.approx(1 - 2 * (2 + 1) / (4 + 2 + 2), abs=1e-5)


@each_term
def test_nothing_there_and_nothing_found_costs_nothing(output, term):
    targets = torch.zeros(2, 3, 4, 4)
    targets[:, 0] = output == "softmax"
    assert loss(confident(targets, 50), targets, output, **{term: 1}) == pytest.approx(0, abs=1e-5)


def test_cross_entropy_and_focal_by_hand():
    # Probability 3/4 at a pixel that is true, 1/2 at one that is not.
    logits, targets = channels_of([math.log(3), 0]), channels_of([1, 0])
    right, even = -math.log(0.75), -math.log(0.5)
    assert loss(logits, targets, bce=1) == pytest.approx((right + even) / 2)
    assert loss(logits, targets, focal=1) == pytest.approx((0.25**2 * right + 0.5**2 * even) / 2)
    # The same two pixels as two exclusive classes.
    logits, targets = channels_of([0, 0], [math.log(3), 0]), channels_of([0, 1], [1, 0])
    assert loss(logits, targets, "softmax", ce=1) == pytest.approx((right + even) / 2)
    assert loss(logits, targets, "softmax", focal=1) == pytest.approx((0.25**2 * right + 0.5**2 * even) / 2)


def test_class_weights_multiply_and_are_not_divided_out():
    logits, targets = channels_of([0, 0, 0], [0, 0, 0]), channels_of([1, 0, 0], [0, 1, 1])
    half = math.log(2)
    weighted = loss(logits, targets, "softmax", ce=1, class_weights=(2, 5))
    assert weighted == pytest.approx((2 + 5 + 5) * half / 3)
    assert loss(logits, targets, bce=1, class_weights=(2, 5)) == pytest.approx((2 + 5) / 2 * half)
    assert loss(logits, targets, focal=1, class_weights=(2, 5)) == pytest.approx((2 + 5) / 2 * half / 4)


@pytest.mark.parametrize("output", TERMS)
def test_wrong_settings_are_refused_by_name(output):
    logits, targets = sample(output)
    with pytest.raises(ValueError, match=r"loss\.class_weights has 3 values for 4"):
        loss(logits, targets, output, focal=1, class_weights=(1, 2, 3))
    other = {"sigmoid": "ce", "softmax": "bce"}[output]
    with pytest.raises(ValueError, match=rf"loss\.{other} and output {output}"):
        loss(logits, targets, output, **{other: 1})


def lovasz_by_definition(errors: list[float], truth: list[bool]) -> float:
    """Σ error × what its pixel adds to 1 - IoU of the pixels wrong so far, largest error first."""

    def lost(wrong: set[int]) -> float:
        true = {pixel for pixel, is_true in enumerate(truth) if is_true}
        return 1 - len(true - wrong) / len(true | wrong) if true | wrong else 0.0

    order = sorted(range(len(errors)), key=lambda pixel: -errors[pixel])
    steps = [lost(set(order[: n + 1])) - lost(set(order[:n])) for n in range(len(order))]
    return sum(errors[pixel] * step for pixel, step in zip(order, steps, strict=True))


@given(st.lists(st.tuples(st.floats(-3, 3, width=32), st.booleans()), min_size=1, max_size=12))
def test_lovasz_hinge_by_definition(pixels):
    logits, truth = (list(column) for column in zip(*pixels, strict=True))
    errors = [max(0.0, 1 - logit * (1 if true else -1)) for logit, true in pixels]
    found = loss(channels_of(logits), channels_of(truth), lovasz=1)
    assert found == pytest.approx(lovasz_by_definition(errors, truth), abs=1e-5)


@given(st.lists(st.tuples(st.floats(-3, 3, width=32), st.integers(0, 2)), min_size=1, max_size=12))
def test_lovasz_softmax_by_definition(pixels):
    logits = channels_of([x for x, _ in pixels], [x / 2 for x, _ in pixels], [-x for x, _ in pixels])
    labels = [label for _, label in pixels]
    probabilities = logits.softmax(dim=1)[0, :, 0].tolist()
    by_class = []
    for label in set(labels):
        truth = [other == label for other in labels]
        errors = [abs(true - p) for true, p in zip(truth, probabilities[label], strict=True)]
        by_class.append(lovasz_by_definition(errors, truth))
    targets = one_hot(torch.tensor([[labels]]), 3)
    expected = sum(by_class) / len(by_class)
    assert loss(logits, targets, "softmax", lovasz=1) == pytest.approx(expected, abs=1e-5)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_lovasz_of_hard_predictions_is_one_minus_iou(pixels):
    found, true = (torch.tensor([[column]]) for column in zip(*pixels, strict=True))
    iou = [
        ((found == label) & (true == label)).sum() / ((found == label) | (true == label)).sum()
        for label in true.unique()
    ]
    expected = 1 - torch.stack(iou).mean().item()
    logits, targets = confident(one_hot(found, 3), 50), one_hot(true, 3)
    assert loss(logits, targets, "softmax", lovasz=1) == pytest.approx(expected, abs=1e-5)
    # At ±1 a hinge error is 0 or 2; channels without truth count too, and lose all IoU to a false alarm.
    lost = [
        loss(confident(one_hot(found, 3)[:, [k]], 1), targets[:, [k]], lovasz=1) / 2
        for k in true.unique().tolist()
    ]
    assert sum(lost) / len(lost) == pytest.approx(expected, abs=1e-5)


# Others' implementations


@pytest.mark.parametrize("space", [(6, 5), (3, 6, 5)])
def test_cross_entropies_are_torchs(space):
    logits, targets = sample("sigmoid", *space)
    expected = functional.binary_cross_entropy_with_logits(logits, targets)
    assert loss(logits, targets, bce=1) == pytest.approx(expected.item(), rel=1e-6)
    logits, targets = sample("softmax", *space)
    expected = functional.cross_entropy(logits, targets.argmax(dim=1))
    assert loss(logits, targets, "softmax", ce=1) == pytest.approx(expected.item(), rel=1e-6)
    weights = (1.0, 5.0, 2.0, 4.0)
    expected = functional.cross_entropy(
        logits, targets.argmax(dim=1), weight=torch.tensor(weights), reduction="none"
    ).mean()
    found = loss(logits, targets, "softmax", ce=1, class_weights=weights)
    assert found == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("output", TERMS)
def test_dice_generalised_dice_and_focal_are_monais(output):
    monai = pytest.importorskip("monai.losses", reason="monai is not installed: it is no requirement")
    logits, targets = sample(output, 3, 6, 5)
    exclusive = output == "softmax"
    dice = monai.DiceLoss(**{output: True}, batch=True, smooth_nr=1, smooth_dr=1)
    assert loss(logits, targets, output, dice=1) == pytest.approx(dice(logits, targets).item(), rel=1e-5)
    generalised = monai.GeneralizedDiceLoss(**{output: True}, batch=True, smooth_nr=0, smooth_dr=0)
    found = loss(logits, targets, output, generalised_dice=1)
    assert found == pytest.approx(generalised(logits, targets).item(), rel=1e-5)
    # MONAI's mean runs over exclusive channels too, of which one counts at each pixel.
    focal = monai.FocalLoss(gamma=2, use_softmax=exclusive)(logits, targets).item() * (4 if exclusive else 1)
    assert loss(logits, targets, output, focal=1) == pytest.approx(focal, rel=1e-5)


# Properties of every term


@each_term
@pytest.mark.parametrize("space", [(4, 3), (2, 3, 2)])
def test_gradients(output, term, space):
    logits, targets = sample(output, *space, batch=2, channels=3)
    logits = logits.double().requires_grad_()
    weights = (1.0, 2.0, 3.0) if term in ("bce", "ce", "focal") else ()
    chosen = Loss(**{term: 1}, class_weights=weights)
    assert torch.autograd.gradcheck(lambda x: total_loss(x, targets, chosen, output), logits)


@each_term
def test_a_perfect_prediction_costs_nothing_and_the_opposite_much(output, term):
    targets = sample(output)[1]
    assert loss(confident(targets), targets, output, **{term: 1}) == pytest.approx(0, abs=1e-4)
    assert loss(-confident(targets), targets, output, **{term: 1}) > 0.6


@each_term
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_extreme_logits_give_finite_float32_losses_and_gradients(output, term, dtype):
    targets = sample(output)[1]
    for sign in (1, -1):
        logits = (sign * confident(targets, 1e4)).to(dtype).requires_grad_()
        value = total_loss(logits, targets, Loss(**{term: 1}), output)
        value.backward()
        assert value.dtype == torch.float32 and value.isfinite()
        assert logits.grad.dtype == dtype and logits.grad.isfinite().all()


@each_term
@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_batch_does_not_matter(output, term, seed):
    logits, targets = sample(output, seed=seed)
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    before, after = (
        loss(x, y, output, **{term: 1}) for x, y in ((logits, targets), (logits[order], targets[order]))
    )
    assert before == pytest.approx(after, rel=1e-5)


@each_term
def test_a_volume_costs_what_its_slices_cost(output, term):
    logits, targets = sample(output, 3, 4, 5)
    slices = [x.movedim(2, 1).flatten(0, 1) for x in (logits, targets)]
    chosen = {term: 1}
    assert loss(logits, targets, output, **chosen) == pytest.approx(loss(*slices, output, **chosen), rel=1e-5)


@each_term
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_targets_of_any_type_and_layout(output, term, dtype):
    logits, targets = sample(output)
    expected = loss(logits, targets, output, **{term: 1})
    assert loss(logits, targets.to(dtype), output, **{term: 1}) == expected
    turned = logits.contiguous(memory_format=torch.channels_last)
    assert loss(turned, targets, output, **{term: 1}) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("output", TERMS)
def test_terms_add_up_by_their_weights(output):
    logits, targets = sample(output)
    weights = {term: float(n) for n, term in enumerate(TERMS[output], start=1)}
    expected = sum(n * loss(logits, targets, output, **{term: 1}) for term, n in weights.items())
    assert loss(logits, targets, output, **weights) == pytest.approx(expected, rel=1e-5)
