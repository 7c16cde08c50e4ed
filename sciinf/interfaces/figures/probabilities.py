"""Probabilities of discrete parameters in the report: a row, a bar and the tick of the prior for each value."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from sciinf.core.estimates import probabilities
from sciinf.core.probabilities import ALONE, Probabilities, exists_words, told
from sciinf.interfaces.figures.page import paragraph, table
from sciinf.interfaces.figures.run_folder import Run
from sciinf.interfaces.figures.style import BLUE, INK, MUTED, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 16  # Largest number of values that have a row or a bar.


def shown_values(found: Probabilities) -> tuple[list[int], list[int]]:
    """Indices of the values that have a row, in order, and of the other, least probable values."""
    kept, rest = found.ranked[:_MOST], found.ranked[_MOST:]
    return sorted(kept), rest


@styled
def probabilities_figure(found: Mapping[str, Probabilities]) -> Figure:
    """Figure with one panel of bars for each discrete parameter.

    Args:
        found: Name of each discrete parameter -> its probabilities; at least one.
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


_TICK = "stroke:var(--ink);stroke-width:2"


def probabilities_part(run: Run) -> str:
    """HTML table and explanation for each discrete parameter; "" if there are none."""
    before = probabilities(run.answer.get("amortised") or {})
    parts = [_one(name, found, before.get(name)) for name, found in run.probabilities.items()]
    alone = run.answer.get("log_evidence") is None and any(found.factors() for found in run.probabilities.values())
    return "".join([*parts, paragraph(f"{ALONE}.") if alone else ""])


def _one(name: str, found: Probabilities, before: Probabilities | None) -> str:
    label = found.label or name
    if not found.exists > 0:
        return paragraph(f"{label} exists in no draw.")
    shown, rest = shown_values(found)
    rows = []
    for k in shown:
        old = None if before is None else before.probability[k]
        said = told(found.probability[k], found.error[k]).replace("+-", "±").replace("-", "−")
        rows.append([found.values[k], said, _bar(found.values[k], found.probability[k], found.prior[k], old)])
    words = [f"Probability of each value {found.among(name)}; the tick is the prior's."]
    words += ["In purple: before draws were weighted."] if before is not None else []
    if rest:
        words.append(f"{len(rest)} others have {sum(found.probability[k] for k in rest):.2g} together.")
    if found.exists < 1:
        words.append(
            f"It exists with probability {exists_words(found.exists)}; these are of the draws in which it does."
        )
    words += [f"{one[:1].upper()}{one[1:].replace('+-', '±')}." for one in found.factors()]
    return table([label, "probability", "with the prior"], rows, ["", "n", "markup"]) + paragraph(" ".join(words))


def _bar(value: str, p: float, prior: float, before: float | None) -> str:
    """SVG bar of a probability from 0 to 1, with its value in the prior and its value before draws were weighted."""
    shapes = ['<path class="track" d="M0 6H100"/>']
    shapes.append(f'<path class="inner" d="M0 2h{100 * p:.2f}v8h{-100 * p:.2f}z"/>')
    shapes.append(f'<path style="{_TICK}" d="M{100 * prior:.2f} 0V12"/>')
    if before is not None:
        shapes.append(f'<path class="before" d="M0 12H{100 * before:.2f}"/>')
    alt = escape(f"{value}: probability {p:.2g}, in the prior {prior:.2g}")
    return (
        f'<svg class="bar" viewBox="-1 0 102 14" preserveAspectRatio="none" role="img" aria-label="{alt}">'
        f"{''.join(shapes)}</svg>"
    )
