"""Charts of a report: how scores spread by region, and how they depend on the tumour's volume; as SVG.

Many points are one picture inside the SVG, so that five thousand cases open as quickly as five.
"""

import io
from collections.abc import Mapping

import numpy as np

from bts.report.curves import COLOURS, MARKERS
from bts.scoring.surfaces import FARTHEST

SIZE = (5.2, 3.6)  # inches
POINTS_DPI = 200  # of the picture that holds the points
FEW = 400  # points up to which each is drawn large
LOWEST_ML = 0.01  # smaller volumes are drawn here: a logarithm has no zero
MM = (0, 5, 10, 50, 100, FARTHEST)  # ticks; the last stands for a side that is missing


def draw_spread(values: Mapping[str, np.ndarray], title: str, *, share: bool) -> bytes:
    """A box a region (quartiles, whiskers to 1.5 times their distance), every case a point.

    values: by region. `share`: from 0 to 1, otherwise mm, on a scale that is logarithmic beyond 10.
    """
    figure, axes = _panel()
    rng = np.random.default_rng(0)
    for place, (of, colour) in enumerate(zip(values.values(), COLOURS, strict=False), 1):
        beside = place + rng.uniform(-0.22, 0.22, len(of))
        dots = {"s": 14 if len(of) <= FEW else 2, "alpha": 0.5, "linewidths": 0, "rasterized": True}
        axes.scatter(beside, of, color=colour, **dots)
    box = {"showfliers": False, "widths": 0.55, "medianprops": {"color": "black", "linewidth": 1.6}}
    axes.boxplot(list(values.values()), **box)
    axes.set_xticks(range(1, len(values) + 1), [f"{name}\nn {len(of):,}" for name, of in values.items()])
    axes.set_ylabel(title)
    if share:
        axes.set_ylim(-0.02, 1.02)
    else:
        axes.set_yscale("symlog", linthresh=10)
        axes.set_yticks(MM, [f"{mm:g}" for mm in MM])
        axes.set_ylim(-0.4, 1.2 * max(FARTHEST, *(of.max() for of in values.values())))
    return _svg(figure)


def draw_volumes(points: Mapping[str, np.ndarray]) -> bytes:
    """Dice against the volume of the truth: small regions are the hard ones.

    points: (N, 2) ml and Dice, by region.
    """
    figure, axes = _panel()
    _scatter(figure, axes, {r: np.maximum(of, (LOWEST_ML, 0)) for r, of in points.items()})
    axes.set(xscale="log", xlabel="volume of the ground truth, ml")
    return _svg(figure)


def draw_expected(points: Mapping[str, np.ndarray]) -> bytes:
    """Dice against what the model expected of it: on the line it is as expected.

    points: (N, 2) expected Dice and Dice, by region.
    """
    figure, axes = _panel()
    axes.plot((0, 1), (0, 1), color="#8a94a0", linewidth=1)
    _scatter(figure, axes, points)
    axes.set(xlabel="expected Dice", xlim=(-0.02, 1.02))
    return _svg(figure)


def _scatter(figure, axes, points: Mapping[str, np.ndarray]) -> None:
    """Dice (second column) against the first, a colour and marker a region."""
    for (region, of), colour, marker in zip(points.items(), COLOURS, MARKERS, strict=False):
        how = {"s": 16 if len(of) <= FEW else 3, "marker": marker, "color": colour, "alpha": 0.6}
        axes.scatter(of[:, 0], of[:, 1], label=region, linewidths=0, rasterized=True, **how)
    axes.set(ylabel="Dice", ylim=(-0.02, 1.02))
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=9)


def _panel():
    """A figure and its one panel."""
    from matplotlib.figure import Figure  # a second to import, and workers never draw charts

    # No pyplot: no global state, no display.
    figure = Figure(figsize=SIZE, layout="constrained", dpi=POINTS_DPI)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e3e7ec", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "bts"}):  # equal scores, equal bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
