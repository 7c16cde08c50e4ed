"""Corner plot: the marginal of every parameter on the diagonal, and every pair of parameters below the diagonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from sciinf.interfaces.figures.density import density_1d, limits, regions
from sciinf.interfaces.figures.style import BLUE, MUTED, VERMILION, WIDTH, label, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

LEVELS = (0.5, 0.9)
_FEW = 5  # With more parameters than this, labels no longer run along their axes.
_LETTERS = 18
_AN_INCH = 13  # Letters per inch.
_SLANTED: dict[str, Any] = {"rotation": 45, "ha": "right", "va": "top", "rotation_mode": "anchor"}
_LEVEL: dict[str, Any] = {"rotation": 0, "ha": "right", "va": "center"}
Curve = tuple[np.ndarray, np.ndarray]


def windows(
    theta: Float[np.ndarray, "n theta"], weights: Float[np.ndarray, " n"], truth: Sequence[float | None] = ()
) -> list[tuple[float, float]]:
    """Range of values drawn for each parameter.

    It is the range of the draws (`density.limits`), stretched to contain the true value if one is given.
    """
    found = [limits(column, weights) for column in theta.T]
    for i, value in enumerate(truth):
        if value is not None:
            low, high = found[i]
            room = 0.05 * (high - low)
            found[i] = min(low, value - room) if value < low else low, max(high, value + room) if value > high else high
    return found


@styled
def corner(
    names: Sequence[str],
    units: Sequence[str],
    theta: Float[np.ndarray, "n theta"],
    weights: Float[np.ndarray, " n"],
    *,
    labels: Mapping[str, str] | None = None,
    prior: Mapping[str, Curve] | None = None,
    truth: Mapping[str, float] | None = None,
) -> Figure:
    """Corner plot of weighted draws: marginal densities and pairs.

    Args:
        names: Names of D parameters and derived quantities.
        units: Unit of each of the names.
        theta: Draws, (n, D).
        weights: Weight of each draw, (n,), with any sum.
        labels: Name -> label on the axes in place of the name.
        prior: Name -> (grid, density) of the prior's marginal, drawn faintly behind the posterior's.
        truth: Name -> true value, drawn as lines.

    Returns:
        A figure of D (D + 1) / 2 panels.
    """
    from matplotlib.figure import Figure

    count, truth = len(names), truth or {}
    ranges = windows(theta, weights, [truth.get(name) for name in names])
    side = min(3.0 * count, WIDTH)
    shown = [(labels or {}).get(name, name) for name in names]
    titles = [_title(name, unit, count, side / count) for name, unit in zip(shown, units, strict=True)]
    figure = Figure(figsize=(5.0 if count == 1 else side, 2.9 if count == 1 else side))
    grid = figure.add_gridspec(count, count, wspace=0.08, hspace=0.08)
    longest = max(len(line) for title in titles for line in title.split("\n"))
    margin = 0.62 if count <= _FEW else 0.55 + 0.068 * longest
    width, height = figure.get_size_inches()
    grid.update(left=margin / width, right=1 - 0.1 / width, bottom=0.8 * margin / height, top=1 - 0.25 / height)
    for row in range(count):
        for column in range(row + 1):
            axes = figure.add_subplot(grid[row, column])
            if row == column:
                _marginal(axes, theta[:, row], weights, ranges[row], (prior or {}).get(names[row]))
            else:
                _pair(axes, theta[:, [column, row]], weights, (ranges[column], ranges[row]))
            _truth(axes, truth.get(names[column]), None if row == column else truth.get(names[row]))
            _ticks(axes, count, bottom=row == count - 1, left=column == 0 and row > 0)
            if row == count - 1:
                axes.set_xlabel(titles[column], **(_SLANTED if count > _FEW else {}))
            if column == 0 and row > 0:
                axes.set_ylabel(titles[row], **(_LEVEL if count > _FEW else {}))
    if count == 1:
        figure.axes[0].set_ylabel("density")
    else:
        figure.align_labels()
    _legend(figure, bool(prior), bool(truth), pairs=count > 1)
    _widen(figure, grid)
    return figure


def _widen(figure: Figure, grid: GridSpec) -> None:
    """Widen the margins where a label extends beyond the figure."""
    figure.draw_without_rendering()
    (width, height), box, place = figure.get_size_inches(), figure.get_tightbbox(), grid.get_subplot_params(figure)
    grid.update(
        left=place.left + max(0.0, 0.05 - box.x0) / width,
        bottom=place.bottom + max(0.0, 0.05 - box.y0) / height,
        right=place.right - max(0.0, box.x1 + 0.05 - width) / width,
    )
    for axes in figure.axes:
        spec = axes.get_subplotspec()
        if spec is not None:
            axes.set_position(spec.get_position(figure))


def _title(name: str, unit: str, count: int, inches: float) -> str:
    """Label of an axis, on two lines if there are many panels.

    A name that is longer than its place, such as a panel, is cut.
    """
    lines = 1 if count <= _FEW else 2
    room = _LETTERS if lines == 2 else max(_LETTERS, int(_AN_INCH * inches) - len(label("", unit)))
    short = name if len(name) <= room else f"{name[: room - 1]}…"
    return label(short, unit, lines=lines)


def _marginal(
    axes: Axes, values: np.ndarray, weights: np.ndarray, window: tuple[float, float], prior: Curve | None
) -> None:
    grid, density = density_1d(values, weights, window)
    axes.fill_between(grid, density, color=BLUE, alpha=0.22, linewidth=0)
    axes.plot(grid, density, color=BLUE, linewidth=1.4)
    if prior is not None:
        axes.plot(*prior, color=MUTED, linewidth=1.0, dashes=(4, 2))
    axes.set_xlim(*window)
    axes.set_ylim(0, 1.08 * float(max(density.max(), 0.0 if prior is None else min(prior[1].max(), 2 * density.max()))))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _pair(
    axes: Axes, pair: np.ndarray, weights: np.ndarray, ranges: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    x, y, mass, found = regions(pair, weights, ranges, LEVELS)
    edges = sorted(set(found.values()))
    if edges:
        for edge, alpha in zip(edges, (0.2, 0.36), strict=False):
            axes.contourf(x, y, mass, levels=[edge, float(mass.max()) * 1.001], colors=[BLUE], alpha=alpha)
        axes.contour(x, y, mass, levels=edges, colors=[BLUE], linewidths=0.9)
    axes.set_xlim(*ranges[0])
    axes.set_ylim(*ranges[1])


def _truth(axes: Axes, x: float | None, y: float | None) -> None:
    if x is not None:
        axes.axvline(x, color=VERMILION, linewidth=1.0)
    if y is not None:
        axes.axhline(y, color=VERMILION, linewidth=1.0)
    if x is not None and y is not None:
        axes.plot([x], [y], marker="s", markersize=3.5, color=VERMILION)


def _ticks(axes: Axes, count: int, *, bottom: bool, left: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    ticks = 6 if count == 1 else 4 if count < 5 else 3
    axes.xaxis.set_major_locator(MaxNLocator(ticks, prune=None if count < 3 else "both"))
    if left:
        axes.yaxis.set_major_locator(MaxNLocator(ticks, prune="both"))
    axes.tick_params(labelbottom=bottom, labelleft=left, left=axes.spines["left"].get_visible())
    if count > 3:
        axes.tick_params(axis="x", labelrotation=45, labelsize=7)
        axes.tick_params(axis="y", labelsize=7)


def _legend(figure: Figure, prior: bool, truth: bool, *, pairs: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = [Patch(facecolor=BLUE, alpha=0.22, label="posterior")]
    if pairs:
        regions = " and ".join(f"{level:.0%}" for level in LEVELS)
        handles[0].set_label(f"posterior; contours hold {regions}")
    if prior:
        handles.append(Line2D([], [], color=MUTED, linewidth=1.0, dashes=(4, 2), label="prior"))
    if truth:
        handles.append(Line2D([], [], color=VERMILION, linewidth=1.0, label="truth"))
    figure.legend(handles=handles, loc="upper right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.6)
