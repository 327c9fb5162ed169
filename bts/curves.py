"""How a training goes, for those who watch: a line an epoch, a table at the end, the curves as a picture."""

import io
from collections.abc import Mapping, Sequence

from bts.presets import Budget


def progress_line(budget: Budget, epoch: int, minutes: float, figures: Mapping[str, float]) -> str:
    """Epoch, minutes, loss, Dice where it was validated, speed, share of time that batches were awaited."""
    epochs = f"/{budget.epochs}" if budget.epochs else ""
    bound = f"/{budget.minutes:g}" if budget.minutes else ""
    dice = "".join(f" {key.removeprefix('dice/')} {v:.3f}" for key, v in figures.items() if "dice/" in key)
    return (
        f"epoch {epoch}{epochs}, {minutes:.1f}{bound} min: loss {figures['loss']:.4f}{dice} "
        f"{figures['slices_per_second']:.0f} slices/s, wait {figures['wait_share']:.0%}"
    )


def final_table(validations: Mapping[int, Mapping[str, float]]) -> str:
    """Dice by region at each validation, the best one marked."""
    best = best_epoch(validations)
    regions = list(validations[best])
    lines = ["epoch  " + "  ".join(f"{region.removeprefix('dice/'):>6}" for region in regions)]
    for epoch, figures in validations.items():
        mark = "  ← kept" if epoch == best else ""
        lines.append(f"{epoch:5}  " + "  ".join(f"{figures[region]:6.3f}" for region in regions) + mark)
    return "\n".join(lines)


def best_epoch(validations: Mapping[int, Mapping[str, float]]) -> int:
    """The epoch whose weights are kept: of the highest mean figure, the last one of equals."""
    return max(validations, key=lambda epoch: (sum(validations[epoch].values()), epoch))


def draw_curves(losses: Sequence[float], validations: Mapping[int, Mapping[str, float]]) -> bytes:
    """Mean loss of each epoch, and the figures of each validation by the number of epochs done → PNG."""
    from matplotlib.figure import Figure  # a second to import, and workers never draw

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
