"""The observation against data simulated from the posterior: does the fitted model produce what was seen?

Each observable is drawn as what its axes say it is: a series with bands, points with intervals, a set's distribution,
an image beside the mean image and their difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciinf.figures.checked import Along, Checked
from sciinf.figures.images import draw_images
from sciinf.figures.sets import draw_set
from sciinf.figures.style import BLUE, INK, PAPER, WIDTH, label, log_axis, mark, styled, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGE_AXES = frozenset({"y", "x", "row", "column"})
BANDS = (0.9, 0.5)
PANELS = 6
_ELEMENTS = 60


@dataclass(frozen=True)
class PredictiveFigure:
    """A drawing with what it shows in words.

    Args:
        figure: The drawing.
        kind: "series", "image", "set" or "vector".
        caption: How to read it.
        note: What was left out of the drawing; "" where nothing was.
    """

    figure: Figure
    kind: str
    caption: str
    note: str = ""


def kind_of(dims: tuple[str, ...], shape: tuple[int, ...]) -> str:
    """How an observable is drawn: "series", "image", "set" or "vector"."""
    if len(IMAGE_AXES & set(dims)) >= 2:
        return "image"
    if "time" in dims and shape[dims.index("time")] > 1:
        return "series"
    return "set" if "item" in dims else "vector"


def covered(checked: Checked, level: float = BANDS[0]) -> tuple[int, int]:
    """How many observed numbers lie inside their own central predictive interval, and how many there are."""
    low, high = _quantiles(checked.predictive, ((1 - level) / 2, (1 + level) / 2))
    seen = np.isfinite(checked.observed) & np.isfinite(low)
    return int((seen & (checked.observed >= low) & (checked.observed <= high)).sum()), int(seen.sum())


@styled
def predictive(checked: Checked) -> PredictiveFigure:
    """One observable's observation against its posterior predictive."""
    kind = kind_of(checked.dims, checked.observed.shape)
    if kind == "image":
        axes = _image_axes(checked.dims)
        figure, note = draw_images(*_leading(checked, axes), _about(checked), _marked(checked, axes))
        caption = "Observed image, mean of the images the posterior predicts, and their difference in units of the "
        caption += f"predictive standard deviation, pixel by pixel.{_strange(checked)}"
        return PredictiveFigure(figure, kind, caption, note)
    if kind == "set":
        axes = [checked.dims.index("item")]
        figure, note = draw_set(*_leading(checked, axes), _about(checked), _marked(checked, axes))
        caption = "Fraction of items below each value: observed (dark) and predicted (bands hold 50% and 90%)."
        return PredictiveFigure(figure, kind, caption + _strange(checked), note)
    inside, total = covered(checked)
    counted = f" {inside} of {total} observed values lie inside their 90% band.{_strange(checked)}"
    if kind == "series":
        figure, note = _draw_series(checked)
        return PredictiveFigure(
            figure, kind, f"Bands hold 50% and 90% of the data predicted by the posterior.{counted}", note
        )
    figure, note = _draw_vector(checked)
    if checked.observed.size == 1:
        return PredictiveFigure(figure, kind, f"What the posterior predicts, and what was observed.{counted}", note)
    return PredictiveFigure(
        figure, kind, f"Bars hold 50% and 90% of the data predicted by the posterior.{counted}", note
    )


def _about(checked: Checked) -> tuple[str, str, str]:
    return checked.name, checked.unit, checked.scale


def _image_axes(dims: tuple[str, ...]) -> list[int]:
    """The two image axes, rows first."""
    order = {"y": 0, "row": 0, "x": 1, "column": 1}
    return sorted((i for i, d in enumerate(dims) if d in order), key=lambda i: order[dims[i]])[:2]


def _leading(checked: Checked, axes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The named axes moved to the front and all others flattened into one: (*axes, C) and (m, *axes, C)."""
    shape = [checked.observed.shape[i] for i in axes]
    observed = np.moveaxis(checked.observed, axes, range(len(axes))).reshape(*shape, -1)
    simulated = np.moveaxis(checked.predictive, [i + 1 for i in axes], range(1, len(axes) + 1))
    return observed, simulated.reshape(len(simulated), *shape, -1)


def _marked(checked: Checked, axes: list[int]) -> np.ndarray:
    """Which numbers are strange, shaped as `_leading` shapes the observation."""
    shape = [checked.observed.shape[i] for i in axes]
    strange = np.zeros(checked.observed.shape, dtype=bool) if checked.strange is None else checked.strange
    return np.moveaxis(strange, axes, range(len(axes))).reshape(*shape, -1)


def _strange(checked: Checked) -> str:
    """What the marks mean; "" where there are none."""
    return "" if checked.strange is None else " Marked in red: unlike what the other numbers say of it."


def _quantiles(values: np.ndarray, at: tuple[float, ...]) -> np.ndarray:
    """Quantiles over the first axis, NaN where all is masked."""
    if len(values) == 0 or not np.isfinite(values).any():
        return np.full((len(at), *values.shape[1:]), np.nan)
    missing = ~np.isfinite(values).any(axis=0)
    filled = np.where(missing, 0.0, values)
    return np.where(missing, np.nan, np.nanquantile(filled, at, axis=0))


def _draw_series(checked: Checked) -> tuple[Figure, str]:
    from matplotlib.figure import Figure

    along = [checked.dims.index("time")]
    (observed, simulated), strange = _leading(checked, along), _marked(checked, along)
    total = observed.shape[-1]
    shown = min(total, PANELS)
    columns = 1 if shown == 1 else 2
    rows = math.ceil(shown / columns)
    figure = Figure(figsize=(WIDTH, 0.3 + (3.3 if columns == 1 else 2.7) * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
    others = [d for d in checked.dims if d != "time"]
    times = checked.coords["time"].places if "time" in checked.coords else None
    place = np.arange(len(observed)) if times is None else times
    for index, axes in enumerate(panels.flat):
        if index >= shown:
            axes.set_visible(False)
            continue
        _series(axes, place, observed[:, index], simulated[:, :, index], checked.scale)
        mark(axes, place, observed[:, index], strange[:, index])
        if total > 1:
            axes.set_title(_component(checked, others, index))
        if index % columns == 0:
            axes.set_ylabel(label(checked.name, checked.unit))
        if index + columns >= shown:
            axes.set_xlabel("time (index)" if times is None else label("time", checked.coords["time"].unit))
            axes.tick_params(labelbottom=True)
    _legend(figure, panels[0, 0])
    return figure, "" if total == shown else f"The first {shown} of {total} components are drawn."


def _component(checked: Checked, others: list[str], index: int) -> str:
    """The title of one series among several: "hare", "depth 0.5 m", "species 1"."""
    if len(others) != 1:
        return f"component {index + 1}"
    along = checked.coords.get(others[0])
    if along is None:
        return f"{others[0]} {index + 1}"
    return along.words(index) if along.places is None else f"{others[0]} {along.words(index)}"


def _series(axes: Axes, time: np.ndarray, observed: np.ndarray, simulated: np.ndarray, scale: str) -> None:
    if scale == "log":
        observed, simulated = _positive(observed), _positive(simulated)
    for level, alpha in zip(BANDS, (0.16, 0.26), strict=True):
        low, high = _quantiles(simulated, ((1 - level) / 2, (1 + level) / 2))
        axes.fill_between(time, low, high, color=BLUE, alpha=alpha, linewidth=0, label=f"predicted, {level:.0%}")
    axes.plot(time, _quantiles(simulated, (0.5,))[0], color=BLUE, linewidth=1.3, label="predicted, median")
    if len(time) <= 200:
        axes.plot(
            time, observed, "o", color=INK, markersize=4.2, markeredgecolor=PAPER, markeredgewidth=0.7, label="observed"
        )
    else:
        axes.plot(time, observed, color=INK, linewidth=0.9, label="observed")
    axes.grid(axis="y")
    axes.margins(x=0.02)
    if (time == np.round(time)).all():
        whole_numbers(axes.xaxis)
    if scale == "log":
        _fit_log(axes, observed, simulated)


def _fit_log(axes: Axes, observed: np.ndarray, simulated: np.ndarray) -> None:
    edges = np.concatenate([_quantiles(simulated, (0.05, 0.95)).ravel(), observed.ravel()])
    edges = edges[np.isfinite(edges)]
    low, high = (float(edges.min()), float(edges.max())) if len(edges) else (0.1, 1.0)
    log_axis(axes, axes.yaxis, low, high)
    room = (high / low) ** 0.06 if high > low else 2.0
    axes.set_ylim(low / room, high * room)


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)


def _draw_vector(checked: Checked) -> tuple[Figure, str]:
    from matplotlib.figure import Figure

    observed, simulated = checked.observed.ravel(), checked.predictive.reshape(len(checked.predictive), -1)
    if observed.size == 1:
        figure = Figure(figsize=(5.6, 2.7), layout="constrained")
        _number(figure.subplots(), checked, simulated[:, 0], float(observed[0]))
        return figure, ""
    shown = min(len(observed), _ELEMENTS)
    note = "" if shown == len(observed) else f"The first {shown} of {len(observed)} elements are drawn."
    observed, simulated = observed[:shown], simulated[:, :shown]
    text = label(checked.name, checked.unit)
    if checked.scale == "log":
        observed, simulated = _positive(observed), _positive(simulated)
    elif _unlike(simulated):
        middle, spread = np.nanmean(simulated, axis=0), np.maximum(np.nanstd(simulated, axis=0), 1e-300)
        observed, simulated = (observed - middle) / spread, (simulated - middle) / spread
        text = f"{checked.name}, standardised by its prediction"
        note = (
            f"Elements of very different sizes are drawn as (value − predictive mean) / predictive sd. {note}".strip()
        )
    figure = Figure(figsize=(WIDTH if shown > 12 else 6.4, 3.1), layout="constrained")
    axes = figure.subplots()
    _intervals(axes, observed, simulated)
    _name_elements(axes, checked, shown)
    mark(axes, np.arange(1, shown + 1), observed, _marked(checked, []).ravel()[:shown])
    _legend(figure, axes)
    axes.set_ylabel(text)
    if checked.scale == "log":
        _fit_log(axes, observed, simulated)
    return figure, note


def _unlike(simulated: np.ndarray) -> bool:
    """Whether the elements differ so much in size or spread that one axis would hide some of them."""
    low, high = _quantiles(simulated, (0.05, 0.95))
    width, reach = high - low, np.nanmax(high) - np.nanmin(low)
    return bool(np.nanmin(width) < 0.02 * reach)


def _intervals(axes: Axes, observed: np.ndarray, simulated: np.ndarray) -> None:
    place = np.arange(1, len(observed) + 1)
    thick = 9.0 if len(place) <= 25 else 4.5
    for level, alpha in zip(BANDS, (0.2, 0.36), strict=True):
        low, high = _quantiles(simulated, ((1 - level) / 2, (1 + level) / 2))
        axes.vlines(place, low, high, color=BLUE, alpha=alpha, linewidth=thick, label=f"predicted, {level:.0%}")
    axes.plot(
        place, observed, "o", color=INK, markersize=4.6, markeredgecolor=PAPER, markeredgewidth=0.7, label="observed"
    )
    whole_numbers(axes.xaxis)
    axes.set_xlim(0.4, len(place) + 0.6)
    axes.set_xlabel("element")
    axes.grid(axis="y")


def _name_elements(axes: Axes, checked: Checked, shown: int) -> None:
    """What stands along the only axis, below the elements, as many as there is room for."""
    along = checked.coords.get(checked.dims[0]) if len(checked.dims) == 1 else None
    if along is None:
        return
    every = max(1, math.ceil(shown / 12))
    chosen = range(0, shown, every)
    plain = Along(along.values)  # the unit stands beside the name of the axis
    axes.set_xticks([i + 1 for i in chosen], [plain.words(i) for i in chosen])
    axes.set_xlabel(label(checked.dims[0], along.unit))


def _legend(figure: Figure, axes: Axes) -> None:
    """One line above everything, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), columnspacing=1.6, borderaxespad=0.2)


def _number(axes: Axes, checked: Checked, simulated: np.ndarray, observed: float) -> None:
    good = simulated[np.isfinite(simulated)]
    if checked.scale == "log":
        good = good[good > 0]
    if len(good) and good.max() > good.min():
        low, high = float(good.min()), float(good.max())
        edges = np.geomspace(low, high, 26) if checked.scale == "log" else np.linspace(low, high, 26)
        axes.hist(good, bins=edges.tolist(), color=BLUE, alpha=0.3, label="predicted")
        if checked.scale == "log":
            log_axis(axes, axes.xaxis, low, high)
    else:
        for value in good[:1]:
            axes.axvline(float(value), color=BLUE, linewidth=4, alpha=0.4, label="predicted")
    if math.isfinite(observed):
        axes.axvline(observed, color=INK, linewidth=1.6, label="observed")
    axes.set_xlabel(label(checked.name, checked.unit))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.legend(loc="best")
