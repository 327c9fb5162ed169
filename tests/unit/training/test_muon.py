"""Muon: steps whose directions weigh alike, AdamW for what is no hidden kernel, a state that is kept."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bts.training.muon import Muon, orthogonal


@given(rows=st.integers(2, 24), columns=st.integers(2, 24), scale=st.sampled_from([1e-4, 1.0, 1e4]))
def test_singular_values_come_near_one_whatever_the_shape_and_the_scale(rows, columns, scale):
    rng = np.random.default_rng([rows, columns])
    left, _ = np.linalg.qr(rng.normal(size=(rows, rows)))
    right, _ = np.linalg.qr(rng.normal(size=(columns, columns)))
    rank = min(rows, columns)
    values = np.linspace(0.2, 1, rank) * scale
    matrix = torch.tensor(left[:, :rank] * values @ right[:rank], dtype=torch.float32)
    made, *_ = orthogonal([matrix, matrix[:2], matrix.T])
    assert made.shape == matrix.shape
    singular = torch.linalg.svdvals(made)
    assert singular.min() > 0.5 and singular.max() < 1.4
    # The same directions: in the bases of the matrix it is diagonal.
    inner = left.T[:rank] @ made.numpy() @ right[:rank].T
    assert np.abs(inner - np.diag(np.diag(inner))).max() < 0.05


class Calls(TorchDispatchMode):
    """Counts the operations that are called, each a kernel or more on a GPU."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += 1
        return operation(*args, **(kwargs or {}))


def test_kernels_of_one_size_are_made_orthogonal_together():
    matrices = [torch.randn(4, 9), torch.randn(12, 4), torch.randn(4, 4), torch.randn(6, 9)]
    for together, matrix in zip(orthogonal(matrices), matrices, strict=True):
        torch.testing.assert_close(together, orthogonal([matrix])[0])
    with Calls() as few:
        orthogonal(matrices[:1])
    with Calls() as many:
        orthogonal(matrices[:1] * 10)
    assert many.count < 4 * few.count


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 3, 2, 2)]
    net = nn.Sequential(*layers)
    net.add_module("head", nn.Conv2d(3, 1, 1))
    return net


def stepped(net: nn.Module, optimiser: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        optimiser.zero_grad()
        images = torch.randn(2, 2, 12, 12, generator=torch.Generator().manual_seed(step))
        net(images).square().mean().backward()
        optimiser.step()


def test_all_but_hidden_kernels_take_adamws_steps():
    ours = network()
    theirs, flags = copy.deepcopy(ours), {"lr": 1e-2, "weight_decay": 0.1}
    muon = Muon(ours, momentum=0.9, **flags)
    adamw = torch.optim.AdamW(theirs.parameters(), betas=(0.9, 0.999), **flags)
    for step in range(3):
        for net, optimiser in ((ours, muon), (theirs, adamw)):
            optimiser.zero_grad()
            for parameter in net.parameters():
                parameter.grad = torch.sin(parameter.detach() * 50 + step)
        # Hidden kernels go other ways: only what both moved alike so far can be compared.
        muon.step()
        adamw.step()
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    moved = [torch.allclose(a, b, atol=1e-6) for a, b in pairs]
    hidden = [name in ("2.weight", "3.weight") for name, _ in ours.named_parameters()]
    assert moved == [not one for one in hidden]


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_going_on_from_its_state_equals_never_having_stopped(memory):
    whole = network().to(memory_format=memory)
    flags = {"lr": 1e-2, "momentum": 0.95, "weight_decay": 1e-2}
    muon = Muon(whole, **flags)
    stepped(whole, muon, 2)
    resumed = copy.deepcopy(whole)
    after = Muon(resumed, **flags)
    after.load_state_dict(copy.deepcopy(muon.state_dict()))
    stepped(whole, muon, 2, first=2)
    stepped(resumed, after, 2, first=2)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_network_of_two_convolutions_has_no_hidden_one():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 1, 3))
    before = copy.deepcopy(net)
    stepped(net, Muon(net, lr=1e-2, momentum=0.9, weight_decay=0), 1)
    assert not torch.equal(net[0].weight, before[0].weight)
