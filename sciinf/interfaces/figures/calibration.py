r"""Calibration curves: nominal against empirical coverage, and the ranks of each parameter's true value.

If the posterior is exact, the rank of the true value among L draws is uniform on {0, ..., L}. Let F_N be the
distribution function of the ranks of N fresh simulations. F_N(z) - z is drawn against z with a simultaneous band. The
whole curve of an exact posterior stays inside the band with probability 0.99. The band consists of binomial intervals
of level 1 - gamma at the evaluation points. gamma is chosen by simulating uniform ranks (algorithm 1 of the second
paper).

References:
    | Validating Bayesian inference algorithms with simulation-based calibration (Talts et al., 2018),
      https://arxiv.org/abs/1804.06788
    | Graphical test for discrete uniformity and its applications in goodness-of-fit evaluation and multiple sample
      comparison (Saeilynoja, Buerkner & Vehtari, 2022), https://arxiv.org/abs/2103.10522
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from sciinf.interfaces.figures.style import BLUE, BROAD, INK, MUTED, ORANGE, VERMILION, WIDTH, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONFIDENCE = 0.99
PANELS = 24
_POINTS = 64
_LETTERS = 20  # Longest title of a panel, in characters.
_UNIFORM = 4_000  # Simulated sets of uniform ranks. They give the band's level to within 0.2 %.


@dataclass(frozen=True)
class RankCurve:
    """Rank distribution of one parameter as a curve, with its simultaneous band.

    Args:
        z: Evaluation points in (0, 1).
        difference: Distribution function of the ranks minus z.
        low: Lower edge of the simultaneous band.
        high: Upper edge of the simultaneous band.
    """

    z: Float[np.ndarray, " k"]
    difference: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]

    @property
    def inside(self) -> bool:
        """Whether the whole curve stays inside the band."""
        return bool(((self.difference >= self.low) & (self.difference <= self.high)).all())


_NOTHING = RankCurve(*(np.full(1, value) for value in (0.5, 0.0, -0.5, 0.5)))  # Curve for zero rows.


def binomial_band(
    levels: Float[np.ndarray, " k"], rows: int, confidence: float = CONFIDENCE
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Central interval of the fraction of `rows` that an exact posterior covers.

    The interval holds at each of the `levels` by itself, not for all of them together.
    """
    from scipy.stats import binom

    tail = (1 - confidence) / 2
    return binom.ppf(tail, rows, levels) / rows, binom.ppf(1 - tail, rows, levels) / rows


def rank_curves(
    ranks: Int[np.ndarray, "rows theta"], draws: int, *, confidence: float = CONFIDENCE, seed: int = 0
) -> list[RankCurve]:
    """Curve of the rank distribution of each parameter, with its simultaneous band.

    Args:
        ranks: Rank of the true value among the draws, each in 0..draws. A rank of -1 means that the true parameter does
            not exist. The curve and the band of that parameter are made of the other rows.
        draws: Number of draws per row.
        confidence: Probability that the curve of an exact posterior lies inside its band, for one parameter.
        seed: Seed of the simulated ranks that set the band.

    Returns:
        One curve per parameter, with its band, at up to 63 points.
    """
    if bool((ranks < 0).any()):
        known = [column[column >= 0, None] for column in ranks.T]
        return [rank_curves(one, draws, confidence=confidence, seed=seed)[0] if len(one) else _NOTHING for one in known]
    return _curves(ranks, draws, confidence, seed)


def _curves(ranks: Int[np.ndarray, "rows theta"], draws: int, confidence: float, seed: int) -> list[RankCurve]:
    from scipy.stats import binom

    rows = len(ranks)
    edges = np.unique(np.linspace(0, draws + 1, min(_POINTS, draws + 1) + 1).round().astype(int))
    z = edges[1:-1] / (draws + 1)
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(rows, np.diff(edges) / (draws + 1), size=_UNIFORM).cumsum(axis=1)[:, :-1]
    tails = np.minimum(binom.cdf(counts, rows, z), binom.sf(counts - 1, rows, z))
    gamma = 2 * float(np.quantile(tails.min(axis=1), 1 - confidence))
    low, high = binom.ppf(gamma / 2, rows, z) / rows - z, binom.ppf(1 - gamma / 2, rows, z) / rows - z
    found = np.stack([(ranks < edge).mean(axis=0) for edge in edges[1:-1]], axis=1)
    return [RankCurve(z, one - z, low, high) for one in found]


@styled
def coverage_figure(
    levels: Float[np.ndarray, " k"],
    coverage: Float[np.ndarray, " j"],
    tarp: Float[np.ndarray, " j"],
    rows: int,
    width: float = WIDTH,
) -> Figure:
    """Figure of empirical coverage against nominal coverage, and of their difference.

    Args:
        levels: Nominal credible levels.
        coverage: Fraction of rows inside the highest-density region of each level; empty if there is no density.
        tarp: Fraction of rows inside TARP's region of each level; empty if not computed.
        rows: Number of fresh simulations.
        width: Width of the figure, in inches.

    Returns:
        A figure of two panels, side by side or one below the other, each with the binomial band.
    """
    from matplotlib.figure import Figure

    beside = width >= BROAD
    figure = Figure(figsize=(width, 3.9 if beside else 6.2), layout="constrained")
    left, right = figure.subplots(1, 2) if beside else figure.subplots(2, 1)
    fine = np.linspace(0.005, 0.995, 199)
    low, high = binomial_band(fine, rows)
    words = f"exact posterior, {CONFIDENCE:.0%}"
    curves = [
        (values, name, colour, marker)
        for values, name, colour, marker in (
            (coverage, "highest-density regions", BLUE, "o"),
            (tarp, "TARP", ORANGE, "s"),
        )
        if len(values) == len(levels)
    ]
    for axes, base in ((left, 0.0), (right, 1.0)):
        axes.fill_between(fine, low - base * fine, high - base * fine, color=MUTED, alpha=0.2, linewidth=0, label=words)
        axes.plot([0, 1], [0, 1 - base], color=MUTED, linewidth=0.9)
        for values, name, colour, marker in curves:
            axes.plot(
                levels, values - base * levels, color=colour, marker=marker, markersize=3, linewidth=1.4, label=name
            )
        axes.set_xlabel("nominal credible level")
        axes.grid()
        axes.set_xlim(0, 1)
        _percent(axes.xaxis)
    left.set(ylim=(0, 1), ylabel="fraction of truths inside", aspect="equal", title="Coverage")
    _percent(left.yaxis)
    reach = max(0.05, 1.25 * max((float(np.abs(v - levels).max()) for v, *_ in curves), default=0.0))
    right.set(ylim=(-reach, reach), ylabel="found − nominal [pp]", title="Difference")
    _points(right)
    right.text(0.015, 0.97, "too wide ↑", transform=right.transAxes, va="top", color=MUTED)
    right.text(0.015, 0.03, "too narrow ↓", transform=right.transAxes, va="bottom", color=MUTED)
    left.legend(loc="upper left")
    return figure


@styled
def ranks_figure(names: Sequence[str], curves: Sequence[RankCurve], width: float = WIDTH) -> Figure:
    """Figure of each parameter's rank distribution minus the uniform distribution, with its simultaneous band.

    Each parameter has one panel, and at most the first 24 parameters are drawn.
    """
    from matplotlib.figure import Figure

    names, curves = names[:PANELS], curves[:PANELS]
    columns = min(len(names), 4 if width >= BROAD else 2)
    rows = math.ceil(len(names) / columns)
    figure = Figure(
        figsize=(width if width < BROAD else max(4.6, width * columns / 4), 0.55 + 1.75 * rows), layout="constrained"
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    reach = max(float(np.abs(np.concatenate([c.difference, c.low, c.high])).max()) for c in curves)
    for index, axes in enumerate(panels.flat):
        if index >= len(names):
            axes.set_visible(False)
            continue
        _curve(axes, curves[index])
        axes.set_title(names[index] if len(names[index]) <= _LETTERS else f"{names[index][: _LETTERS - 1]}…")
        axes.set_ylim(-1.15 * reach, 1.15 * reach)
        if index % columns == 0:
            _points(axes)
        if index + columns >= len(names):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("rank of the truth")
    figure.supylabel("ECDF − uniform [pp]", fontsize=8.5, color=INK)
    return figure


def _curve(axes: Axes, curve: RankCurve) -> None:
    ends = np.array([0.0]), np.array([1.0])
    z = np.concatenate([ends[0], curve.z, ends[1]])
    low, high, difference = (np.pad(v, 1) for v in (curve.low, curve.high, curve.difference))
    axes.fill_between(z, low, high, color=MUTED, alpha=0.2, linewidth=0)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.plot(z, difference, color=BLUE if curve.inside else VERMILION, linewidth=1.4)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])


def _percent(axis: object) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))  # pyright: ignore[reportAttributeAccessIssue]


def _points(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:+.3g}".replace("-", "−") if value else "0")
    )
