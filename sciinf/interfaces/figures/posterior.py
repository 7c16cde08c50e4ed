"""The posterior as a corner of parameters that the reader chooses, with prior, truth and other answers laid over."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

from sciinf.core.estimates import numbers as with_interval
from sciinf.core.given import said_given, share_of
from sciinf.core.tables import percent
from sciinf.interfaces.figures.numbers import PosteriorNumbers, drawn_intervals, value
from sciinf.interfaces.figures.page import absent, paragraph
from sciinf.interfaces.figures.panels import CHOSEN, Drawn, panels
from sciinf.interfaces.figures.prior_curves import prior_marginals
from sciinf.interfaces.figures.run_folder import Run

MOST = 20  # parameters that the reader can choose among
_FEW = 10  # chips that are always shown
_COMPACT = 3  # parameters shown at first where there is less room
_OTHERS = 5  # answers for other observations, laid over


def posterior_part(
    run: Run,
    numbers: PosteriorNumbers,
    truth: Mapping[str, float],
    others: Mapping[str, Run],
    *,
    most: int = MOST,
    compact: bool = False,
) -> str:
    """The corner, and chips that choose its parameters.

    Args:
        run: The run with the answer. Of several models, or numbers of things, the most probable is drawn.
        numbers: The numbers of the draws that are pictured.
        truth: Parameter -> true value.
        others: Runs with the answers for other observations.
        most: Parameters that can be chosen, at most; of the first.
        compact: Whether there is room for fewer and smaller panels only.
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
    """The pictured draws of the first parameters that are finite and have weight, (n, D), and their weights, (n,)."""
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
    """Which draws are pictured, where these are not all of them."""
    if run.draws is None or not run.given:
        return ""
    share, count = share_of(run.draws, run.given).replace("+-", "±"), len(run.draws.given(**run.given))
    what = "" if len(run.given) == 1 else " together"
    return paragraph(
        f"Drawn where {said_given(run.given)}, which is most probable{what}: probability {share}; {count:,} of "
        f"{len(run.draws):,} draws. Medians and intervals above the panels are of these draws."
    )


def _before(run: Run) -> dict[str, tuple[float, float, float]]:
    """The uncorrected answer: name -> (low, median, high)."""
    found: dict[str, tuple[float, float, float]] = {}
    if run.given:  # it is of all draws, and these are some
        return {}
    for name, e in with_interval(run.answer.get("amortised") or {}).items():
        ends = (e["interval"][0], e["median"], e["interval"][1])
        if None not in ends:
            found[name] = ends
    return found


def _chips(drawn: Drawn) -> str:
    """Which parameters are drawn, for the script."""
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
    """A key to the lines, and how to select draws."""
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
