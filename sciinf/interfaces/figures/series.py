"""Figure of a series: predictive bands, observation, and below them the residuals of the median prediction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sciinf.interfaces.figures.checked import Checked
from sciinf.interfaces.figures.observed import BANDS, ends, fit_log, leading, legend, marked, not_negative, quantiles
from sciinf.interfaces.figures.style import BLUE, BROAD, INK, MUTED, PAPER, label, log_axis, mark, styled, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 6
_FACTORS = (1.2, 1.5, 2.0, 3.0, 5.0, *(10.0**k for k in range(1, 13)))  # Factors that can be ticks.


@styled
def draw_series(checked: Checked, width: float) -> tuple[Figure, str, list[Axes]]:
    """Figure of a series, with one panel for each component and its residuals below.

    Args:
        checked: Observable to draw, which has an axis.
        width: Width of the figure, in inches.

    Returns:
        The figure, a sentence on components that were left out ("" if none), and the upper axes of each component.
    """
    from matplotlib.figure import Figure

    axis = checked.axis or 0
    (observed, simulated), strange = leading(checked, [axis]), marked(checked, [axis])
    total = observed.shape[-1]
    shown = min(total, PANELS)
    columns = 2 if shown > 1 and width >= BROAD else 1
    rows = math.ceil(shown / columns)
    tall = 2.3 if width < BROAD else 3.7
    figure = Figure(figsize=(width, 0.4 + tall * rows), layout="constrained")
    heights = [height for _ in range(rows) for height in (3.0, 1.0)]
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=heights)
    upper = [figure.add_subplot(grid[2 * (k // columns), k % columns]) for k in range(shown)]
    lower = [figure.add_subplot(grid[2 * (k // columns) + 1, k % columns], sharex=upper[k]) for k in range(shown)]
    along = checked.coords.get(checked.dims[axis])
    place = np.arange(len(observed)) if along is None or along.places is None else along.places
    for k, (above, below) in enumerate(zip(upper, lower, strict=True)):
        _series(above, place, observed[:, k], simulated[:, :, k], checked.scale)
        mark(above, place, observed[:, k], strange[:, k])
        _residuals(below, place, observed[:, k], simulated[:, :, k], checked.scale)
        above.set_title(_component(checked, axis, k) if total > 1 else "")
        above.tick_params(labelbottom=False)
        if k % columns == 0:
            above.set_ylabel(label(checked.name, checked.unit))
            below.set_ylabel("obs. / pred." if checked.scale == "log" else "residual")
        if k + columns >= shown:
            name = checked.dims[axis]
            below.set_xlabel(f"{name} (index)" if along is None or along.places is None else label(name, along.unit))
    figure.align_ylabels([*upper, *lower])
    legend(figure, upper[0])
    return figure, "" if total == shown else f"The first {shown} of {total} components are drawn.", upper


def _component(checked: Checked, axis: int, index: int) -> str:
    """Title of one component of a series, such as "hare", "depth 0.5 m" or "species 1"."""
    others = [d for i, d in enumerate(checked.dims) if i != axis]
    if len(others) != 1:
        return f"component {index + 1}"
    along = checked.coords.get(others[0])
    if along is None:
        return f"{others[0]} {index + 1}"
    return along.words(index) if along.places is None else f"{others[0]} {along.words(index)}"


def _series(axes: Axes, place: np.ndarray, observed: np.ndarray, simulated: np.ndarray, scale: str) -> None:
    if scale == "log":
        observed, simulated = not_negative(observed), not_negative(simulated)
    for level, alpha in zip(BANDS, (0.16, 0.26), strict=True):
        low, high = quantiles(simulated, ((1 - level) / 2, (1 + level) / 2))
        _band(axes, place, low, high, alpha, f"predicted, {level:.0%}")
    axes.plot(place, quantiles(simulated, (0.5,))[0], color=BLUE, linewidth=1.3, label="predicted, median")
    _points(axes, place, observed, "observed")
    axes.grid(axis="y")
    axes.margins(x=0.02)
    if _geometric(place):
        log_axis(axes, axes.xaxis, float(place.min()), float(place.max()))
    elif (place == np.round(place)).all():
        whole_numbers(axes.xaxis)
    if scale == "log":
        fit_log(axes, observed, simulated)


def _band(
    axes: Axes, place: np.ndarray, low: np.ndarray, high: np.ndarray, alpha: float, label: str | None = None
) -> None:
    """Draw a band along the axis, and a bar at each place whose neighbours on both sides are missing."""
    axes.fill_between(place, low, high, color=BLUE, alpha=alpha, linewidth=0, label=label)
    there = np.isfinite(low)
    lone = there & ~np.append(there[1:], False) & ~np.append(False, there[:-1])
    if lone.any() and len(place) > 1:
        axes.vlines(place[lone], low[lone], high[lone], color=BLUE, alpha=alpha, linewidth=5)


def _geometric(place: np.ndarray) -> bool:
    """Whether places span a decade or more and are evenly spaced in their logarithm, as frequencies often are."""
    if len(place) < 3 or place.min() <= 0 or place.max() < 10 * place.min():
        return False
    steps = np.diff(np.log(place))
    return bool(np.allclose(steps, steps.mean(), rtol=0.1, atol=0.0))


def _residuals(axes: Axes, place: np.ndarray, observed: np.ndarray, simulated: np.ndarray, scale: str) -> None:
    """Draw the residuals of the median prediction, with the 90 % band of the predictions.

    On a logarithmic axis, the residual is a ratio: observation divided by median prediction. Ratios take zero for half
    the smallest positive number, as networks do.
    """
    log = scale == "log"
    if log:
        least = min(ends(observed)[0], ends(simulated)[0]) / 2
        observed, simulated = (np.log(np.where(v == 0, least, not_negative(v))) for v in (observed, simulated))
    middle = quantiles(simulated, (0.5,))[0]
    low, high = quantiles(simulated, ((1 - BANDS[0]) / 2, (1 + BANDS[0]) / 2)) - middle
    left = observed - middle
    if log:
        low, high, left = np.exp(low), np.exp(high), np.exp(left)
        axes.set_yscale("log")
        _factors(axes, np.concatenate([low, high, left]))
    _band(axes, place, low, high, 0.16)
    axes.axhline(1.0 if log else 0.0, color=MUTED, linewidth=0.8)
    _points(axes, place, left, "residual", small=True)


def _factors(axes: Axes, values: np.ndarray) -> None:
    """Set three ticks: 1, a factor above 1, and its inverse, such as 2 and 1/2.

    The factor is as large as most of the values require.
    """
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    good = np.abs(np.log(values[np.isfinite(values) & (values > 0)]))
    reach = float(np.exp(np.quantile(good, 0.98))) if len(good) else 2.0
    factor = min(_FACTORS, key=lambda one: abs(math.log(one / reach)))
    ticks = [1 / factor, 1.0, factor]
    axes.set_ylim(1 / (1.2 * max(reach, ticks[2])), 1.2 * max(reach, ticks[2]))
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FixedFormatter([f"÷{ticks[2]:.3g}", "1", f"×{ticks[2]:.3g}"]))
    axes.yaxis.set_minor_locator(NullLocator())


def _points(axes: Axes, place: np.ndarray, values: np.ndarray, name: str, *, small: bool = False) -> None:
    """Draw values as dots, or as a line if the dots would cover each other."""
    if len(place) > 200:
        axes.plot(place, values, color=INK, linewidth=0.9, label=name)
        return
    edge = {"markeredgecolor": PAPER, "markeredgewidth": 0.4 if small else 0.7}
    axes.plot(place, values, "o", color=INK, markersize=3.2 if small else 4.2, label=name, **edge)
