"""bts.inference.foreign.winners: probabilities that decode to a tool's own labels."""

import torch

from bts.inference.foreign.winners import obeying
from bts.model.targets import LABELS, decode


def classes(seed: int, decimals: int) -> torch.Tensor:
    """Probabilities (4, N) of background, NCR, ED, ET, with many ties."""
    logits = torch.randn(4, 5000, generator=torch.Generator().manual_seed(seed))
    return logits.round(decimals=decimals).softmax(dim=0)


def test_ties_go_where_the_tool_puts_them():
    """Its argmax takes the first of equal ones in its own order."""
    for seed in range(3):
        found = classes(seed, 0)
        for order in ([0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0]):
            labels = torch.tensor(order)[found[order].argmax(dim=0)]
            obeyed = obeying(found[1:], labels)
            assert torch.equal(decode(obeyed[:, None, None], LABELS, 0.5)[0, 0].long(), labels)
            assert torch.allclose(obeyed, found[1:], atol=1e-4) and obeyed.max() <= 1 and obeyed.min() >= 0


def test_the_winner_of_several_classes_that_are_one_label():
    """Five classes of which two are necrosis: the likeliest class wins, not the likeliest sum."""
    found = torch.randn(5, 5000, generator=torch.Generator().manual_seed(1)).softmax(dim=0)
    names = torch.tensor([0, 3, 1, 1, 2])
    labels = names[found.argmax(dim=0)]
    summed = torch.stack([found[names == label].sum(dim=0) for label in (1, 2, 3)])
    obeyed = obeying(summed, labels)
    assert torch.equal(decode(obeyed[:, None, None], LABELS, 0.5)[0, 0].long(), labels)
    assert not torch.equal(obeyed, summed) and obeyed.sum(dim=0).max() <= 1 + 1e-4


def test_what_needs_no_change_has_none():
    found = classes(0, 5)
    labels = decode(found[1:, None, None], LABELS, 0.5)[0, 0]
    assert obeying(found[1:], labels) is not None and torch.equal(obeying(found[1:], labels), found[1:])
