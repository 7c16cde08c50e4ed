"""The picture of probabilities that were checked: what it shows of right ones, and of ones that are off."""

from __future__ import annotations

import numpy as np
import torch

from sciinf.diagnostics.calibration import reliability
from sciinf.interfaces.figures.reliability import outside, panels_of, reliability_figure


def found(odds: float, values: tuple[str, ...] = ("SIR", "SEIR")):
    """Of 4,000 simulations whose probabilities are uniform, and told with log odds that are off."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(4_000, generator=generator, dtype=torch.float64)
    truth = (torch.rand(4_000, generator=generator, dtype=torch.float64) < p).long()
    told = torch.sigmoid(torch.logit(p) + odds)
    return {"model": reliability(truth, values, generator, exact=torch.stack([1 - told, told], dim=1))[1]}


def test_right_probabilities_lie_on_the_line_and_others_are_named():
    """A bin of right probabilities is outside in one of a hundred cases: at most 2 of 10 here, false-alarm rate 1e-4,
    seed fixed; with log odds off by 1, more than half of them are."""
    right, off = found(0.0)["model"], found(1.0)["model"]
    out = [((one.found[1] < one.low[1]) | (one.found[1] > one.high[1])).sum() for one in (right, off)]
    assert out[0] <= 2 < 5 < out[1]
    assert outside({"model": off}) == ["model = SEIR"]


def test_of_two_values_one_panel_is_drawn_and_of_three_three():
    two = found(0.0)
    assert [k for _, _, k in panels_of(two)] == [1]
    axes = reliability_figure(two).axes
    assert axes[0].get_title("left") == "model = SEIR"
    generator = torch.Generator().manual_seed(1)
    p = torch.rand(900, 3, generator=generator, dtype=torch.float64)
    truth = torch.randint(3, (900,), generator=generator)
    three = {"k": reliability(truth, ("0", "1", "2"), generator, exact=p / p.sum(1, keepdim=True))[1]}
    figure = reliability_figure(three)
    assert [one.get_title("left") for one in figure.axes if one.get_visible()] == ["k = 0", "k = 1", "k = 2"]
    points = np.concatenate([line.get_xdata() for line in figure.axes[0].lines[1:]])
    assert sorted(points) == sorted(three["k"].predicted[0])
