"""The training curve shows both losses and marks the epoch that was kept."""

from __future__ import annotations

import numpy as np

from sciinf.interfaces.figures.made import history_figure
from sciinf.interfaces.figures.svg import to_svg


def test_both_losses_and_the_best_epoch():
    epoch = np.arange(40)
    validation = (epoch - 25.0) ** 2
    axes = history_figure(epoch, validation - 1, validation).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert {"training", "validation", "best, kept"} <= set(lines)
    assert list(np.atleast_1d(lines["best, kept"].get_xdata())) == [26]
    assert axes.get_xlabel() == "epoch"
    assert "[nat]" in axes.get_ylabel()


def test_one_epoch_and_missing_losses_can_be_drawn():
    one = np.array([1.0])
    assert "<svg" in to_svg(history_figure(np.array([0]), one, one), "one", "h")
    nothing = np.full(3, np.nan)
    assert "<svg" in to_svg(history_figure(np.arange(3), np.ones(3), nothing), "none", "h")
