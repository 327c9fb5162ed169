"""Probabilities that decode to the labels that another tool would give. Axes: K target, … space."""

import torch

NUDGE = 4e-6  # beyond what float32 rounds


def obeying(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Exclusive probabilities of NCR, ED, ET (3, …) that decode to the labels (…) of the tool itself.

    They are left as they are wherever they do so anyway. Elsewhere (a tie that rounding would decide, or
    several classes of the tool that are one label of ours) the likeliest target and the tool's own winner
    change places.
    """
    classes = torch.cat([1 - probabilities.sum(dim=0, keepdim=True), probabilities])
    highest, first = probabilities.max(dim=0)
    decoded = torch.where(highest > classes[0], first + 1, 0)
    odd = decoded != labels
    if not odd.any():
        return probabilities
    some, wanted = classes[:, odd], labels[odd].long()[None]
    top, at = some.max(dim=0, keepdim=True)
    lower = some.gather(0, wanted)
    some = some.scatter(0, at, lower).scatter(0, wanted, top)
    others = torch.arange(4)[:, None] != wanted
    found = probabilities.clone()
    # The background is what is left of 1, so that what the other targets lose is its gain.
    some = torch.where(others, some * (1 - NUDGE), some + 2 * NUDGE)
    found[:, odd] = some[1:]
    return found
