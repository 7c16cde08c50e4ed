"""An image beside the mean of the predicted images and their difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from sciinf.figures.checked import Along
from sciinf.figures.style import BROAD, COLUMN, VERMILION, label, log_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CHANNELS = 3
_PIXELS = 160


def draw_images(
    observed: Float[np.ndarray, "y x channel"],
    simulated: Float[np.ndarray, "m y x channel"],
    about: tuple[str, str, str],
    strange: Bool[np.ndarray, "y x channel"],
    width: float = COLUMN,
    along: Sequence[tuple[str, Along] | None] = (None, None),
) -> tuple[Figure, str]:
    """Three panels a channel: observed, predicted mean, (observed - mean) / sd.

    Args:
        observed: One image; NaN where masked.
        simulated: m predicted images.
        about: Name, unit and scale of the observable.
        strange: Pixels that a red line goes around.
        width: Of the figure, in inches.
        along: Name of the upright and of the level axis with its coordinates, where they are known.

    Returns:
        The figure and what was left out of it.
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
    beside = figure.get_figwidth() >= BROAD  # one scale for both
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
    """A line along the edges of the pixels that are strange."""
    from matplotlib.collections import LineCollection

    inside = np.pad(strange, 1).astype(int)
    lines = [((x - 0.5, y - 1.5), (x - 0.5, y - 0.5)) for y, x in np.argwhere(np.diff(inside, axis=1))]
    lines += [((x - 1.5, y - 0.5), (x - 0.5, y - 0.5)) for y, x in np.argwhere(np.diff(inside, axis=0))]
    if lines:
        axes.add_collection(LineCollection(lines, colors=VERMILION, linewidths=1.4))


def _bar(figure: Figure, image: Any, panels: list[Axes], title: str) -> Any:
    """A thin colour scale below its panels."""
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
    """Coordinates along the axes of an image, where they are numbers."""
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
    """Mean and standard deviation of each pixel; NaN, drawn blank, where every image is masked."""
    missing = ~np.isfinite(images).any(axis=0)
    filled = np.where(missing, 0.0, images)
    mean, sd = np.nanmean(filled, axis=0), np.nanstd(filled, axis=0)
    return np.where(missing, np.nan, mean), np.where(missing, np.nan, sd)


def _coarse(image: np.ndarray, step: int) -> np.ndarray:
    """Averages over blocks, so that a large image stays a small file."""
    if step == 1:
        return image
    rows, columns = (n - n % step for n in image.shape)
    blocks = image[:rows, :columns].reshape(rows // step, step, columns // step, step)
    return blocks.mean(axis=(1, 3))
