"""Pictures of draws: a map for each, and the same colours for what is the same."""

from __future__ import annotations

import pytest
import torch
from matplotlib import image

from sciinf.core import Observable
from sciinf.interfaces.figures.drawn import draw_drawn

TIMES, SPEC = (0.0, 1.0, 2.0), Observable((3, 1, 8, 8), "1/s", ("time", "channel", "y", "x"))


def shown(file, true, drawn, title=""):
    draw_drawn(file, TIMES, true, drawn, SPEC, title=title)
    return image.imread(file)[..., :3]


def test_draws_stand_beside_the_truth_with_mean_and_sd(tmp_path):
    """Where draws are the truth, maps are alike, and nothing spreads."""
    draw = torch.Generator().manual_seed(0)
    true, noise = torch.randn(3, 1, 8, 8, generator=draw), torch.randn(5, 3, 1, 8, 8, generator=draw)
    same = shown(tmp_path / "new" / "drawn.png", true, true.expand(5, -1, -1, -1, -1))
    wide = shown(tmp_path / "wide.png", true, true + noise, "flow of low viscosity")
    assert same.shape[1] == wide.shape[1] == 1_440
    assert wide.shape[0] > same.shape[0]

    def coloured(pixels, start, stop):
        part = pixels[:, int(start * pixels.shape[1]) : int(stop * pixels.shape[1])]
        return float((part.max(-1) - part.min(-1) > 0.2).mean())

    assert coloured(same, 0.05, 0.7) > 0.3
    assert coloured(same, 0.85, 0.93) < 0.02 < coloured(wide, 0.85, 0.93)


def test_one_draw_and_curves_are_refused(tmp_path):
    true = torch.zeros(3, 1, 8, 8)
    with pytest.raises(ValueError, match="two or more draws"):
        shown(tmp_path / "one.png", true, true[None])
    with pytest.raises(ValueError, match="two or more draws"):
        shown(tmp_path / "curves.png", true[..., 0], true.expand(5, -1, -1, -1, -1)[..., 0])
    assert not (tmp_path / "one.png").exists()
