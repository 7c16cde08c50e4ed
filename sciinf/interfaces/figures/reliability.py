"""Reliability figure: whether probabilities of discrete parameters were right on fresh simulations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sciinf.core.records import Reliability
from sciinf.interfaces.figures.style import BLUE, BROAD, MUTED, VERMILION, WIDTH, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 12  # Largest number of panels.
_LETTERS = 22


def panels_of(found: Mapping[str, Reliability]) -> list[tuple[str, Reliability, int]]:
    """Panels of the figure: parameter name, reliability of the parameter, and index of the value drawn.

    A parameter with two values has one panel, of the last value, because this panel determines the other.
    """
    return [
        (name, one, k)
        for name, one in found.items()
        for k in (range(len(one.values)) if len(one.values) > 2 else [len(one.values) - 1])
    ]


def outside(found: Mapping[str, Reliability]) -> list[str]:
    """Values, each as "name = value", with some bin outside the interval expected of right probabilities."""
    return [f"{name} = {one.values[k]}" for name, one, k in panels_of(found) if not bool(_inside(one, k).all())]


@styled
def reliability_figure(found: Mapping[str, Reliability], width: float = WIDTH) -> Figure:
    """Figure of how often values were true against their predicted probabilities, with at most 12 panels.

    Args:
        found: Name of each discrete parameter -> its reliability; at least one.
        width: Width of the figure, in inches.
    """
    from matplotlib.figure import Figure

    drawn = panels_of(found)[:MOST]
    columns = min(len(drawn), 4 if width >= BROAD else 2)
    rows = math.ceil(len(drawn) / columns)
    size = width / max(columns, 2)
    figure = Figure(figsize=(size * columns, 0.5 + size * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for index, axes in enumerate(panels.flat):
        if index >= len(drawn):
            axes.set_visible(False)
            continue
        name, one, k = drawn[index]
        _panel(axes, one, k)
        title = f"{name} = {one.values[k]}"
        axes.set_title(title if len(title) <= _LETTERS else f"{title[: _LETTERS - 1]}…")
        if index + columns >= len(drawn):
            axes.tick_params(labelbottom=True)
    figure.supxlabel("probability that was given", fontsize=8.5)
    figure.supylabel("share that was true", fontsize=8.5)
    return figure


def _panel(axes: Axes, one: Reliability, k: int) -> None:
    x, y, inside = one.predicted[k], one.found[k], _inside(one, k)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9)
    axes.vlines(x, one.low[k], one.high[k], color=MUTED, alpha=0.35, linewidth=5)
    for some, colour in ((inside, BLUE), (~inside, VERMILION)):
        axes.plot(x[some], y[some], linestyle="none", marker="o", markersize=4, color=colour)
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "½", "1"])


def _inside(one: Reliability, k: int) -> np.ndarray:
    return (one.found[k] >= one.low[k] - 1e-12) & (one.found[k] <= one.high[k] + 1e-12)
