"""The course of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from sciinf.figures.style import BLUE, MUTED, ORANGE, PAPER, WIDTH, styled, whole_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def history_figure(
    epoch: Float[np.ndarray, " e"],
    train: Float[np.ndarray, " e"],
    validation: Float[np.ndarray, " e"],
    width: float = WIDTH,
) -> Figure:
    """Training and validation loss by epoch, the best epoch marked.

    Args:
        epoch: Epoch, counted from zero.
        train: Mean loss over the training rows, in nats.
        validation: Mean loss over the held-out rows.
        width: Of the figure, in inches.

    Returns:
        A figure of one panel; the first epochs may run out of it where they are far above the rest.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 2.9), layout="constrained")
    axes = figure.subplots()
    number = epoch + 1
    axes.plot(number, train, color=ORANGE, linewidth=1.3, label="training")
    axes.plot(number, validation, color=BLUE, linewidth=1.6, label="validation")
    if np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        axes.plot(
            number[best], validation[best], "o", color=BLUE, markersize=6, markeredgecolor=PAPER, label="best, kept"
        )
        axes.axvline(float(number[best]), color=MUTED, linewidth=0.8, dashes=(2, 3), zorder=0)
    both = np.concatenate([train, validation])
    both = both[np.isfinite(both)]
    if len(number) > 10 and len(both):
        low, high = float(both.min()), float(np.quantile(both, 0.93))
        axes.set_ylim(low - 0.06 * (high - low), high + 0.25 * (high - low))
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss, −log density [nat]")
    whole_numbers(axes.xaxis)
    axes.margins(x=0.02)
    axes.grid(axis="y")
    axes.legend(loc="upper right")
    return figure
