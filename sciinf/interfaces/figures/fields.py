"""Figure of a differential equation's solution beside a surrogate: truth, prediction, error and band."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciinf.core import Batch, Surrogate, predicted
from sciinf.diagnostics.fields import Band
from sciinf.interfaces.figures.style import BLUE, INK, MUTED, WIDTH, label, look
from sciinf.simulators.dynamics.field_equation import FieldSource

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FRAMES = 4  # Largest number of frames shown.


def draw_fields(file: Path, source: FieldSource, surrogate: Surrogate, rows: Batch, band: Band) -> None:
    """Write a picture of the first solution: curves in one dimension, maps in two dimensions.

    Args:
        file: Path of the PNG file to write.
        source: Differential equation, whose grid and times label the axes.
        surrogate: Surrogate that makes the predictions.
        rows: True solutions, with the inputs from which the surrogate predicts them.
        band: Band around the predictions.

    Raises:
        ValueError: If the fields have no spatial dimension, or more than two.
    """
    if len(source.grid.shape) not in (1, 2):
        raise ValueError(f"fields in {len(source.grid.shape)} directions cannot be drawn, only those in one or two")
    one = rows.rows(slice(0, 1))
    true, found = (value[0].double().cpu().numpy() for value in (one.x[surrogate.target], predicted(surrogate, one)))
    width = band.half(surrogate, one.theta)[0].double().cpu().numpy()
    count = len(source.times)
    chosen = sorted({round(k) for k in np.linspace(min(1, count - 1), count - 1, min(_FRAMES, count))})
    spec = source.observables[surrogate.target]
    with look():
        draw = _curves if len(source.grid.shape) == 1 else _maps
        figure = draw(
            source, [(source.times[k], true[k, 0], found[k, 0], width[k, 0]) for k in chosen], band, spec.unit
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=150)


Frame = tuple[float, np.ndarray, np.ndarray, np.ndarray]


def _curves(source: FieldSource, frames: list[Frame], band: Band, unit: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained", facecolor="white")
    axes: Any = figure.subplots(2, len(frames), sharex=True, sharey="row", squeeze=False, height_ratios=(2, 1))
    x = source.grid.coordinates[0].numpy()
    for k, (time, true, found, width) in enumerate(frames):
        above, below = axes[0, k], axes[1, k]
        above.plot(x, true, color=INK, linewidth=1.6, label="solver")
        above.plot(x, found, color=BLUE, linewidth=1.2, linestyle="--", label="surrogate")
        below.fill_between(x, -width, width, color=BLUE, alpha=0.25, linewidth=0, label=_says(band))
        below.plot(x, true - found, color=INK, linewidth=1.0, label="solver − surrogate")
        below.axhline(0.0, color=MUTED, linewidth=0.6)
        above.set_title(f"t = {time:g}" if len(source.times) > 1 else "")
        below.set_xlabel("x")
    axes[0, 0].set_ylabel(label("u", unit))
    axes[1, 0].set_ylabel("error")
    handles = [h for ax in axes[:, 0] for h in ax.get_legend_handles_labels()[0]]
    figure.legend(handles, [h.get_label() for h in handles], loc="outside upper left", ncols=4)
    return figure


def _maps(source: FieldSource, frames: list[Frame], band: Band, unit: str) -> Figure:
    from matplotlib.figure import Figure

    height, width = source.grid.lengths
    tall = min(1.5, max(0.4, height / width))
    figure = Figure(figsize=(WIDTH, 0.4 + len(frames) * 2.1 * tall), layout="constrained", facecolor="white")
    axes: Any = figure.subplots(len(frames), 4, squeeze=False)
    titles = ("solver", "surrogate", "solver − surrogate", _says(band))
    for k, (time, true, found, half) in enumerate(frames):
        off = true - found
        ends = (float(true.min()), float(true.max()))
        error = max(float(np.abs(off).max()), float(half.max()), 1e-30)
        panels = ((true, "viridis", ends), (found, "viridis", ends), (off, "RdBu_r", (-error, error)))
        for j, (field, colours, (low, high)) in enumerate((*panels, (half, "Blues", (0.0, error)))):
            ax = axes[k, j]
            image = ax.imshow(field, origin="lower", cmap=colours, vmin=low, vmax=high, extent=(0, width, 0, height))
            ax.set_xticks([])
            ax.set_yticks([])
            if j != 0:
                figure.colorbar(image, ax=ax, shrink=0.85, aspect=18)
            if k == 0:
                ax.set_title(label(titles[j], unit) if j == 0 else titles[j])
        if len(source.times) > 1:
            axes[k, 0].set_ylabel(f"t = {time:g}")
    return figure


def _says(band: Band) -> str:
    return f"{band.level:.0%} band{' of whole fields' if band.simultaneous else ''}"
