"""Numerical summary of an answer at each credible level: as markup, as a bar within the prior, and as a LaTeX table.

The numbers are of all draws, except those of `numbers_pictured`. At the level that the answer was asked at, they are
read from `answer.json`. At other levels, they are quantiles of `draws.h5`, by the same rule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from sciinf.core.draws import Draws
from sciinf.core.estimates import estimates
from sciinf.core.files import finite_json
from sciinf.core.probabilities import Probabilities, exists_words, told
from sciinf.core.tables import marked, percent
from sciinf.interfaces.figures.page import number, table
from sciinf.interfaces.figures.prior_curves import prior_ranges
from sciinf.interfaces.figures.run_folder import Run
from sciinf.interfaces.figures.style import pretty_unit

_LEVELS = (0.68, 0.9, 0.95)
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
_LATEX |= {"\\": "\\textbackslash{}", "<": "\\textless{}", ">": "\\textgreater{}", "−": "$-$", "·": "$\\cdot$"}
_LATEX |= {"☉": "$_\\odot$", "⊕": "$_\\oplus$", "°": "$^\\circ$", "Ω": "$\\Omega$", "μ": "$\\mu$", "µ": "$\\mu$"}


@dataclass(frozen=True)
class PosteriorNumbers:
    """Medians and central intervals of the parameters, at several credible levels.

    Args:
        names: Names of the D parameters.
        labels: Display name of each parameter.
        units: Unit of each parameter.
        medians: Median of each parameter; None where it is not finite.
        levels: Credible levels, increasing.
        intervals: For each level, the interval of each parameter.
        asked: Index of the level that the answer was asked at.
        exists: Probability that each parameter exists. Its other numbers are of the draws in which it exists.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    units: tuple[str, ...]
    medians: tuple[float | None, ...]
    levels: tuple[float, ...]
    intervals: tuple[tuple[tuple[float | None, float | None], ...], ...]
    asked: int
    exists: tuple[float, ...]


def numbers_of(run: Run) -> PosteriorNumbers:
    """Numerical summary of an answer; without draws, only at the level that the answer was asked at."""
    return _numbers(run.numbers, run.draws, run.level)


def numbers_pictured(run: Run) -> PosteriorNumbers:
    """Numerical summary of the pictured draws (`Run.pictured`), which may be only some of all draws."""
    draws = run.pictured
    if draws is None or not run.given:
        return numbers_of(run)
    found = finite_json({name: e.to_json() for name, e in estimates(draws, run.level).items()})
    return _numbers(found, draws, run.level)


def _numbers(found: Mapping[str, Any], draws: Draws | None, level: float) -> PosteriorNumbers:
    known = draws is not None and set(found) <= set(draws.names)
    levels = sorted({level, *_LEVELS}) if known else [level]
    each = []
    for one in levels:
        if one == level or draws is None:
            each.append(tuple((e["interval"][0], e["interval"][1]) for e in found.values()))
            continue
        ends = [draws.quantile(q).tolist() for q in ((1 - one) / 2, (1 + one) / 2)]
        at = [draws.names.index(name) for name in found]
        each.append(tuple((_finite(ends[0][i]), _finite(ends[1][i])) for i in at))
    return PosteriorNumbers(
        tuple(found),
        tuple(label_of(name, e) for name, e in found.items()),
        tuple(str(e["unit"]) for e in found.values()),
        tuple(e["median"] for e in found.values()),
        tuple(levels),
        tuple(each),
        levels.index(level),
        tuple(float(e.get("exists", 1.0)) for e in found.values()),
    )


def label_of(name: str, estimate: Mapping[str, Any]) -> str:
    """Display name of a parameter, from its estimate in `answer.json`."""
    return str(estimate.get("label") or name)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def widths(numbers: PosteriorNumbers, level: int, index: int) -> tuple[str, str, str]:
    """Texts of the median and of its distances to the upper and lower end of the interval.

    All three are rounded to two significant digits of the smaller distance.
    """
    middle, (low, high) = numbers.medians[index], numbers.intervals[level][index]
    if middle is None or low is None or high is None:
        return number(middle, None), "–", "–"
    below, above = middle - low, high - middle
    width = min((w for w in (below, above) if w > 0), default=None)
    return number(middle, width), number(above, width), number(below, width)


def value(numbers: PosteriorNumbers, index: int) -> str:
    """HTML of one parameter's median and interval at every level; the page shows the level that the reader chose."""
    parts = []
    if numbers.exists[index] <= 0:
        return "–"
    for level in range(len(numbers.levels)):
        middle, above, below = widths(numbers, level, index)
        ends = f'<span class="ends"><span>+{above}</span> <span>−{below}</span></span>'
        parts.append(f'<span class="value v{level}">{middle}{ends}</span>')
    unit = pretty_unit(numbers.units[index])
    return "".join(parts) + (f' <span class="unit">{escape(unit)}</span>' if unit else "")


def numbers_table(run: Run, numbers: PosteriorNumbers) -> str:
    """HTML table with one row per parameter: its value and, if the prior is known, a bar within the prior.

    The text is empty if no parameter is a number.
    """
    if not numbers.names:
        return ""
    outer = prior_ranges(run.prior)
    raw: Mapping[str, Any] = run.answer.get("amortised") or {}
    rows, sometimes = [], any(p < 1 for p in numbers.exists)
    for index, name in enumerate(numbers.names):
        row = [_name(name, numbers.labels[index], bool(run.answer["parameters"][name].get("derived")))]
        row += [exists_words(numbers.exists[index], run.least)] if sometimes else []
        row.append(value(numbers, index))
        rows.append(row + ([_bar(numbers, index, outer.get(name), raw.get(name))] if outer else []))
    head, kinds = ["parameter", "median"], ["markup", "markup"]
    head[1:1], kinds[1:1] = (["exists"], ["n"]) if sometimes else ([], [])
    if outer:
        head, kinds = [*head, "within the prior"], [*kinds, "markup"]
    return table(head, rows, kinds)


def _name(name: str, label: str, derived: bool) -> str:
    """HTML of a parameter's display name, followed by its name in files if the two differ."""
    own = "" if label == name else f' <code class="own">{escape(name)}</code>'
    return f"{escape(marked(label, derived))}{own}"


def _bar(
    numbers: PosteriorNumbers, index: int, outer: tuple[float, float] | None, raw: Mapping[str, Any] | None
) -> str:
    """SVG of the interval at each level inside the prior's central 98 %; the uncorrected interval is a thin line."""
    middle = numbers.medians[index]
    if outer is None or middle is None or not outer[1] > outer[0]:
        return ""

    def at(value: float) -> float:
        return 100 * min(max((value - outer[0]) / (outer[1] - outer[0]), 0.0), 1.0)

    shapes = ['<path class="track" d="M0 6H100"/>']
    for level, each in enumerate(numbers.intervals):
        low, high = each[index]
        if low is not None and high is not None:
            wide = max(at(high) - at(low), 0.8)
            shapes.append(f'<path class="inner v{level}" d="M{at(low):.2f} 2h{wide:.2f}v8h{-wide:.2f}z"/>')
    shapes.append(f'<path class="middle" d="M{at(middle):.2f} 1V11"/>')
    if raw and None not in (*raw["interval"], raw["median"]):
        low, high = (at(v) for v in raw["interval"])
        shapes.append(f'<path class="before" d="M{low:.2f} 12H{max(high, low + 0.8):.2f}"/>')
    alt = escape(f"{numbers.labels[index]}: interval within the central 98% of the prior")
    inner = "".join(shapes)
    return (
        f'<svg class="bar" viewBox="-1 0 102 14" preserveAspectRatio="none" role="img" aria-label="{alt}">{inner}</svg>'
    )


def level_choice(numbers: PosteriorNumbers, unlike: str = "") -> str:
    """HTML radio buttons that choose the credible level, for the page's script.

    At first, the level that the answer was asked at is chosen. `unlike` is a prefix of the HTML name.
    """
    if len(numbers.levels) == 1:
        return ""
    parts = []
    for index, level in enumerate(numbers.levels):
        chosen = " checked" if index == numbers.asked else ""
        words = f"<span>{percent(level)}</span>"
        parts.append(f'<label><input type="radio" name="{unlike}level" value="{index}"{chosen}>{words}</label>')
    return f'<fieldset class="choice script"><legend>credible level</legend>{"".join(parts)}</fieldset>'


def latex_values(found: Mapping[str, Probabilities]) -> list[str]:
    """LaTeX table rows with the probability of each value of the discrete parameters."""
    rows = []
    for name, one in found.items():
        for value, p, error in zip(one.values, one.probability, one.error, strict=True):
            said = told(p, error).replace("+-", "\\pm")
            rows.append(f"$P$({_in_latex(one.label or name)} = {_in_latex(value)}) & ${said}$ & \\\\")
    return rows


def latex(numbers: PosteriorNumbers, level: int, values: Sequence[str] = ()) -> str:
    """LaTeX table of medians, each with its distances to the upper and lower end of the interval.

    Args:
        numbers: Numerical summary of the answer.
        level: Index of the level to show.
        values: Rows above those of the numbers, as `latex_values` returns them.
    """
    rows = list(values)
    for index, name in enumerate(numbers.labels):
        middle, above, below = (text.replace("−", "-").replace(",", "\\,") for text in widths(numbers, level, index))
        quantity = f"${{{_power(middle)}}}^{{+{_power(above)}}}_{{-{_power(below)}}}$" if above != "–" else "--"
        rows.append(f"{_in_latex(name)} & {quantity} & {_in_latex(pretty_unit(numbers.units[index]))} \\\\")
    words = f"% median and central {percent(numbers.levels[level])} interval"
    head = "\\begin{tabular}{lll}\n\\hline\nparameter & value & unit \\\\\n\\hline"
    return "\n".join([words, head, *rows, "\\hline\n\\end{tabular}\n"])


def _in_latex(text: str) -> str:
    """LaTeX source that prints a text, whatever characters the text contains."""
    escaped = "".join(_LATEX.get(c, c) for c in text)
    return re.sub(r"[⁻⁰¹²³⁴⁵⁶⁷⁸⁹⁄]+", lambda m: f"$^{{{_plain(m[0])}}}$", escaped)


def _power(text: str) -> str:
    """LaTeX source of a number in math mode, with its power of ten as an exponent."""
    return re.sub(r"×10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: f"\\times 10^{{{_plain(m[1])}}}", text)


def _plain(superscripts: str) -> str:
    return superscripts.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹⁄", "-0123456789/"))


def drawn_intervals(numbers: PosteriorNumbers, names: Sequence[str]) -> list[list[tuple[float, float]]]:
    """For each level, the interval of each named parameter; NaN where the interval is unknown."""
    at = [numbers.names.index(name) if name in numbers.names else None for name in names]
    unknown = (math.nan, math.nan)
    found = []
    for each in numbers.intervals:
        ends = [unknown if i is None else each[i] for i in at]
        found.append([(math.nan if a is None else a, math.nan if b is None else b) for a, b in ends])
    return found
