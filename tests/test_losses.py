"""bts.losses: region targets and the loss on them."""

import pytest
import torch

from bts.losses import region_loss, region_targets, soft_dice
from bts.presets import Loss

MASK = torch.tensor([[[0, 1, 2, 3]]], dtype=torch.uint8)


def logits_of(targets: torch.Tensor, confidence: float = 20.0) -> torch.Tensor:
    return (targets * 2 - 1) * confidence


def test_regions_are_nested_and_in_order():
    assert region_targets(MASK)[0, :, 0].tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]


def test_a_perfect_prediction_costs_nothing_and_the_opposite_much():
    targets = region_targets(MASK)
    assert region_loss(logits_of(targets), MASK, Loss()).item() == pytest.approx(0, abs=1e-5)
    assert region_loss(-logits_of(targets), MASK, Loss()).item() > 10


def test_dice_by_hand():
    # One region, two pixels true; probability one half everywhere on four pixels.
    targets = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    expected = 1 - (2 * 1.0 + 1) / (2 + 2 + 1)
    assert soft_dice(torch.zeros(1, 1, 1, 4), targets).item() == pytest.approx(expected)


def test_dice_sums_over_the_batch_not_by_slice():
    targets = torch.zeros(2, 1, 4, 4)
    targets[0] = 1
    assert soft_dice(logits_of(targets), targets).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice(logits_of(torch.zeros(2, 1, 4, 4)), torch.zeros(2, 1, 4, 4)).item() == pytest.approx(
        0, abs=1e-6
    )


def test_weights_choose_the_terms():
    logits = torch.randn(1, 3, 1, 4, generator=torch.Generator().manual_seed(0))
    dice, bce = (region_loss(logits, MASK, Loss(dice=d, bce=1 - d)) for d in (1.0, 0.0))
    assert region_loss(logits, MASK, Loss(dice=2, bce=3)).item() == pytest.approx((2 * dice + 3 * bce).item())


def test_half_precision_logits_give_a_float32_loss_with_gradients():
    logits = torch.zeros(1, 3, 1, 4, dtype=torch.bfloat16, requires_grad=True)
    loss = region_loss(logits, MASK, Loss())
    loss.backward()
    assert loss.dtype == torch.float32 and logits.grad.abs().sum() > 0
