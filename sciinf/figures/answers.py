"""The answers as tables: of one observation with its prior, of several beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sciinf.figures.page import absent, interval_bar, number, paragraph, table
from sciinf.figures.prior_curves import prior_ranges
from sciinf.figures.run_folder import Run
from sciinf.figures.style import pretty_unit
from sciinf.figures.verdicts import headline


def answer_part(run: Run) -> str:
    """One answer: a row per parameter, median and interval first, for a stray draw can carry mean and sd with it."""
    found: Mapping[str, Any] = run.answer.get("parameters", {})
    if not found:
        return absent(run.missing.get("answer", "The answer names no parameter."))
    level = next(iter(found.values()))["level"]
    outer = prior_ranges(run.prior)
    raw: Mapping[str, Any] = run.answer.get("amortised") or {}
    head = ["parameter", "unit", "median", f"{level:.0%} interval", "mean", "sd"]
    held = any(e.get("corrected") for e in found.values())
    head += (
        ["within the prior"] * bool(outer) + ["uncorrected"] * bool(raw) + [f"corrected {level:.0%} interval"] * held
    )
    kinds = ["", "", *["n"] * 4, *["bar"] * bool(outer), *["n"] * bool(raw), *["n"] * held]
    rows = []
    for name, e in found.items():
        row = [
            name,
            pretty_unit(e["unit"]) or "–",
            *_quantiles(e),
            number(e["mean"], e["sd"]),
            number(e["sd"], e["sd"]),
        ]
        if outer:
            alt = f"{name}: {level:.0%} interval within the central 98% of the prior"
            low, high = e["interval"]
            bar = name in outer and None not in (low, high, e["median"])
            row.append(interval_bar((low, high), e["median"], outer[name], alt) if bar else "")
        row += [" · ".join(_quantiles(raw[name]))] if raw else []
        rows.append(row + ([_corrected(e)] if held else []))
    return table(head, rows, kinds) + paragraph(_words(run, level, bool(outer), bool(raw)) + _moves(found, level))


def answers_table(runs: Mapping[str, Run]) -> str:
    """The answers of several observations, a row for each, and what the checks say of it."""
    first = next((run.answer["parameters"] for run in runs.values() if run.answer.get("parameters")), {})
    level = next((e["level"] for e in first.values()), 0.9)
    units = [pretty_unit(e["unit"]) for e in first.values()]
    names = [f"{name} [{unit}]" if unit else name for name, unit in zip(first, units, strict=True)]
    rows = []
    for name, run in runs.items():
        found = run.answer.get("parameters", {})
        cells = [" · ".join(_quantiles(found[key])) if key in found else "–" for key in first]
        rows.append([name, *cells, headline(run)])
    caption = f"Median and central {level:.0%} interval of each parameter, and whether to rely on the answer."
    return table(["observation", *names, "checks"], rows, ["", *["n"] * len(names), "wrap"], caption)


def _quantiles(e: Mapping[str, Any]) -> list[str]:
    """Median and interval, each to two digits of its own width."""
    middle, (low, high) = e["median"], e["interval"]
    if None in (middle, low, high):
        return [number(middle, None), f"{number(low, None)} to {number(high, None)}"]
    below, above = middle - low, high - middle
    width = min((w for w in (below, above) if w > 0), default=None)
    return [number(middle, width), f"{number(low, below or None)} to {number(high, above or None)}"]


def _corrected(e: Mapping[str, Any]) -> str:
    """The corrected interval to two digits of its width."""
    if not e.get("corrected"):
        return "–"
    low, high = e["corrected"]["interval"]
    width = None if None in (low, high) or high <= low else (high - low) / 2
    return f"{number(low, width)} to {number(high, width)}"


def _moves(found: Mapping[str, Any], level: float) -> str:
    """What corrected intervals are, and which of them moved by more than chance."""
    each = {name: e["corrected"] for name, e in found.items() if e.get("corrected")}
    if not each:
        return ""
    moved = [f"{n} by {c['moved']:.0%} of its width" for n, c in each.items() if c["moved"] > c["chance"]]
    local = " for data like these" if any(c["local"] for c in each.values()) else ""
    words = (
        f" Corrected intervals are those between the quantiles of the draws that held {level:.0%}{local} of the truths"
    )
    words += " of the fresh simulations; draws are left as they are. "
    return words + (f"Moved by more than chance: {', '.join(moved)}." if moved else "None moved by more than chance.")


def _words(run: Run, level: float, bars: bool, raw: bool) -> str:
    answer = run.answer
    scope = str(answer.get("scope") or "")
    parts = [f"{scope[:1].upper()}{scope[1:]}."] if scope else []
    parts += [f"Intervals are central and hold {level:.0%} of the posterior."]
    if bars:
        parts.append("Bars show them within the central 98% of the prior.")
    if answer.get("draws"):
        parts.append(f"{answer['draws']:,} draws, effective sample size {answer.get('ess') or 0:,.0f}.")
    if answer.get("log_evidence") is not None:
        error = answer.get("log_evidence_error")
        parts.append(
            f"Log evidence {number(answer['log_evidence'], error)}" + (f" ± {number(error, error)}." if error else ".")
        )
    if raw:
        parts.append("Uncorrected are median and interval before draws were weighted.")
    return " ".join(parts)
