"""The corner of panels: all are there, those chosen are shown, and each shows what it should where it should."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import pytest

from sciinf.interfaces.figures.posterior import SIDE, Drawn, axis_ticks, panels

LEVELS = (0.68, 0.9)


def drawn(count: int, **changes) -> Drawn:
    rng = np.random.default_rng(count)
    theta = rng.normal(size=(2000, count)) + rng.normal(size=(2000, 1))
    low, high = np.quantile(theta, (0.05, 0.95), axis=0)
    intervals = [list(zip(low, high, strict=True))] * len(LEVELS)
    names = [f"p{i}" for i in range(count)]
    labels = [f"P{i}" for i in range(count)]
    return Drawn(names, labels, theta, np.ones(2000), [""] * count, LEVELS, intervals, **changes)


def cells(markup: str) -> dict[tuple[str, int, int], str]:
    found = re.split(r'<div class="([typx])[^"]*" data-r="(\d+)" data-c="(\d+)"', markup)[1:]
    return {(found[i], int(found[i + 1]), int(found[i + 2])): found[i + 3] for i in range(0, len(found), 4)}


def points(path: str) -> np.ndarray:
    """Where a path of steps goes."""
    return np.array(re.findall(r"-?\d+", path), float).reshape(-1, 2).cumsum(axis=0)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_pair_has_a_panel_and_the_first_four_are_shown(count):
    found = cells(panels(drawn(count)))
    assert {(r, c) for kind, r, c in found if kind == "p"} == {(r, c) for r in range(count) for c in range(r + 1)}
    shown = min(count, 4)
    assert (
        sum(" hidden" not in text[:10] for (kind, *_), text in found.items() if kind == "p") == shown * (shown + 1) / 2
    )


def test_the_script_knows_the_range_of_a_narrow_time():
    """To a tenth of a millisecond, in seconds of GPS."""
    one = drawn(2)
    one.theta[:, 1] = 1126259462.4 + 1e-4 * one.theta[:, 1]
    said = json.loads(html.unescape(re.search(r'data-ranges="([^"]*)"', panels(one))[1]))
    assert said == [list(each) for each in one.ranges]
    assert said[1][1] > said[1][0]


def test_regions_lie_where_the_draws_are():
    one = drawn(2)
    low, high = one.ranges[1]
    text = cells(panels(one))["p", 1, 0]
    for level, path in zip(LEVELS, re.findall(r'class="region v\d" d="([^"]*?)Z', text), strict=True):
        up = low + (1 - points(path)[:, 1] / SIDE) * (high - low)
        inside = (one.theta[:, 1] > up.min()) & (one.theta[:, 1] < up.max())
        assert level < inside.mean() < 1.0
        assert np.corrcoef(points(path).T)[0, 1] < -0.2  # rising draws, and a board that counts downwards


def test_prior_truth_correction_and_other_answers_are_drawn_where_given_and_only_there():
    kinds = ("prior", "truth", "before", "other")
    assert not [kind for kind in kinds if f'class="{kind}"' in panels(drawn(2))]
    grid = np.linspace(-3, 3, 50)
    rng = np.random.default_rng(0)
    near, far = rng.normal(size=(500, 2)), rng.normal(size=(500, 2)) + 1000.0
    found = cells(
        panels(
            drawn(
                2,
                prior={"p0": (grid, np.full(50, 0.1))},
                truth={"p1": 0.5},
                before={"p0": (-1.0, 0.0, 1.0)},
                others={"near": (near, np.ones(500)), "far": (far, np.ones(500))},
            )
        )
    )
    first, pair, second = (found["p", r, c] for r, c in ((0, 0), (1, 0), (1, 1)))
    assert [kind for kind in kinds if f'class="{kind}"' in first] == ["prior", "before", "other"]
    assert [kind for kind in kinds if f'class="{kind}"' in pair] == ["truth", "other"]
    assert [kind for kind in kinds if f'class="{kind}"' in second] == ["truth", "other"]
    assert pair.count('class="other"') == 1  # the one that lies within the panel


def test_names_are_never_markup():
    one = drawn(2)
    markup = panels(Drawn(**{**vars(one), "labels": ["<script>", "$x_{"]}))
    assert "<script" not in markup
    assert markup.count("&lt;script&gt;") == 5  # a title, two scales, and in words for two pictures
    assert "p0" not in markup


@pytest.mark.parametrize("window", [(0.0, 1.0), (-1.6, -1.0), (0.011, 0.042), (3e7, 9e7), (0.4, 0.6)])
def test_ticks_are_two_numbers_apart_that_say_what_they_are(window):
    found = axis_ticks(*window)
    assert len(found) == 2
    assert found[1][0] - found[0][0] >= 0.45 * (window[1] - window[0])
    for value, words in found:
        lead, _, power = words.replace("−", "-").partition("×10")
        exponent = int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)
        assert float(lead) * 10.0**exponent == pytest.approx(value, rel=1e-9)


def test_long_numbers_stand_alone():
    assert [words for _, words in axis_ticks(1126259462.31, 1126259462.49)] == ["1126259462.35"]
    assert [words for _, words in axis_ticks(1.2e-5, 1.9e-5)] == ["1.4×10⁻⁵"]
