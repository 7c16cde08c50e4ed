"""Bars of the probabilities of discrete parameters, with a tick where the prior has each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sciinf.core.probabilities import Probabilities, told
from sciinf.figures.style import BLUE, INK, MUTED, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 16  # values that have a row, or a bar


def shown_values(found: Probabilities) -> tuple[list[int], list[int]]:
    """Places of the values that have a row, in order, and of the others, which are the least probable."""
    kept, rest = found.ranked[:_MOST], found.ranked[_MOST:]
    return sorted(kept), rest


@styled
def probabilities_figure(found: Mapping[str, Probabilities]) -> Figure:
    """A panel of bars for each discrete parameter.

    Args:
        found: Name -> probabilities; at least one.
    """
    from matplotlib.figure import Figure

    sizes = [len(shown_values(one)[0]) for one in found.values()]
    figure = Figure(figsize=(6.0, sum(0.3 * size + 1.0 for size in sizes)), layout="constrained")
    panels = figure.subplots(len(found), 1, squeeze=False, height_ratios=[size + 3 for size in sizes])[:, 0]
    for axes, (name, one) in zip(panels, found.items(), strict=True):
        shown, rest = shown_values(one)
        places = range(len(shown))
        p, error, prior = ([values[k] for k in shown] for values in (one.probability, one.error, one.prior))
        axes.barh(places, p, color=BLUE, alpha=0.38, height=0.62)
        axes.errorbar(p, places, xerr=error, fmt="none", ecolor=BLUE, elinewidth=1.2)
        axes.plot(prior, places, linestyle="none", marker="|", markersize=13, markeredgewidth=1.6, color=INK)
        for at, (value, size) in enumerate(zip(p, error, strict=True)):
            words = told(value, size).replace("+-", "±")
            axes.annotate(words, (max(value + size, prior[at]), at), (6, 0), textcoords="offset points", va="center")
        axes.set_yticks(list(places), [one.values[k] for k in shown])
        axes.set_xlim(0, 1.28)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.invert_yaxis()
        more = f"; {len(rest)} others are not drawn" if rest else ""
        axes.set_ylabel(one.label or name)
        axes.set_xlabel(f"probability {one.among(name)} (tick: prior){more}", color=MUTED)
    return figure
