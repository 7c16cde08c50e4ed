"""HTML corner plot of the posterior for parameters that the reader chooses, with prior, truth and other answers.

The corner consists of panels of markup. Each shape fills its panel at any size, and all text is text of the page.

Every marginal and every pair is in the page, and the chosen parameters are laid out as a grid. The page's script
changes the choice. Shapes are drawn on a board of 200 by 200 units that is stretched to the panel. Lines keep their
width.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from jaxtyping import Float

from sciinf.core.estimates import numbers as with_interval
from sciinf.core.given import said_given, share_of
from sciinf.core.tables import percent
from sciinf.interfaces.figures.corner import Curve, windows
from sciinf.interfaces.figures.density import density_1d, regions
from sciinf.interfaces.figures.numbers import PosteriorNumbers, drawn_intervals, value
from sciinf.interfaces.figures.page import absent, paragraph
from sciinf.interfaces.figures.prior_curves import prior_marginals
from sciinf.interfaces.figures.run_folder import Run
from sciinf.interfaces.figures.style import plain

MOST = 20  # Largest number of parameters that the reader can choose among.
_FEW = 10  # With more checkboxes than this, the reader has to unfold them.
_COMPACT = 3  # Parameters shown at first where there is less room.
_OTHERS = 5  # Largest number of overlaid answers for other observations.


def posterior_part(
    run: Run,
    numbers: PosteriorNumbers,
    truth: Mapping[str, float],
    others: Mapping[str, Run],
    *,
    most: int = MOST,
    compact: bool = False,
) -> str:
    """HTML of the corner plot, with checkboxes that choose its parameters.

    Args:
        run: The run with the answer. With several models, or unknown numbers of components, the most probable is drawn.
        numbers: Numerical summary of the pictured draws.
        truth: Parameter -> true value.
        others: Name of another observation -> the run with its answer.
        most: Largest number of parameters to choose among; the first parameters are taken.
        compact: Whether there is room only for fewer and smaller panels.
    """
    draws = run.pictured
    if draws is None:
        return absent(run.missing["draws" if run.answer else "answer"])
    names = draws.names[:most]
    if not names:
        return absent(f"Where {said_given(run.given)}, nothing is left to be drawn: all parameters are discrete.")
    theta, weights = drawable(run, most)
    if len(theta) < 2:
        return absent("Fewer than two posterior draws are finite, so there is nothing to draw.")
    beside = {name: drawable(other, most) for name, other in others.items() if _same(other, run)}
    beside = dict([(name, each) for name, each in beside.items() if len(each[0]) > 1][:_OTHERS])
    at = [numbers.names.index(name) if name in numbers.names else None for name in names]
    drawn = Drawn(
        names=names,
        labels=[draws.labels.get(name, name) for name in names],
        theta=theta,
        weights=weights,
        titles=["" if i is None else value(numbers, i) for i in at],
        levels=numbers.levels,
        intervals=drawn_intervals(numbers, names),
        before=_before(run),
        truth={name: v for name, v in truth.items() if name in names},
        others=beside,
        shown=_COMPACT if compact else CHOSEN,
    )
    prior = prior_marginals(run.pictured_prior, list(names), drawn.ranges)
    drawn = Drawn(**{**vars(drawn), "prior": prior})
    kind = "cornered compact" if compact else "cornered"
    inside = panels(drawn) + _caption(drawn, numbers, len(draws.names))
    return f'{_which(run)}{_chips(drawn)}<div class="{kind}">{inside}</div>'


def drawable(run: Run, most: int = MOST) -> tuple[np.ndarray, np.ndarray]:
    """Pictured draws, (n, D), of the first `most` parameters, and their weights, (n,).

    Only finite draws with positive weight are kept.
    """
    draws = run.pictured
    if draws is None:
        return np.zeros((0, 0)), np.zeros(0)
    theta, weights = draws.theta.double().numpy()[:, :most], draws.weights.numpy()
    good = np.isfinite(theta).all(axis=1) & (weights > 0)
    return theta[good], weights[good]


def _same(other: Run, run: Run) -> bool:
    if other is run or other.draws is None or run.draws is None:
        return False
    return (other.draws.names, other.draws.units, other.given) == (run.draws.names, run.draws.units, run.given)


def _which(run: Run) -> str:
    """HTML paragraph on which draws are pictured; "" if all draws are pictured."""
    if run.draws is None or not run.given:
        return ""
    share, count = share_of(run.draws, run.given).replace("+-", "±"), len(run.draws.given(**run.given))
    what = "" if len(run.given) == 1 else " together"
    return paragraph(
        f"Drawn where {said_given(run.given)}, which is most probable{what}: probability {share}; {count:,} of "
        f"{len(run.draws):,} draws. Medians and intervals above the panels are of these draws."
    )


def _before(run: Run) -> dict[str, tuple[float, float, float]]:
    """Central interval of each parameter before the draws were weighted: name -> (low, median, high)."""
    found: dict[str, tuple[float, float, float]] = {}
    if run.given:  # The earlier answer is of all draws, but only some are pictured.
        return {}
    for name, e in with_interval(run.answer.get("amortised") or {}).items():
        ends = (e["interval"][0], e["median"], e["interval"][1])
        if None not in ends:
            found[name] = ends
    return found


def _chips(drawn: Drawn) -> str:
    """HTML checkboxes that choose the drawn parameters, for the page's script; "" for a single parameter."""
    labels = drawn.labels
    if len(labels) < 2:
        return ""
    chips = []
    for i, name in enumerate(labels):
        checked = " checked" if i < drawn.shown else ""
        chips.append(f'<label><input type="checkbox" value="{i}"{checked}><span>{escape(name)}</span></label>')
    field = f'<fieldset class="choice chips"><legend>parameters</legend>{"".join(chips)}</fieldset>'
    many = f"<details><summary>Choose among {len(labels)} parameters</summary>{field}</details>"
    return f'<div class="script">{many if len(labels) > _FEW else field}</div>'


def _caption(drawn: Drawn, numbers: PosteriorNumbers, count: int) -> str:
    """HTML key to the lines of the corner plot, with words on how to select draws."""
    key = ['<span class="key region">posterior</span>']
    key += ['<span class="key prior">prior</span>'] if drawn.prior else []
    key += ['<span class="key before">uncorrected interval</span>'] if drawn.before else []
    key += ['<span class="key truth">truth</span>'] if drawn.truth else []
    key += ['<span class="key other">other observations</span>'] if drawn.others else []
    levels = "".join(f'<span class="v{i}">{percent(v)}</span>' for i, v in enumerate(numbers.levels))
    words = f"On the diagonal densities, their {levels} interval dashed"
    words += f"; below it the regions that hold 50% and {levels}. " if len(drawn.names) > 1 else ". "
    words += f"The first {len(drawn.names)} of {count} parameters can be drawn. " if count > len(drawn.names) else ""
    how = "Drag over a panel to select draws, or Tab to it and press arrow keys (Shift stretches, Escape ends)."
    how = f'<span class="script">{how}</span>'
    return (
        f'<div class="legend"><p class="keys">{"".join(key)}</p>'
        f'<p class="caption">{words}{how} <span class="selected" role="status"></span></p></div>'
    )


SIDE = 200
CHOSEN = 4  # Parameters shown at first.
CORE = 0.5  # Level of the inner region, which is always drawn.
_POINTS = 96  # Approximate number of points along a marginal.
_TICK_LETTERS = 7
_APART = 0.45  # Smallest distance between two ticks, as a fraction of the panel.
Box = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Drawn:
    """Content of the corner plot of one answer.

    Args:
        names: Names of the D parameters.
        theta: Draws, (n, D).
        weights: Weight of each draw, (n,), with any sum.
        labels: Display name of each parameter, (D,).
        titles: Markup above each marginal, (D,).
        levels: Credible levels that the reader may choose among.
        intervals: Central interval of each parameter, (D,), for each level.
        before: Name -> (low, median, high) of the answer before it was corrected.
        prior: Name -> (grid, density) of the prior's marginal.
        truth: Name -> true value.
        others: Name of another observation -> draws (n, D) and weights (n,) of its answer.
        shown: Largest number of parameters shown at first.
    """

    names: Sequence[str]
    labels: Sequence[str]
    theta: Float[np.ndarray, "n theta"]
    weights: Float[np.ndarray, " n"]
    titles: Sequence[str]
    levels: Sequence[float]
    intervals: Sequence[Sequence[tuple[float, float]]]
    before: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    prior: Mapping[str, Curve] = field(default_factory=dict)
    truth: Mapping[str, float] = field(default_factory=dict)
    others: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    shown: int = CHOSEN

    @property
    def ranges(self) -> list[tuple[float, float]]:
        """Range of values on the axis of each parameter: (low, high)."""
        return windows(self.theta, self.weights, [self.truth.get(name) for name in self.names])


def panels(drawn: Drawn) -> str:
    """HTML of all panels of a corner plot; only panels of the first `shown` parameters are visible."""
    count, ranges = len(drawn.names), drawn.ranges
    shown = min(count, drawn.shown)
    ticks = [axis_ticks(*one) for one in ranges]
    parts = []
    for row, name in enumerate(drawn.labels):
        parts.append(_cell("t", row, row, shown, f'<span class="name">{escape(name)}</span> {drawn.titles[row]}'))
        parts.append(_cell("y", row, 0, shown, _scale(name, ticks[row], ranges[row], "bottom")))
        for column in range(row):
            parts.append(_cell("p", row, column, shown, _pair(drawn, (column, row), ranges)))
        parts.append(_cell("p", row, row, shown, _marginal(drawn, row, ranges[row])))
        parts.append(_cell("x", count, row, shown, _scale(name, ticks[row], ranges[row], "left")))
    said = json.dumps([[float(v) for v in one] for one in ranges], separators=(",", ":"))
    few = " data-few" if shown < 2 else ""
    return (
        f'<div class="corner" data-ranges="{escape(said)}"{few} style="--shown:{shown};{columns(shown)}">'
        f"{''.join(parts)}</div>"
    )


def columns(shown: int) -> str:
    """CSS of the grid's columns for a number of visible parameters; the page's script uses the same rule."""
    return f"grid-template-columns:max-content repeat({shown},minmax(0,1fr))"


def place(kind: str, row: int, column: int, shown: int) -> str:
    """CSS position of a cell in the grid.

    A title (kind "t") lies above its marginal and extends to the side that has more room. Scales lie at the left ("y")
    and below ("x").
    """
    if kind == "t":
        reach = f"{column + 2}/-1" if column < shown / 2 else f"1/{column + 3}"
        return f"grid-row:{2 * row + 1};grid-column:{reach}"
    if kind == "x":
        return f"grid-row:{2 * shown + 1};grid-column:{column + 2}"
    return f"grid-row:{2 * row + 2};grid-column:{1 if kind == 'y' else column + 2}"


def _cell(kind: str, row: int, column: int, shown: int, content: str) -> str:
    """HTML of a cell of the grid, which the page's script finds by its row and column."""
    seen = column < shown and (kind == "x" or row < shown) and not (kind == "y" and row == 0)
    style = f' style="{place(kind, row, column, shown)}"' if seen else " hidden"
    end = "" if kind != "t" else " first" if column == 0 else " end" if column >= shown / 2 else ""
    return f'<div class="{kind}{end}" data-r="{row}" data-c="{column}"{style}>{content}</div>'


def _pair(drawn: Drawn, pair: tuple[int, int], ranges: Sequence[tuple[float, float]]) -> str:
    box = ranges[pair[0]], ranges[pair[1]]
    levels = (*drawn.levels, CORE)
    _, _, mass, edges = regions(drawn.theta[:, pair], drawn.weights, box, levels)
    shapes = []
    for index, level in enumerate(drawn.levels):
        if level in edges and (path := _outline(mass, edges[level], box, box)):
            shapes.append(f'<path class="region v{index}" d="{path}"/>')
    if CORE in edges and (path := _outline(mass, edges[CORE], box, box)):
        shapes.append(f'<path class="core" d="{path}"/>')
    for theta, weights in drawn.others.values():
        path = _elsewhere(theta[:, pair], weights, box, drawn.levels[len(drawn.levels) // 2])
        shapes.append(f'<path class="other" d="{path}"/>' if path else "")
    lines = [_line(drawn.truth.get(drawn.names[i]), ranges[i], across) for i, across in zip(pair, "xy", strict=True)]
    x, y = (drawn.labels[i] for i in pair)
    return _board(f"{y} against {x}", [*shapes, *lines])


def _marginal(drawn: Drawn, index: int, window: tuple[float, float]) -> str:
    name = drawn.names[index]
    grid, density = density_1d(drawn.theta[:, index], drawn.weights, window)
    prior = drawn.prior.get(name)
    top = 1.06 * float(max(density.max(), 0.0 if prior is None else min(prior[1].max(), 2 * density.max()))) or 1.0
    path = _curve(grid, density, window, top)
    shapes = [f'<path class="fill" d="{path}V{SIDE}H{_x(grid[0], window)}Z"/>', f'<path class="curve" d="{path}"/>']
    for theta, weights in drawn.others.values():
        other = theta[:, index]
        if ((other >= window[0]) & (other <= window[1])).any():
            shapes.append(f'<path class="other" d="{_curve(*density_1d(other, weights, window), window, None)}"/>')
    if prior is not None:
        shapes.append(f'<path class="prior" d="{_curve(*prior, window, top)}"/>')
    for at, each in enumerate(drawn.intervals):
        ends = "".join(f"M{_x(v, window)} 0V{SIDE}" for v in each[index] if math.isfinite(v))
        shapes.append(f'<path class="ends v{at}" d="{ends}"/>')
    if name in drawn.before:
        low, middle, high = (_x(v, window) for v in drawn.before[name])
        shapes.append(f'<path class="before" d="M{low} 193H{high}M{middle} 187V199"/>')
    return _board(f"density of {drawn.labels[index]}", [*shapes, _line(drawn.truth.get(name), window, "x")])


def _board(alt: str, shapes: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none" role="img" aria-label="{escape(alt)}">'
        f"{''.join(shapes)}</svg>"
    )


def _x(value: float, window: tuple[float, float]) -> int:
    """Position of a value on the board, limited to one board width beyond either edge."""
    return round(SIDE * min(max((value - window[0]) / (window[1] - window[0]), -1.0), 2.0))


def _line(value: float | None, window: tuple[float, float], across: str) -> str:
    if value is None:
        return ""
    at = _x(value, window)
    return f'<path class="truth" d="{f"M{at} 0V{SIDE}" if across == "x" else f"M0 {SIDE - at}H{SIDE}"}"/>'


def _curve(x: np.ndarray, y: np.ndarray, window: tuple[float, float], top: float | None) -> str:
    """SVG path of a density, with the value `top` at the upper edge of the panel.

    If `top` is None, the maximum of the density lies just below the upper edge.
    """
    every = max(1, len(x) // _POINTS)
    x, y = x[::every], y[::every]
    top = top or 1.06 * float(y.max()) or 1.0
    across = (SIDE * (x - window[0]) / (window[1] - window[0])).round().astype(int)
    up = (SIDE * (1 - np.minimum(y / top, 1.5))).round().astype(int)
    return _path(np.stack([across, up], axis=1))


def _outline(mass: Float[np.ndarray, "m m"], edge: float, own: Box, box: Box) -> str:
    """SVG path around the region where a density exceeds `edge`, closed at the edges of its own box.

    The density `mass` is given over the box `own`, and the path is drawn in the panel of `box`.
    """
    from contourpy import contour_generator

    cells = (np.arange(len(mass)) + 0.5) / len(mass)
    x, y = (low + np.r_[0.0, cells, 1.0] * (high - low) for low, high in own)
    low, size = np.array([b[0] for b in box]), np.array([b[1] - b[0] for b in box])
    parts = []
    for line in map(np.asarray, contour_generator(x, y, np.pad(mass, 1)).lines(edge)):
        if len(line) > 3:
            points = np.clip(SIDE * (line - low) / size, -SIDE, 2 * SIDE)
            parts.append(f"{_path(_thinned(points * (1, -1) + (0, SIDE)))}Z")
    return "".join(parts)


def _elsewhere(pair: np.ndarray, weights: np.ndarray, box: Box, level: float) -> str:
    """SVG path of the credible region of another answer in a panel; "" if the region lies outside the panel."""
    first, second = windows(pair, weights)
    if any(own[1] < shown[0] or own[0] > shown[1] for own, shown in zip((first, second), box, strict=True)):
        return ""
    _, _, mass, edges = regions(pair, weights, (first, second), (level,))
    return _outline(mass, edges[level], (first, second), box) if level in edges else ""


def _thinned(points: Float[np.ndarray, "n two"]) -> np.ndarray:
    """Points rounded to whole numbers, without points that the eye does not need.

    A point is left out if it lies near the last kept point, or on the line from the last kept point to the next.
    """
    keep = [points[0]]
    for point, following in itertools.pairwise(points[1:]):
        step, way = point - keep[-1], following - keep[-1]
        if np.abs(step).max() >= 3.0 and abs(step[0] * way[1] - step[1] * way[0]) >= 2.5:
            keep.append(point)
    return np.array(keep if len(keep) > 2 else points).round().astype(int)


def _path(points: np.ndarray) -> str:
    """SVG path through points of whole numbers, in relative steps."""
    steps = np.diff(points, axis=0)
    return f"M{points[0][0]} {points[0][1]}l" + " ".join(f"{x} {y}" for x, y in steps).replace(" -", "-")


def axis_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks of an axis, at most two: each with its value and its text."""
    from matplotlib.ticker import MaxNLocator

    room = 0.1 * (high - low)
    values: list[float] = []
    for wanted in range(2, 8):
        found = MaxNLocator(wanted, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        inside = [float(v) for v in found if low + room <= v <= high - room]
        values = inside or values
        if inside and inside[-1] - inside[0] >= _APART * (high - low):
            break
    far = len(values) > 1 and values[-1] - values[0] >= _APART * (high - low)
    values = [values[0], values[-1]] if far else values[len(values) // 2 :][:1]
    width = high - low
    places = next((p for p in range(12) if all(abs(round(v, p) - v) < 1e-6 * width for v in values)), 12)
    words = [_words(value, width, places) for value in values]
    if len(words) > 1 and max(map(len, words)) > _TICK_LETTERS:
        return [(values[0], words[0])]
    return list(zip(values, words, strict=True))


def _words(value: float, width: float, places: int) -> str:
    """Text of a tick with a number of decimal places, or as a power of ten if this loses no digits."""
    short = float(f"{value:.3g}")
    if value and not 1e-3 <= abs(value) < 1e5 and abs(short - value) < 1e-6 * width:
        return plain(short)
    return f"{value:.{places}f}".replace("-", "−")


def _scale(name: str, ticks: Sequence[tuple[float, str]], window: tuple[float, float], side: str) -> str:
    """HTML of the ticks along one side of the corner plot, with the parameter's name."""
    low, high = window
    marks = "".join(
        f'<span class="tick" style="{side}:{100 * (value - low) / (high - low):.1f}%">{escape(words)}</span>'
        for value, words in ticks
    )
    widest = max((len(words) for _, words in ticks), default=0)
    return f'<span class="label">{escape(name)}</span><span class="ticks" style="--letters:{widest}">{marks}</span>'
