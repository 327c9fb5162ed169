"""Muon (Jordan et al. 2024): momentum made orthogonal, so that a step moves all directions of a kernel alike.

Adam's steps, and SGD's, go mostly along the few directions in which a kernel's gradients are largest. On few
steps, which is what minutes on a CPU are, the others count: docs/log.md has the figures.
"""

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
    def step(self) -> None:
        for group in self.param_groups:
            move = self._orthogonal if group["hidden"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(move(parameter, group["momentum"]) * group["lr"])

    def _orthogonal(self, kernel: torch.Tensor, momentum: float) -> torch.Tensor:
        state = self.state[kernel]
        if not state:
            state["mean"] = torch.zeros_like(kernel)
        mean = state["mean"].lerp_(kernel.grad, 1 - momentum)
        ahead = kernel.grad.lerp(mean, momentum)  # Nesterov's
        matrix = orthogonal(ahead.flatten(1))
        return 0.2 * max(matrix.shape) ** 0.5 * matrix.view(kernel.shape)

    def _adam(self, parameter: torch.Tensor, momentum: float) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state |= {"steps": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
        state["steps"] += 1
        mean = state["mean"].lerp_(parameter.grad, 1 - momentum)
        square = state["square"].lerp_(parameter.grad.square(), 1 - 0.999)
        mean, square = mean / (1 - momentum ** state["steps"]), square / (1 - 0.999 ** state["steps"])
        return mean / (square.sqrt() + 1e-8)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix (m, n) → the same singular vectors, with singular values near 1; those that are nothing beside
    the largest stay small.

    The iteration multiplies by polynomials of the Gram matrix, so it runs on the smaller side alone and its
    product meets the matrix once: less than half the work, and float32 has the digits for it.
    """
    a, b, c = QUINTIC
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-12)
    gram, product = wide @ wide.T, torch.eye(len(wide), device=wide.device)
    for _ in range(STEPS):
        factor = b * gram + c * gram @ gram
        factor.diagonal().add_(a)
        gram, product = factor @ gram @ factor, factor @ product
    wide = product @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
