"""How a training went, and what it was made of: charts as PNG."""

import io
from collections.abc import Iterable, Mapping, Sequence

from bts.colours import TYPE_COLOURS

# Okabe and Ito 2008, the darker ones first: told apart by colour-blind readers, and by markers in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv*P"
FAMILIES = {"dice": "Dice", "iou": "IoU", "accuracy": "accuracy"}
"""Panels of validation figures, by the part of a figure's name before its slash."""
PANEL = (4.6, 3.4)  # inches, width and height


def draw_curves(
    losses: Sequence[float],
    validations: Mapping[int, Mapping[str, float]],
    rates: Sequence[float] | None = None,
    kept: int | None = None,
) -> bytes:
    """What a training left, by epoch → PNG: a panel each for the loss, Dice, IoU, accuracy, learning rate.

    losses, rates: one an epoch. validations: figures by the number of epochs done, named dice/…, iou/… or
    accuracy; a panel is there for what they hold. kept: the epoch of the best Dice.
    """
    found = {family: _names(validations.values(), family) for family in FAMILIES}
    families = [family for family, names in found.items() if names] or ["dice"]
    figure, axes = _panels(1 + len(families) + bool(rates))
    axes[0].plot(range(1, len(losses) + 1), losses, color="black")
    axes[0].set(xlabel="epoch", ylabel="training loss")
    for panel, family in zip(axes[1:], families, strict=False):
        _draw_family(panel, family, found[family], validations, kept)
    if rates:
        axes[-1].step(range(1, len(rates) + 1), rates, where="mid", color="black")
        axes[-1].set(xlabel="epoch", ylabel="learning rate", yscale="log" if min(rates) > 0 else "linear")
    return _png(figure)


def draw_thresholds(thresholds: Sequence[float], ious: Sequence[float], best: float) -> bytes:
    """Mean IoU of held-out cases at each threshold, the best one marked → PNG."""
    figure, (panel,) = _panels(1)
    panel.plot(thresholds, ious, color=COLOURS[0], marker="o", markersize=4)
    highest = ious[list(thresholds).index(best)]
    panel.axvline(best, color="grey", linestyle=":")
    panel.plot([best], [highest], "o", markersize=11, fillstyle="none", color=COLOURS[1], markeredgewidth=2)
    panel.set_title(f"best threshold {best:g}: IoU {highest:.3f}", fontsize=10)
    panel.set(xlabel="threshold of the probability", ylabel="IoU of held-out patients", xlim=(0, 1))
    panel.set_ylim(0, 1)
    return _png(figure)


def draw_classes(counts: Mapping[str, Mapping[str, int]]) -> bytes:
    """Class distribution → PNG: {class: {what is counted: number}}, a panel for each thing that is counted.

    Classes are tumour types or grades with their cases and slices, or labels with their voxels. Each bar
    says its number and its share.
    """
    things = list(dict.fromkeys(thing for of in counts.values() for thing in of))
    figure, axes = _panels(max(1, len(things)), rows=max(1, len(counts)))
    for panel, thing in zip(axes, things, strict=False):
        values = [of.get(thing, 0) for of in counts.values()]
        bars = panel.barh([name or "all" for name in counts], values, color=_class_colours(counts))
        panel.bar_label(bars, [f"{n:,} · {_share(n, sum(values))}" for n in values], padding=4)
        panel.invert_yaxis()  # the first class on top
        panel.set(title=thing, xticks=[], xlim=(0, 1.8 * max(1, *values)))  # room for the numbers
        panel.spines[["top", "right", "bottom"]].set_visible(False)
    return _png(figure)


def draw_bars(values: Mapping[str, Mapping[str, float]]) -> bytes:
    """Figures of several networks side by side → PNG: {network: {figure: value in 0…1}}."""
    names = list(dict.fromkeys(name for of in values.values() for name in of))
    figure, (panel,) = _panels(1, width=max(1.0, 0.14 * len(values) * (len(names) + 1)))
    wide = 0.8 / max(1, len(names))
    for place, name in enumerate(names):
        at = [n + (place - (len(names) - 1) / 2) * wide for n, of in enumerate(values.values()) if name in of]
        shown = [of[name] for of in values.values() if name in of]
        label = name.replace("/", " ").replace("dice", "Dice").replace("iou", "IoU")
        look = {"color": COLOURS[place % len(COLOURS)], "hatch": "//" * (place // len(COLOURS))}
        bars = panel.bar(at, shown, wide * 0.94, edgecolor="white", linewidth=0, label=label, **look)
        panel.bar_label(bars, fmt="%.3f", fontsize=8, padding=2)
    panel.set_xticks(range(len(values)), [name.replace("_", " ") for name in values])
    panel.set(ylim=(0, 1.1), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    panel.spines[["top", "right"]].set_visible(False)
    if names:
        figure.legend(loc="outside upper center", ncols=min(len(names), 5), frameon=False, fontsize=9)
    return _png(figure)


def _names(validations: Iterable[Mapping[str, float]], family: str) -> list[str]:
    """Names of a family's figures, in the order in which they come up."""
    names = dict.fromkeys(name for figures in validations for name in figures)
    return [name for name in names if name.partition("/")[0] == family]


def _draw_family(
    panel, family: str, names: Sequence[str], validations: Mapping[int, Mapping], kept: int | None
) -> None:
    """A line a region over the validations that have it; the kept epoch dotted where Dice chose it."""
    for name, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
        points = {epoch: figures[name] for epoch, figures in validations.items() if name in figures}
        line = {"color": colour, "marker": marker, "markersize": 4}
        panel.plot(list(points), list(points.values()), label=name.partition("/")[2], **line)
    if family == "dice" and names and kept is not None:
        panel.axvline(kept, color="grey", linestyle=":", label="kept")
    if names and names != [family]:
        panel.legend(fontsize=8)
    panel.set(xlabel="epoch", ylabel=f"{FAMILIES[family]} of held-out patients")
    if family != "accuracy":  # it counts background and moves within its last per cent
        panel.set_ylim(0, 1.02)


def _class_colours(names: Iterable[str]) -> list[str]:
    """A tumour type in its colour of the pictures, anything else in one."""
    types = {name.split()[0]: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in TYPE_COLOURS.values()}
    return [types.get(name, COLOURS[0]) for name in names]


def _share(part: int, whole: int) -> str:
    """Per cent to two digits: healthy voxels are 98 %, those of a necrosis 0.18 %."""
    percent = 100 * part / max(1, whole)
    return f"{percent:.0f} %" if percent >= 10 or not part else f"{percent:.2g} %"


def _panels(count: int, *, rows: int | None = None, width: float = 1.0):
    """A figure and its `count` panels, at most three a row; lower where they hold `rows` bars alone."""
    from matplotlib.figure import Figure  # a second to import, and workers seldom draw
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(count, 3) if count != 4 else 2
    lines = -(-count // columns)
    high = PANEL[1] if rows is None else 0.9 + 0.4 * rows
    # No pyplot: no global state, no display.
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(PANEL[0] * columns * width, high * lines), layout=layout)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.remove()
    return figure, list(axes[:count])


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
