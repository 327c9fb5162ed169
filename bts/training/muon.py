"""Muon (Jordan et al. 2024): momentum made orthogonal, so that a step moves all directions of a kernel alike.

Adam's steps, and SGD's, go mostly along the few directions in which a kernel's gradients are largest. On few
steps, which is what minutes on a CPU are, the others count: docs/log.md has the figures.
"""

from collections import defaultdict

import torch
from torch import nn

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of Jordan's Newton–Schulz iteration: singular values come to 0.7 to 1.2 in STEPS steps."""
STEPS = 5


class Muon(torch.optim.Optimizer):
    """Muon for the hidden convolutions of a network; AdamW for the first one, the heads, norms and biases.

    A kernel (outputs, inputs, …), or (inputs, outputs, …) of a transposed convolution, is a matrix of its
    first side and all others. Its step has the root mean square of AdamW's (Liu et al. 2025, arXiv
    2502.16982), so that one learning rate serves both.
    """

    def __init__(self, network: nn.Module, *, lr: float, momentum: float, weight_decay: float):
        named = [(name, p) for name, p in network.named_parameters() if p.ndim > 2]
        kernels = [p for name, p in named[1:] if not name.startswith("head")]
        hidden = {id(kernel) for kernel in kernels}
        rest = [p for p in network.parameters() if id(p) not in hidden]
        groups = [{"params": kernels, "hidden": True}, {"params": rest, "hidden": False}]
        super().__init__(
            [group for group in groups if group["params"]],
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay},
        )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # torch's takes a closure, which nothing here has
        """All parameters of a group together: a GPU that waits for the CPU has few kernels to wait for."""
        for group in self.param_groups:
            move = self._orthogonal if group["hidden"] else self._adam
            if parameters := [p for p in group["params"] if p.grad is not None]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                moves = move(parameters, group["momentum"])
                torch._foreach_sub_(parameters, torch._foreach_mul(moves, group["lr"]))

    def _orthogonal(self, kernels: list[torch.Tensor], momentum: float) -> list[torch.Tensor]:
        grads, means = _grads(kernels), []
        for kernel in kernels:
            state = self.state[kernel]
            if not state:
                state["mean"] = torch.zeros_like(kernel)
            means.append(state["mean"])
        torch._foreach_lerp_(means, grads, 1 - momentum)
        ahead = torch._foreach_lerp(grads, means, momentum)  # Nesterov's
        moves = orthogonal([one.flatten(1) for one in ahead])
        torch._foreach_mul_(moves, [0.2 * max(matrix.shape) ** 0.5 for matrix in moves])
        return [matrix.reshape(kernel.shape) for matrix, kernel in zip(moves, kernels, strict=True)]

    def _adam(self, parameters: list[torch.Tensor], momentum: float) -> list[torch.Tensor]:
        states, grads = [self.state[p] for p in parameters], _grads(parameters)
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                zeros = (torch.zeros_like(parameter) for _ in range(2))
                state |= dict(zip(("steps", "mean", "square"), (0, *zeros), strict=True))
            state["steps"] += 1
        means, squares = ([state[name] for state in states] for name in ("mean", "square"))
        torch._foreach_lerp_(means, grads, 1 - momentum)
        torch._foreach_lerp_(squares, torch._foreach_mul(grads, grads), 1 - 0.999)
        moves = torch._foreach_div(means, [1 - momentum ** state["steps"] for state in states])
        sizes = torch._foreach_div(squares, [1 - 0.999 ** state["steps"] for state in states])
        torch._foreach_sqrt_(sizes)
        torch._foreach_add_(sizes, 1e-8)
        return list(torch._foreach_div(moves, sizes))


def _grads(parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def orthogonal(matrices: list[torch.Tensor]) -> list[torch.Tensor]:
    """Matrices (m, n) → the same singular vectors, with singular values near 1; those that are nothing beside
    the largest stay small.

    The iteration multiplies by polynomials of the Gram matrix, so it runs on the smaller side alone and its
    product meets the matrix once: less than half the work, and float32 has the digits for it. Gram matrices
    of one size are one batch.
    """
    wide = [matrix if len(matrix) <= matrix.shape[1] else matrix.T for matrix in matrices]
    wide = list(torch._foreach_div(wide, torch._foreach_add(torch._foreach_norm(wide), 1e-12)))
    places = defaultdict(list)
    for place, matrix in enumerate(wide):
        places[len(matrix)].append(place)
    for alike in places.values():
        products = _newton_schulz(torch.stack([wide[place] @ wide[place].T for place in alike]))
        for place, product in zip(alike, products, strict=True):
            wide[place] = product @ wide[place]
    pairs = zip(wide, matrices, strict=True)
    return [made if len(matrix) <= matrix.shape[1] else made.T for made, matrix in pairs]


def _newton_schulz(gram: torch.Tensor) -> torch.Tensor:
    """Gram matrices (B, m, m) → what makes each's matrix orthogonal when multiplied from the left."""
    a, b, c = QUINTIC
    product = torch.eye(gram.shape[-1], device=gram.device).expand_as(gram)
    for _ in range(STEPS):
        factor = b * gram + c * gram @ gram
        factor.diagonal(dim1=1, dim2=2).add_(a)
        gram, product = factor @ gram @ factor, factor @ product
    return product
