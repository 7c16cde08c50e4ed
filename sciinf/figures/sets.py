"""A set of exchangeable items: the distribution of its values against those of predicted sets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from sciinf.figures.observed import legend
from sciinf.figures.style import BLUE, BROAD, COLUMN, INK, label, log_axis, mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = 6
_POINTS = 200


def draw_set(
    observed: Float[np.ndarray, "item feature"],
    simulated: Float[np.ndarray, "m item feature"],
    about: tuple[str, str, str],
    strange: Bool[np.ndarray, "item feature"],
    width: float = COLUMN,
) -> tuple[Figure, str]:
    """Distribution functions, one panel per feature.

    Args:
        observed: Items by features; NaN where masked.
        simulated: The same for m predicted sets.
        about: Name, unit and scale of the observable.
        strange: Values that are marked.
        width: Of the figure, in inches.

    Returns:
        The figure and what was left out of it.
    """
    from matplotlib.figure import Figure

    name, unit, scale = about
    total = observed.shape[1]
    shown = min(total, _PANELS)
    columns = min(shown, 3 if width >= BROAD else 1)
    rows = math.ceil(shown / columns)
    figure = Figure(
        figsize=(min(width, 5.6) if columns == 1 else width, 0.3 + (2.8 if width >= BROAD else 2.4) * rows),
        layout="constrained",
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for index, axes in enumerate(panels.flat):
        if index >= shown:
            axes.set_visible(False)
            continue
        _distribution(axes, observed[:, index], simulated[:, :, index], scale)
        _mark(axes, observed[:, index], strange[:, index])
        axes.set_xlabel(label(name if total == 1 else f"{name} {index + 1}", unit))
        if index % columns == 0:
            axes.set_ylabel("fraction of items below")
    legend(figure, panels[0, 0])
    return figure, "" if shown == total else f"The first {shown} of {total} features are drawn."


def _distribution(axes: Axes, observed: np.ndarray, simulated: np.ndarray, scale: str) -> None:
    seen = np.sort(observed[np.isfinite(observed)])
    values = np.concatenate([seen, simulated[np.isfinite(simulated)]])
    values = values[values > 0] if scale == "log" else values
    if len(values) == 0:
        return
    low, high = (float(v) for v in np.quantile(values, (0.002, 0.998)))
    if not high > low:
        low, high = low - 0.5, high + 0.5
    grid = np.geomspace(low, high, _POINTS) if scale == "log" and low > 0 else np.linspace(low, high, _POINTS)
    curves = np.stack([_ecdf(one[np.isfinite(one)], grid) for one in simulated])
    for level, alpha in ((0.9, 0.16), (0.5, 0.26)):
        lower, upper = np.nanquantile(curves, ((1 - level) / 2, (1 + level) / 2), axis=0)
        axes.fill_between(grid, lower, upper, color=BLUE, alpha=alpha, linewidth=0, label=f"predicted, {level:.0%}")
    axes.plot(grid, _ecdf(seen, grid), color=INK, linewidth=1.4, drawstyle="steps-post", label="observed")
    axes.set_ylim(0, 1.02)
    axes.grid(axis="y")
    if scale == "log" and low > 0:
        log_axis(axes, axes.xaxis, low, high)
    axes.set_xlim(low, high)


def _mark(axes: Axes, values: np.ndarray, strange: np.ndarray) -> None:
    """Strange values, on the observed curve; the axis goes as far as they do."""
    seen = values[np.isfinite(values)]
    mark(axes, values, _ecdf(seen, values), strange & np.isfinite(values))
    if strange.any():
        far = values[strange & np.isfinite(values)]
        low, high = axes.get_xlim()
        if axes.get_xscale() == "log":
            low, high = np.log([min([low, *far[far > 0]]), max([high, *far])])
            axes.set_xlim(*np.exp([low - 0.03 * (high - low), high + 0.03 * (high - low)]))
            return
        low, high = min([low, *far]), max([high, *far])
        axes.set_xlim(low - 0.03 * (high - low), high + 0.03 * (high - low))


def _ecdf(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    if len(values) == 0:
        return np.full(len(grid), np.nan)
    return np.searchsorted(np.sort(values), grid, side="right") / len(values)
