"""What the pictures of an observable beside its prediction have in common: arrangement, quantiles, scales, a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sciinf.interfaces.figures.checked import Checked
from sciinf.interfaces.figures.style import BROAD, log_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BANDS = (0.9, 0.5)


def covered(checked: Checked, level: float = BANDS[0]) -> tuple[int, int]:
    """How many observed numbers lie inside their own central predictive interval, and how many there are."""
    low, high = quantiles(checked.predictive, ((1 - level) / 2, (1 + level) / 2))
    seen = np.isfinite(checked.observed) & np.isfinite(low)
    return int((seen & (checked.observed >= low) & (checked.observed <= high)).sum()), int(seen.sum())


def image_axes(dims: tuple[str, ...]) -> list[int]:
    """The two image axes, rows first."""
    order = {"y": 0, "row": 0, "x": 1, "column": 1}
    return sorted((i for i, d in enumerate(dims) if d in order), key=lambda i: order[dims[i]])[:2]


def leading(checked: Checked, axes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The named axes moved to the front and all others flattened into one: (*axes, C) and (m, *axes, C)."""
    shape = [checked.observed.shape[i] for i in axes]
    observed = np.moveaxis(checked.observed, axes, range(len(axes))).reshape(*shape, -1)
    simulated = np.moveaxis(checked.predictive, [i + 1 for i in axes], range(1, len(axes) + 1))
    return observed, simulated.reshape(len(simulated), *shape, -1)


def marked(checked: Checked, axes: list[int]) -> np.ndarray:
    """Which numbers are strange, shaped as `leading` shapes the observation."""
    shape = [checked.observed.shape[i] for i in axes]
    strange = np.zeros(checked.observed.shape, dtype=bool) if checked.strange is None else checked.strange
    return np.moveaxis(strange, axes, range(len(axes))).reshape(*shape, -1)


def quantiles(values: np.ndarray, at: tuple[float, ...]) -> np.ndarray:
    """Quantiles over the first axis, NaN where all is masked."""
    if len(values) == 0 or not np.isfinite(values).any():
        return np.full((len(at), *values.shape[1:]), np.nan)
    missing = ~np.isfinite(values).any(axis=0)
    filled = np.where(missing, 0.0, values)
    return np.where(missing, np.nan, np.nanquantile(filled, at, axis=0))


def fit_log(axes: Axes, observed: np.ndarray, simulated: np.ndarray) -> None:
    """Make the upright axis logarithmic, as far as what was observed and nine tenths of what is predicted.

    Where a zero is among these it has a place below the smallest positive number.
    """
    edges = np.concatenate([quantiles(simulated, (0.05, 0.95)).ravel(), observed.ravel()])
    low, high = ends(edges)
    low = max(low, min(ends(simulated)[0], ends(observed)[0]))  # a quantile may lie between 0 and the smallest number
    zero = bool((edges == 0).any())
    log_axis(axes, axes.yaxis, low, high, zero=zero)
    room = (high / low) ** 0.06 if high > low else 2.0
    axes.set_ylim(-0.2 * low if zero else low / room, high * room)


def ends(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest positive number; 0.1 and 1 where there is none."""
    known = values[np.isfinite(values) & (values > 0)]
    return (float(known.min()), float(known.max())) if len(known) else (0.1, 1.0)


def not_negative(values: np.ndarray) -> np.ndarray:
    """What a logarithmic axis with a place for zero can show; NaN elsewhere."""
    return np.where(values >= 0, values, np.nan)


def legend(figure: Figure, axes: Axes) -> None:
    """Above everything, where it hides no data: in one line where there is room for it, else in two columns."""
    handles, labels = axes.get_legend_handles_labels()
    columns = len(labels) if figure.get_figwidth() >= BROAD else 2
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.6, borderaxespad=0.2)
