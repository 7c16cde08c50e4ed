"""Report part on the checks: one plain sentence for each check, with all details and a picture below."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from sciinf.core.records import Reliability
from sciinf.core.verdict import Verdict
from sciinf.interfaces.figures.calibration import CONFIDENCE, PANELS, coverage_figure, rank_curves, ranks_figure
from sciinf.interfaces.figures.page import absent, details, paragraph, picture, table
from sciinf.interfaces.figures.reliability import MOST, outside, panels_of, reliability_figure
from sciinf.interfaces.figures.run_folder import Run
from sciinf.interfaces.figures.style import NARROW
from sciinf.interfaces.figures.svg import to_svg
from sciinf.interfaces.figures.verdicts import SYMBOLS, Card, cards

_ELSEWHERE = '<p><a href="#calibration">Pictures and all tests</a> are the same for all observations.</p>'


def checks_part(run: Run, verdict: Verdict, *, pictures: bool = True) -> str:
    """HTML of all checks of an answer.

    Args:
        run: The run with the answer.
        verdict: Verdict with the findings of the checks.
        pictures: Whether to draw the calibration here. Several answers share the pictures of their calibration.
    """
    parts = []
    for card in cards(verdict):
        drawn = ""
        if card.title == "Calibration":
            drawn = calibration_pictures(run) if pictures else _ELSEWHERE
        parts.append(_check(card, drawn))
    return "".join(parts)


def _check(card: Card, drawn: str) -> str:
    sentence = card.clause
    sentence += "" if sentence.endswith("...") else "."
    symbol = f'<span class="symbol" aria-hidden="true">{SYMBOLS[card.colour]}</span>'
    words = (
        f'<span><b>{escape(card.title)}</b> <span class="state">{escape(card.state)}.</span> {escape(sentence)}</span>'
    )
    inside = paragraph(card.words) + drawn
    return f'<details class="check {card.colour}"><summary>{symbol}{words}</summary>{inside}</details>'


def calibration_pictures(run: Run) -> str:
    """HTML on the network's results on fresh simulations: words, pictures and a table of all tests."""
    found = run.calibration
    if found is None:
        return absent(run.missing["calibration"])
    words = (
        f"On {found.rows:,} fresh simulations, whose true parameters are known, {found.draws:,} draws each of the "
        f"{found.of} posterior were compared with the truth."
    )
    if found.failed_rows:
        words += f" {found.failed_rows:,} simulations that failed were left out."
    parts = [paragraph(words)]
    figure = coverage_figure(found.levels, found.coverage, found.tarp, found.rows, NARROW)
    caption = (
        f"How often the truth lies inside the posterior's credible regions, and the difference from the nominal level "
        f"in percentage points (pp). Grey: where each point of an exact posterior falls, with probability "
        f"{CONFIDENCE:.0%}."
    )
    if len(found.coverage) == 0:
        caption += " This posterior has no density, so highest-density regions are not drawn."
    parts.append(
        picture([to_svg(figure, "Found against nominal coverage. " + caption, "coverage")], caption, "Coverage.")
    )
    if len(found.ranks) and len(found.names):
        curves = rank_curves(found.ranks, found.draws)
        outside = [name for name, curve in zip(found.names, curves, strict=True) if not curve.inside]
        caption = (
            "Distribution of the rank of each true parameter among its draws, minus the uniform one, in percentage "
            f"points (pp). Grey: where an exact posterior's whole curve stays with probability {CONFIDENCE:.0%}. "
            + (f"Outside, in red: {', '.join(outside)}." if outside else "All curves stay inside.")
        )
        if outside and found.passed:
            caption += " An error counts where it is significant and reaches three points (a tail: 0.2)."
        if len(curves) > PANELS:
            caption += f" The first {PANELS} of {len(curves)} parameters are drawn."
        parts.append(picture([to_svg(ranks_figure(found.names, curves, NARROW), caption, "ranks")], caption, "Ranks."))
    parts.append(_reliability(found.reliability))
    rows = [
        [name, f"{100 * found.gaps[name]:.1f}" if found.gaps.get(name) is not None else "–", _p(p)]
        for name, p in found.p_values.items()
    ]
    if rows:
        caption = "Largest distance between found and nominal coverage, and p-value of uniformity (uncorrected)."
        inner = table(["test", "gap [percentage points]", "p"], rows, ["", "n", "n"], caption)
        parts.append(details("All tests", inner))
    return "".join(parts)


def _reliability(found: Mapping[str, Reliability]) -> str:
    """HTML figure of whether probabilities of discrete parameters were right; "" if there are none."""
    if not found:
        return ""
    off = outside(found)
    caption = (
        "How often each value was true, beside the probability that it was given, in ten bins of as many simulations. "
        "Grey: where right probabilities have each bin in 99 of 100 cases. "
        + (f"Outside, in red, in some bin: {', '.join(off)}." if off else "All bins are inside.")
    )
    if (more := len(panels_of(found)) - MOST) > 0:
        caption += f" {more} more values are not drawn."
    drawn = to_svg(
        reliability_figure(found, NARROW), "Shares found against probabilities given. " + caption, "reliable"
    )
    return picture([drawn], caption, "Probabilities.")


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.2f}"
