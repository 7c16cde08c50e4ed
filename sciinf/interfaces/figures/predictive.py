"""Figures of the observation against data simulated from the posterior.

They show whether the fitted model produces data like the observation. Each observable is drawn as its axes say: a
series with bands, points with intervals, the distribution of a set, or an image beside the mean image and their
difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from sciinf.interfaces.figures.checked import Along, Checked
from sciinf.interfaces.figures.observed import (
    BANDS,
    covered,
    ends,
    fit_log,
    image_axes,
    leading,
    legend,
    marked,
    not_negative,
    quantiles,
)
from sciinf.interfaces.figures.series import draw_series
from sciinf.interfaces.figures.style import (
    BLUE,
    BROAD,
    COLUMN,
    INK,
    PAPER,
    VERMILION,
    label,
    log_axis,
    mark,
    styled,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = 6
_POINTS = 200
_CHANNELS = 3
_PIXELS = 160


def draw_set(
    observed: Float[np.ndarray, "item feature"],
    simulated: Float[np.ndarray, "m item feature"],
    about: tuple[str, str, str],
    strange: Bool[np.ndarray, "item feature"],
    width: float = COLUMN,
) -> tuple[Figure, str]:
    """Figure of the distribution functions of a set, with one panel per feature.

    Args:
        observed: Observed items by features; NaN where masked.
        simulated: m predicted sets, each of items by features; NaN where masked.
        about: Name, unit and scale of the observable.
        strange: Mask of the values to mark as strange.
        width: Width of the figure, in inches.

    Returns:
        The figure, and a sentence on what was left out of it ("" if nothing).
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
    """Mark strange values on the observed curve, and extend the axis to contain them."""
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


IMAGE_AXES = frozenset({"y", "x", "row", "column"})
_ELEMENTS = 60


@dataclass(frozen=True)
class PredictiveFigure:
    """Figure of one observable against its predictions, with its caption.

    Args:
        figure: The matplotlib figure.
        kind: Kind of the figure: "series", "image", "set" or "vector".
        reading: Words on how to read the figure.
        found: Words on what the figure shows; "" where the figure itself says all.
        note: Words on what was left out of the figure; "" if nothing was.
        panels: For a series, the axes of each component that is drawn.
    """

    figure: Figure
    kind: str
    reading: str
    found: str = ""
    note: str = ""
    panels: Sequence[Axes] = ()

    @property
    def caption(self) -> str:
        """Whole caption of the figure: `reading`, `found` and `note`."""
        return " ".join(filter(None, (self.reading, self.found, self.note)))


def kind_of(checked: Checked) -> str:
    """Kind of figure in which an observable is drawn: "series", "image", "set" or "vector"."""
    if len(IMAGE_AXES & set(checked.dims)) >= 2:
        return "image"
    if "item" in checked.dims and "time" not in checked.dims:
        return "set"
    return "vector" if checked.axis is None else "series"


@styled
def predictive(checked: Checked, width: float = COLUMN) -> PredictiveFigure:
    """Figure of one observable's observation against its posterior predictive, with `width` in inches."""
    kind, strange = kind_of(checked), _strange(checked)
    if kind == "image":
        axes = image_axes(checked.dims)
        named = [checked.dims[i] for i in axes]
        along = [(d, checked.coords[d]) if d in checked.coords else None for d in named]
        figure, note = draw_images(*leading(checked, axes), _about(checked), marked(checked, axes), width, along)
        words = "Observed image, mean of the images the posterior predicts, and their difference in units of the "
        words += "predictive standard deviation, pixel by pixel."
        return PredictiveFigure(figure, kind, words, strange, _said(note, _no_place(checked)))
    if kind == "set":
        axes = [checked.dims.index("item")]
        figure, note = draw_set(*leading(checked, axes), _about(checked), marked(checked, axes), width)
        words = "Fraction of items below each value: observed (dark) and predicted (bands hold 50% and 90%)."
        return PredictiveFigure(figure, kind, words, strange, _said(note, _no_place(checked)))
    inside, total = covered(checked)
    found = _said(f"{inside} of {total} values are in the 90% band.", strange)
    if kind == "series":
        figure, note, panels = draw_series(checked, width)
        words = "Bands hold 50% and 90% of the data predicted by the posterior; below, what their median leaves over."
        return PredictiveFigure(figure, kind, words, found, _said(note, _no_place(checked)), panels)
    figure, note = _draw_vector(checked, width)
    words = "Bars hold 50% and 90% of the data predicted by the posterior."
    if checked.observed.size == 1:
        words = "What the posterior predicts, and what was observed."
    return PredictiveFigure(figure, kind, words, found, _said(note, _no_place(checked)))


def _said(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _no_place(checked: Checked) -> str:
    """Sentence on observed values that a logarithmic axis cannot show; "" if the axis shows all values."""
    count = int((checked.observed < 0).sum()) if checked.scale == "log" else 0
    if not count:
        return ""
    words = "one observed value is" if count == 1 else f"{count:,} observed values are"
    return f"Not drawn: {words} below 0, which a logarithmic scale cannot show."


def _about(checked: Checked) -> tuple[str, str, str]:
    return checked.name, checked.unit, checked.scale


def _strange(checked: Checked) -> str:
    """Sentence that explains the red marks; "" if nothing is marked."""
    return "" if checked.strange is None else "Marked in red: unlike what the other numbers say of it."


def _draw_vector(checked: Checked, width: float) -> tuple[Figure, str]:
    from matplotlib.figure import Figure

    observed, simulated = checked.observed.ravel(), checked.predictive.reshape(len(checked.predictive), -1)
    if observed.size == 1:
        figure = Figure(figsize=(min(width, 5.6), 2.7), layout="constrained")
        _number(figure.subplots(), checked, simulated[:, 0], float(observed[0]))
        return figure, ""
    shown = min(len(observed), _ELEMENTS)
    note = "" if shown == len(observed) else f"The first {shown} of {len(observed)} elements are drawn."
    observed, simulated = observed[:shown], simulated[:, :shown]
    text = label(checked.name, checked.unit)
    if checked.scale == "log":
        observed, simulated = not_negative(observed), not_negative(simulated)
    elif _unlike(simulated):
        middle, spread = np.nanmean(simulated, axis=0), np.maximum(np.nanstd(simulated, axis=0), 1e-300)
        observed, simulated = (observed - middle) / spread, (simulated - middle) / spread
        text = f"{checked.name}, standardised by its prediction"
        note = (
            f"Elements of very different sizes are drawn as (value − predictive mean) / predictive sd. {note}".strip()
        )
    figure = Figure(
        figsize=(width if shown > 12 else min(width, 6.4), 3.1 if width >= BROAD else 2.7), layout="constrained"
    )
    axes = figure.subplots()
    _intervals(axes, observed, simulated)
    _name_elements(axes, checked, shown)
    mark(axes, np.arange(1, shown + 1), observed, marked(checked, []).ravel()[:shown])
    legend(figure, axes)
    axes.set_ylabel(text)
    if checked.scale == "log":
        fit_log(axes, observed, simulated)
    return figure, note


def _unlike(simulated: np.ndarray) -> bool:
    """Whether the elements differ so much in size or spread that one common axis would hide some of them."""
    low, high = quantiles(simulated, (0.05, 0.95))
    width, reach = high - low, np.nanmax(high) - np.nanmin(low)
    return bool(np.nanmin(width) < 0.02 * reach)


def _intervals(axes: Axes, observed: np.ndarray, simulated: np.ndarray) -> None:
    place = np.arange(1, len(observed) + 1)
    thick = 9.0 if len(place) <= 25 else 4.5
    for level, alpha in zip(BANDS, (0.2, 0.36), strict=True):
        low, high = quantiles(simulated, ((1 - level) / 2, (1 + level) / 2))
        axes.vlines(place, low, high, color=BLUE, alpha=alpha, linewidth=thick, label=f"predicted, {level:.0%}")
    axes.plot(
        place, observed, "o", color=INK, markersize=4.6, markeredgecolor=PAPER, markeredgewidth=0.7, label="observed"
    )
    whole_numbers(axes.xaxis)
    axes.set_xlim(0.4, len(place) + 0.6)
    axes.set_xlabel("element")
    axes.grid(axis="y")


def _name_elements(axes: Axes, checked: Checked, shown: int) -> None:
    """Label the elements by their coordinates along the only axis, as many as there is room for."""
    along = checked.coords.get(checked.dims[0]) if len(checked.dims) == 1 else None
    if along is None:
        return
    every = max(1, math.ceil(shown / 12))
    chosen = range(0, shown, every)
    plain = Along(along.values)  # The unit stands beside the name of the axis.
    axes.set_xticks([i + 1 for i in chosen], [plain.words(i) for i in chosen])
    axes.set_xlabel(label(checked.dims[0], along.unit))


def _number(axes: Axes, checked: Checked, simulated: np.ndarray, observed: float) -> None:
    good, log = simulated[np.isfinite(simulated)], checked.scale == "log"
    good = good[good >= 0] if log else good
    least, most = ends(np.append(good, observed))
    zero = log and bool((good == 0).any() or observed == 0)
    if len(good) and good.max() > good.min():
        low, high = ends(good) if log else (float(good.min()), float(good.max()))
        edges = np.geomspace(low, max(high, 1.01 * low), 26) if log else np.linspace(low, high, 26)
        edges = np.append([-0.2 * least, 0.2 * least], edges) if zero else edges
        axes.hist(good, bins=edges.tolist(), color=BLUE, alpha=0.3, label="predicted")
    else:
        for value in good[:1]:
            axes.axvline(float(value), color=BLUE, linewidth=4, alpha=0.4, label="predicted")
    if log:
        log_axis(axes, axes.xaxis, least, most, zero=zero)
    if math.isfinite(observed):
        axes.axvline(observed, color=INK, linewidth=1.6, label="observed")
    axes.set_xlabel(label(checked.name, checked.unit))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.legend(loc="best")


def draw_images(
    observed: Float[np.ndarray, "y x channel"],
    simulated: Float[np.ndarray, "m y x channel"],
    about: tuple[str, str, str],
    strange: Bool[np.ndarray, "y x channel"],
    width: float = COLUMN,
    along: Sequence[tuple[str, Along] | None] = (None, None),
) -> tuple[Figure, str]:
    """Figure with three panels per channel: observed image, predicted mean, and (observed - mean) / sd.

    Args:
        observed: Observed image; NaN where masked.
        simulated: m predicted images.
        about: Name, unit and scale of the observable.
        strange: Mask of the pixels to outline in red.
        width: Width of the figure, in inches.
        along: Name and coordinates of the vertical axis and of the horizontal axis; None where they are unknown.

    Returns:
        The figure, and sentences on what was left out of it ("" if nothing).
    """
    from matplotlib.figure import Figure

    name, unit, scale = about
    total = observed.shape[2]
    shown = min(total, _CHANNELS)
    tall = np.clip(observed.shape[0] / observed.shape[1], 0.3, 1.6)
    broad = width >= BROAD
    each = width / 3 if broad else width
    figure = Figure(
        figsize=(width, 0.2 + shown * (1 if broad else 3) * (0.95 + 0.8 * each * float(tall))), layout="constrained"
    )
    panels = figure.subplots(*((shown, 3) if broad else (3 * shown, 1)), squeeze=False).reshape(shown, 3)
    step = math.ceil(max(observed.shape[:2]) / _PIXELS)
    for channel in range(shown):
        mean, sd = _moments(simulated[..., channel])
        seen = observed[..., channel]
        pull = (seen - mean) / np.where(sd > 0, sd, np.nan)
        suffix = "" if total == 1 else f", channel {channel + 1}"
        images = _coarse(seen, step), _coarse(mean, step), _coarse(pull, step)
        _row(figure, panels[channel], images, (label(name, unit), scale))
        for axes in panels[channel]:
            _outline(axes, _coarse(strange[..., channel].astype(float), step) > 0)
        for axes, text in zip(panels[channel], ("observed", "predicted mean", "observed − mean"), strict=True):
            axes.set_title(text + suffix)
        for place, axes in enumerate(panels[channel]):
            _scales(axes, along, step, upright=place == 0 or not broad)
    notes = [] if shown == total else [f"The first {shown} of {total} channels are drawn."]
    notes += [f"Pixels are averaged in blocks of {step} by {step}."] if step > 1 else []
    return figure, " ".join(notes)


def _row(
    figure: Figure, panels: Any, images: tuple[np.ndarray, np.ndarray, np.ndarray], about: tuple[str, str]
) -> None:
    from matplotlib.colors import LogNorm, Normalize

    title, scale = about
    both = np.concatenate([images[0].ravel(), images[1].ravel()])
    both = both[np.isfinite(both) & ((both > 0) | (scale != "log"))]
    low, high = (float(v) for v in np.quantile(both, (0.005, 0.995))) if len(both) else (0.0, 1.0)
    high = high if high > low else low + 1.0
    log = scale == "log" and low > 0
    norm = LogNorm(low, high, clip=True) if log else Normalize(low, high)
    for axes, image in zip(panels[:2], images[:2], strict=True):
        shown = axes.imshow(image, norm=norm, cmap="viridis", interpolation="none", origin="upper")
        _bare(axes)
    beside = figure.get_figwidth() >= BROAD  # Side by side, both images have one colour bar.
    for group in [list(panels[:2])] if beside else [[panels[0]], [panels[1]]]:
        bar = _bar(figure, shown, group, title)
        if log:
            log_axis(bar.ax, bar.ax.xaxis, low, high)
    finite = np.abs(images[2][np.isfinite(images[2])])
    reach = max(3.0, float(np.quantile(finite, 0.995))) if len(finite) else 3.0
    pull = panels[2].imshow(images[2], vmin=-reach, vmax=reach, cmap="RdBu_r", interpolation="none", origin="upper")
    _bare(panels[2])
    _bar(figure, pull, [panels[2]], "(observed − mean) / sd")


def _outline(axes: Axes, strange: np.ndarray) -> None:
    """Draw a line along the edges of the strange pixels."""
    from matplotlib.collections import LineCollection

    inside = np.pad(strange, 1).astype(int)
    lines = [((x - 0.5, y - 1.5), (x - 0.5, y - 0.5)) for y, x in np.argwhere(np.diff(inside, axis=1))]
    lines += [((x - 1.5, y - 0.5), (x - 0.5, y - 0.5)) for y, x in np.argwhere(np.diff(inside, axis=0))]
    if lines:
        axes.add_collection(LineCollection(lines, colors=VERMILION, linewidths=1.4))


def _bar(figure: Figure, image: Any, panels: list[Axes], title: str) -> Any:
    """Add a thin colour scale below the panels."""
    bar = figure.colorbar(image, ax=panels, location="bottom", fraction=0.05, pad=0.03, aspect=20 * len(panels))
    bar.set_label(title)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")
    return bar


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _scales(axes: Axes, along: Sequence[tuple[str, Along] | None], step: int, *, upright: bool) -> None:
    """Write coordinates along the axes of an image, where the coordinates are numbers."""
    from matplotlib.ticker import MaxNLocator

    for axis, known in zip((axes.yaxis, axes.xaxis), along, strict=True):
        if known is None or (axis is axes.yaxis and not upright):
            continue
        name, one = known
        if one.places is None or len(one.values) < 2:
            continue
        order = np.argsort(one.places)
        low, high = float(one.places[order[0]]), float(one.places[order[-1]])
        ticks = [v for v in MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= v <= high]
        at = np.interp(ticks, one.places[order], order)
        axis.set_ticks([(i + 0.5) / step - 0.5 for i in at], [f"{v:.4g}".replace("-", "−") for v in ticks])
        axis.set_label_text(label(name, one.unit))


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each pixel; NaN, which is drawn blank, where every image is masked."""
    missing = ~np.isfinite(images).any(axis=0)
    filled = np.where(missing, 0.0, images)
    mean, sd = np.nanmean(filled, axis=0), np.nanstd(filled, axis=0)
    return np.where(missing, np.nan, mean), np.where(missing, np.nan, sd)


def _coarse(image: np.ndarray, step: int) -> np.ndarray:
    """Image averaged over blocks of `step` by `step` pixels, so that a large image becomes a small file."""
    if step == 1:
        return image
    rows, columns = (n - n % step for n in image.shape)
    blocks = image[:rows, :columns].reshape(rows // step, step, columns // step, step)
    return blocks.mean(axis=(1, 3))
