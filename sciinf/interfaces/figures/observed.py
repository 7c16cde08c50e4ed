"""Common parts of the figures of an observable and its prediction: axis order, quantiles, scales and legend."""

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
    """Number of observed values inside their own central predictive interval, and number of values compared."""
    low, high = quantiles(checked.predictive, ((1 - level) / 2, (1 + level) / 2))
    seen = np.isfinite(checked.observed) & np.isfinite(low)
    return int((seen & (checked.observed >= low) & (checked.observed <= high)).sum()), int(seen.sum())


def image_axes(dims: tuple[str, ...]) -> list[int]:
    """Indices of the two axes of an image, rows first."""
    order = {"y": 0, "row": 0, "x": 1, "column": 1}
    return sorted((i for i, d in enumerate(dims) if d in order), key=lambda i: order[dims[i]])[:2]


def leading(checked: Checked, axes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Observation, (*axes, C), and predictions, (m, *axes, C), with the named axes first.

    All other axes are flattened into the last axis, of length C.
    """
    shape = [checked.observed.shape[i] for i in axes]
    observed = np.moveaxis(checked.observed, axes, range(len(axes))).reshape(*shape, -1)
    simulated = np.moveaxis(checked.predictive, [i + 1 for i in axes], range(1, len(axes) + 1))
    return observed, simulated.reshape(len(simulated), *shape, -1)


def marked(checked: Checked, axes: list[int]) -> np.ndarray:
    """Mask of the strange values, in the shape that `leading` gives the observation."""
    shape = [checked.observed.shape[i] for i in axes]
    strange = np.zeros(checked.observed.shape, dtype=bool) if checked.strange is None else checked.strange
    return np.moveaxis(strange, axes, range(len(axes))).reshape(*shape, -1)


def quantiles(values: np.ndarray, at: tuple[float, ...]) -> np.ndarray:
    """Quantiles over the first axis; NaN where all values are masked."""
    if len(values) == 0 or not np.isfinite(values).any():
        return np.full((len(at), *values.shape[1:]), np.nan)
    missing = ~np.isfinite(values).any(axis=0)
    filled = np.where(missing, 0.0, values)
    return np.where(missing, np.nan, np.nanquantile(filled, at, axis=0))


def fit_log(axes: Axes, observed: np.ndarray, simulated: np.ndarray) -> None:
    """Make the vertical axis logarithmic, and fit it to the observation and the central 90 % of the predictions.

    If these values contain a zero, it has a place below the smallest positive number.
    """
    edges = np.concatenate([quantiles(simulated, (0.05, 0.95)).ravel(), observed.ravel()])
    low, high = ends(edges)
    low = max(low, min(ends(simulated)[0], ends(observed)[0]))  # A quantile may lie between 0 and the smallest number.
    zero = bool((edges == 0).any())
    log_axis(axes, axes.yaxis, low, high, zero=zero)
    room = (high / low) ** 0.06 if high > low else 2.0
    axes.set_ylim(-0.2 * low if zero else low / room, high * room)


def ends(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest positive number; 0.1 and 1 if there is none."""
    known = values[np.isfinite(values) & (values > 0)]
    return (float(known.min()), float(known.max())) if len(known) else (0.1, 1.0)


def not_negative(values: np.ndarray) -> np.ndarray:
    """Values that a logarithmic axis with a place for zero can show; NaN in place of the others."""
    return np.where(values >= 0, values, np.nan)


def legend(figure: Figure, axes: Axes) -> None:
    """Draw a legend above all panels, where it hides no data.

    It has one line if there is room for it, else two columns.
    """
    handles, labels = axes.get_legend_handles_labels()
    columns = len(labels) if figure.get_figwidth() >= BROAD else 2
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.6, borderaxespad=0.2)
