"""How a training goes, for those who watch: a line an epoch, lines within long ones, a table at the end."""

from collections.abc import Iterable, Mapping

from bts.settings import Budget


def progress_line(budget: Budget, epoch: int, minutes: float, figures: Mapping[str, float]) -> str:
    """Epoch, minutes, loss, Dice where it was validated, speed, share of time that batches were awaited."""
    epochs = f"/{budget.epochs}" if budget.epochs else ""
    bound = f"/{budget.minutes:g}" if budget.minutes else ""
    dice = "".join(f" {name.removeprefix('dice/')} {figures[name]:.3f}" for name in _names([figures]))
    return (
        f"epoch {epoch}{epochs}, {minutes:.1f}{bound} min: loss {figures['loss']:.4f}{dice} "
        f"{figures['samples_per_second']:.0f} samples/s, wait {figures['wait_share']:.0%}"
    )


def step_line(epoch: int, minutes: float, figures: Mapping[str, float | None]) -> str:
    """Within an epoch: steps, loss so far, speed and the time that is left of the budget."""
    left = figures["minutes_left"]
    return (
        f"epoch {epoch + 1}, step {figures['steps']}, {minutes:.1f} min: loss {figures['loss']:.4f} "
        f"{figures['samples_per_second']:.3g} samples/s" + ("" if left is None else f", {left:.0f} min left")
    )


def final_table(validations: Mapping[int, Mapping[str, float]]) -> str:
    """Dice by region at each validation, the best one marked; – where no held-out case had the region."""
    best = best_epoch(validations)
    regions = {name: max(6, len(name) - len("dice/")) for name in _names(validations.values())}
    lines = ["  ".join(["epoch", *(f"{name.removeprefix('dice/'):>{n}}" for name, n in regions.items())])]
    for epoch, figures in validations.items():
        scores = [f"{figures[r]:{n}.3f}" if r in figures else f"{'–':>{n}}" for r, n in regions.items()]
        lines.append("  ".join([f"{epoch:5}", *scores]) + ("  ← kept" if epoch == best else ""))
    return "\n".join(lines)


def best_epoch(validations: Mapping[int, Mapping[str, float]]) -> int:
    """The epoch whose weights are kept: of the highest mean Dice, the last one of equals."""
    return max(validations, key=lambda epoch: (mean_dice(validations[epoch]), epoch))


def mean_dice(figures: Mapping[str, float]) -> float:
    """What weights are judged by: the mean of a validation's figures of Dice."""
    dice = [figures[name] for name in _names([figures])]
    return sum(dice) / max(1, len(dice))


def _names(validations: Iterable[Mapping[str, float]]) -> list[str]:
    """Names of the figures of Dice, in the order in which they come up."""
    names = dict.fromkeys(name for figures in validations for name in figures)
    return [name for name in names if name.startswith("dice/")]
