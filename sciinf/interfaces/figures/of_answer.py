"""Code of `Answer.figure`: the report's figures of one answer, as matplotlib figures for a paper or a notebook."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sciinf.core.answer import Answer
from sciinf.core.given import said_given, share_of
from sciinf.core.quantities import truth_in
from sciinf.core.records import NOT_CALIBRATED, Calibration
from sciinf.interfaces.figures.calibration import coverage_figure, rank_curves, ranks_figure
from sciinf.interfaces.figures.checked import checked_of, with_strange
from sciinf.interfaces.figures.corner import corner, windows
from sciinf.interfaces.figures.paths import MOST, paths_figure, seen_in
from sciinf.interfaces.figures.predictive import predictive
from sciinf.interfaces.figures.prior_curves import prior_marginals
from sciinf.interfaces.figures.probabilities import probabilities_figure
from sciinf.interfaces.figures.reliability import reliability_figure
from sciinf.interfaces.predictive_file import Predicted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CORNER = 12
_DOTS = 144  # Dots per inch of the image in a notebook.


def figure_of(
    answer: Answer, kind: str, *, names: Sequence[str] | None = None, truth: Mapping[str, Any] | None = None
) -> Figure:
    """Figure of an answer; see `Answer.figure`."""
    if kind not in _DRAWN:
        raise ValueError(f"the kind of a figure is one of {', '.join(map(repr, _DRAWN))}, got {kind!r}")
    if isinstance(names, str):
        raise TypeError(f"names is a list of names; give names=[{names!r}]")
    if kind != "corner" and truth:
        raise ValueError(f"truth is drawn in a corner plot, not in a figure of kind {kind!r}; leave it out")
    draws = answer.draws
    labels = {name: one.labels for name, one in draws.categories.items()}
    figure = _DRAWN[kind](answer, names, truth_in(truth, draws.names, draws.units, labels))
    figure.set_facecolor("white")  # The letters are dark, and the page may be dark, too.
    figure._repr_png_ = functools.partial(_png, figure)  # pyright: ignore[reportAttributeAccessIssue]
    return figure


def _corner(answer: Answer, names: Sequence[str] | None, truth: Mapping[str, float]) -> Figure:
    given = answer.draws.most_probable()
    if names is not None and (dropped := sorted(set(names) & set(answer.draws.names))):
        _drawable(answer, given, dropped)
    whole, answer = answer, answer.given(**given)
    draws = answer.draws
    truth = {name: value for name, value in truth.items() if name in draws.names or name not in whole.draws.names}
    chosen = _known(names, draws.names, "parameter") if names is not None else list(draws.names[:_CORNER])
    if not chosen:
        raise ValueError(f"names is empty; give some of {', '.join(draws.names)}, or leave it out")
    _known(list(truth), chosen, "parameter drawn")
    columns = [draws.names.index(name) for name in chosen]
    theta, weights = draws.theta.double().cpu().numpy()[:, columns], draws.weights.cpu().numpy()
    ranges = windows(theta, weights, [truth.get(name) for name in chosen])
    prior = prior_marginals(answer.prior, chosen, ranges)
    units = [draws.units[c] for c in columns]
    figure = corner(chosen, units, theta, weights, labels=draws.labels, prior=prior, truth=truth)
    if given:
        share = share_of(whole.draws, given).replace("+-", "±")
        figure.legends[0].set_title(f"given {said_given(given)} ({share})")
    return figure


def _drawable(answer: Answer, given: Mapping[str, str], names: Sequence[str]) -> None:
    """Raise ValueError for names that do not exist at the most probable values of the discrete parameters."""
    left = answer.draws.given(**given).names
    if gone := [name for name in names if name not in left]:
        raise ValueError(
            f"a corner is drawn where {said_given(given)}, and there {gone[0]!r} is none of {', '.join(left)}; draw "
            "discrete parameters with figure('probabilities'), or answer.given(...).figure('corner') of other values"
        )


def _probabilities(answer: Answer, names: Sequence[str] | None, truth: Mapping[str, float]) -> Figure:
    found = {name: answer.draws.probabilities(name) for name in answer.draws.categories}
    if not found:
        raise ValueError("this answer has no discrete parameters, whose values have probabilities; draw kind 'corner'")
    chosen = _known(names, list(found), "discrete parameter") if names is not None else list(found)
    return probabilities_figure({name: found[name] for name in chosen})


def _prediction(answer: Answer, names: Sequence[str] | None, truth: Mapping[str, float]) -> Figure:
    found = {
        one.name: with_strange(one, answer.trust.where)
        for one in checked_of(Predicted(answer.observation, answer.predictive, answer.observables))
    }
    if not found:
        raise ValueError("no data were predicted for this answer; ask with `query(..., simulator=...)`")
    chosen = _known(names, list(found), "observable") if names is not None else list(found)
    if len(chosen) != 1:
        raise ValueError(
            f"a figure of predictions shows one observable; give one of them: names=[{next(iter(found))!r}] "
            f"(there are {', '.join(found)})"
        )
    return predictive(found[chosen[0]]).figure


def _paths(answer: Answer, names: Sequence[str] | None, truth: Mapping[str, float]) -> Figure:
    if not answer.paths:
        raise ValueError("this answer has no hidden paths; ask with the simulator of a state-space model")
    chosen = _known(names, answer.paths.names, "hidden quantity") if names is not None else list(answer.paths)[:MOST]
    return paths_figure(answer.paths, chosen, seen_in(answer.observation, answer.observables))


def _coverage(answer: Answer, names: Sequence[str] | None, truth: Mapping[str, float]) -> Figure:
    found = _calibration(answer)
    if names is not None:
        raise ValueError("the coverage figure is of all parameters together; leave names out, or draw kind 'ranks'")
    return coverage_figure(found.levels, found.coverage, found.tarp, found.rows)


def _ranks(answer: Answer, names: Sequence[str] | None, truth: Mapping[str, float]) -> Figure:
    found = _calibration(answer)
    if not len(found.ranks):
        raise ValueError("this calibration has no ranks of the true parameters")
    chosen = _known(names, found.names, "parameter") if names is not None else list(found.names)
    columns = [list(found.names).index(name) for name in chosen]
    return ranks_figure(chosen, rank_curves(np.asarray(found.ranks)[:, columns], found.draws))


def _reliability(answer: Answer, names: Sequence[str] | None, truth: Mapping[str, float]) -> Figure:
    found = _calibration(answer).reliability
    if not found:
        raise ValueError("this calibration has no discrete parameters, whose probabilities could be checked")
    chosen = _known(names, list(found), "discrete parameter") if names is not None else list(found)
    return reliability_figure({name: found[name] for name in chosen})


def _calibration(answer: Answer) -> Calibration:
    if answer.calibration is None:
        raise ValueError(f"this answer has no calibration: {NOT_CALIBRATED}")
    return answer.calibration


def _known(names: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """List of the given names; ValueError if one of them is unknown."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"there is no {what} {unknown[0]!r}; there are {', '.join(known)}")
    return list(names)


def _png(figure: Figure) -> bytes:
    """PNG image of a figure, for display in a notebook."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_DOTS, bbox_inches="tight")
    return image.getvalue()


_DRAWN: dict[str, Callable[[Answer, Sequence[str] | None, Mapping[str, float]], Figure]] = {
    "corner": _corner,
    "probabilities": _probabilities,
    "prediction": _prediction,
    "paths": _paths,
    "calibration": _coverage,
    "ranks": _ranks,
    "reliability": _reliability,
}
