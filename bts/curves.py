"""Loss and Dice of a training as one picture."""

import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure


def draw_curves(losses: Sequence[float], validations: Mapping[int, Mapping[str, float]]) -> bytes:
    """Mean loss of each epoch, and the figures of each validation by the number of epochs done → PNG."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")  # no pyplot: no global state, no display
    left, right = figure.subplots(1, 2)
    left.plot(range(1, len(losses) + 1), losses, color="black")
    left.set(xlabel="epoch", ylabel="training loss")
    for name in next(iter(validations.values()), {}):
        values = [figures[name] for figures in validations.values()]
        right.plot(list(validations), values, "o-", markersize=3, label=name.removeprefix("dice/"))
        right.legend()
    right.set(xlabel="epoch", ylabel="Dice of held-out patients", ylim=(0, 1))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
