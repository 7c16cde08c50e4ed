"""Figures of hidden paths: bands of posterior draws over time, with the observations that have the same unit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sciinf.core.observable import Observable
from sciinf.core.paths import HiddenPath, HiddenPaths
from sciinf.core.tables import percent
from sciinf.interfaces.figures.observed import legend
from sciinf.interfaces.figures.page import picture
from sciinf.interfaces.figures.style import BLUE, BROAD, COLUMN, INK, MUTED, NARROW, PAPER, label, styled, whole_numbers
from sciinf.interfaces.figures.svg import to_svg
from sciinf.networks.summaries.timed import times_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 6
_INNER, _DRAWN = 0.5, 3  # Level of the inner band, and number of single paths drawn.
_JUMPS = 0.2  # A path is drawn as steps if more than this share of its increments is zero.


@styled
def paths_figure(
    paths: HiddenPaths,
    names: Sequence[str],
    seen: Mapping[str, tuple[str, np.ndarray]] | None = None,
    width: float = COLUMN,
) -> Figure:
    """Figure with one panel for each named hidden quantity.

    Args:
        paths: All hidden paths of the answer.
        names: Names of the hidden quantities to draw.
        seen: Observable -> its unit and its values at the times, NaN where missing. An observable is drawn in the
            panels of quantities with the same unit. With several quantities, observables without a unit are not drawn,
            because a missing unit does not show where they belong.
        width: Width of the figure, in inches.
    """
    from matplotlib.figure import Figure

    columns = 2 if len(names) > 1 and width >= BROAD else 1
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(width, 0.4 + (2.3 if width < BROAD else 2.7) * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        path = paths[name]
        own = {n: v for n, (u, v) in (seen or {}).items() if u == path.unit and (u or len(paths) == 1)}
        _panel(axes, path, {n: v[: len(path.times)] for n, v in own.items()})
        axes.set_title(name if len(names) > 1 else "")
        axes.set_ylabel(label(name, path.unit))
        axes.set_xlabel(label("time", path.time_unit) if path.time_unit else "time")
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    legend(figure, panels[0])
    return figure


def _panel(axes: Axes, path: HiddenPath, seen: Mapping[str, np.ndarray]) -> None:
    later = np.diff(path.times) > 0  # Equal values at a repeated time do not show steps.
    jumps = bool(np.mean((np.diff(path.draws) == 0)[:, later]) > _JUMPS) if later.any() else False
    for level, alpha in ((path.level, 0.16), (_INNER, 0.26)):
        low, high = (path.quantile((1 + side * level) / 2) for side in (-1, 1))
        axes.fill_between(path.times, low, high, color=BLUE, alpha=alpha, linewidth=0, label=percent(level))
    for k, one in enumerate(path.draws[:_DRAWN]):
        style = "steps-post" if jumps else "default"
        axes.plot(path.times, one, color=MUTED, linewidth=0.6, drawstyle=style, label="draws" if k == 0 else None)
    axes.plot(path.times, path.median, color=BLUE, linewidth=1.3, label="median")
    for name, values in seen.items():
        edge = {"markeredgecolor": PAPER, "markeredgewidth": 0.7}
        axes.plot(path.times, values, "o", color=INK, markersize=4.2, label=f"{name}, observed", **edge)
    axes.grid(axis="y")
    axes.margins(x=0.02)
    if (path.times == np.round(path.times)).all():
        whole_numbers(axes.xaxis)


def seen_in(
    observation: Mapping[str, np.ndarray], observables: Mapping[str, Observable]
) -> dict[str, tuple[str, np.ndarray]]:
    """Observables with one number at each time: name -> (unit, values), with NaN for missing values.

    Masks, times and controls are left out.
    """
    found, times = {}, times_of(observables)
    for name, values in observation.items():
        beside = name.endswith("_mask") or name in times or name not in observables or observables[name].control
        if np.ndim(values) == 1 and not beside:
            there = observation.get(f"{name}_mask", np.ones(len(values), dtype=bool))
            found[name] = observables[name].unit, np.where(there, values, np.nan)
    return found


def paths_part(paths: HiddenPaths, seen: Mapping[str, tuple[str, np.ndarray]], prefix: str = "") -> str:
    """HTML of the hidden-path figures for narrow and wide screens, with a caption.

    Args:
        paths: Hidden paths of the answer, at least one.
        seen: Observables to draw beside the paths, as in `paths_figure`.
        prefix: Prefix of the HTML identifiers, used if the page has several answers.
    """
    names = list(paths)[:MOST]
    words = (
        f"What the data and the model say of {', '.join(names)} at each time: {percent(paths.level)} and "
        f"{percent(_INNER)} bands of {len(paths.values):,} paths, each with parameters of its own from the posterior."
    )
    words += f" The first {MOST} of {len(paths)} are drawn." if len(paths) > MOST else ""
    drawings = [
        to_svg(paths_figure(paths, names, seen, width), words, f"{prefix}paths{key}")
        for width, key in ((NARROW, "n"), (COLUMN, "w"))
    ]
    return picture(drawings, words, "Hidden paths.")
