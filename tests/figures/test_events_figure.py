"""A picture of an event: both kinds of runs, and none of the solver's where it is too rare."""

from __future__ import annotations

import pytest
import torch
from matplotlib import image

from sciinf.interfaces.figures.events import draw_event


def ink(file, start, stop):
    """How much of a strip of the picture, between shares of its width, is black, and how much blue."""
    pixels = image.imread(file)[..., :3]
    strip = pixels[:, int(start * pixels.shape[1]) : int(stop * pixels.shape[1])]
    inside = strip[strip.shape[0] // 6 : -strip.shape[0] // 4]
    blue = (inside[..., 2] - inside[..., 0]) > 0.2
    return float((inside.max(-1) < 0.75).mean()), float(blue.mean())


def test_draws_are_blue_and_runs_black(tmp_path):
    drawn, runs = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), torch.ones(3, 5)
    draw_event(tmp_path / "new" / "event.png", range(5), drawn, runs, "x")
    left, middle = ink(tmp_path / "new" / "event.png", 0.1, 0.33), ink(tmp_path / "new" / "event.png", 0.42, 0.66)
    assert left[1] > 0.05
    assert middle[1] == 0
    draw_event(tmp_path / "none.png", range(5), drawn, runs[:0], "x")
    assert ink(tmp_path / "none.png", 0.42, 0.66)[0] < middle[0]
    with pytest.raises(ValueError, match="no draws of the event"):
        draw_event(tmp_path / "empty.png", range(5), drawn[:0], runs, "x")
    assert not (tmp_path / "empty.png").exists()
