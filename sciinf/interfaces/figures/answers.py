"""Tables of one answer with all its numbers, or of several answers side by side, and sentences about the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from sciinf.core.findings import CONFIRMED, Level
from sciinf.core.probabilities import Probabilities, exists_words, told
from sciinf.core.tables import marked, percent
from sciinf.core.verdict import Verdict
from sciinf.interfaces.figures.numbers import label_of
from sciinf.interfaces.figures.page import number, table
from sciinf.interfaces.figures.run_folder import Run
from sciinf.interfaces.figures.style import label, pretty_unit
from sciinf.interfaces.figures.verdicts import COLOURS, SYMBOLS


def every_number(run: Run) -> str:
    """HTML table of all numbers of one answer, with one row per parameter; "" if there are no numbers.

    Median and interval come first, because a single stray draw can move a mean.
    """
    found = run.numbers
    if not found:
        return ""
    level = run.level
    raw: Mapping[str, Any] = run.answer.get("amortised") or {}
    held, labels = (any(e.get(key) for e in found.values()) for key in ("corrected", "label"))
    sometimes = any("exists" in e for e in found.values())
    head = ["parameter", *(["label"] if labels else []), "unit", *(["exists"] if sometimes else [])]
    head += ["median", f"{percent(level)} interval", "mean", "sd"]
    head += ["uncorrected"] * bool(raw) + [f"corrected {percent(level)} interval"] * held
    rows = []
    for name, e in found.items():
        row = [marked(name, bool(e.get("derived"))), *([e.get("label") or "–"] if labels else [])]
        row += [pretty_unit(e["unit"]) or "–", *([exists_words(e.get("exists", 1.0), run.least)] if sometimes else [])]
        row += [*quantile_cells(e), number(e["mean"], e["sd"]), number(e["sd"], e["sd"])]
        row += [" · ".join(quantile_cells(raw[name]))] if raw else []
        rows.append(row + ([_corrected(e)] if held else []))
    words = 2 + labels
    return table(head, rows, [*[""] * words, *["n"] * (len(head) - words)])


def answer_words(run: Run) -> str:
    """Sentences about the numbers of an answer, as plain text."""
    return _words(run, run.level) + _moves(run.numbers, run.level)


def moved_words(run: Run) -> str:
    """Sentence on corrected intervals that differ from those of the draws by more than chance; "" if none does."""
    found = run.numbers
    moved = {
        n: e for n, e in found.items() if e.get("corrected") and e["corrected"]["moved"] > e["corrected"]["chance"]
    }
    if not moved:
        return ""
    each = "; ".join(f"{label_of(n, e)} {_corrected(e)} {pretty_unit(e['unit'])}".strip() for n, e in moved.items())
    level = next(iter(moved.values()))["level"]
    return f"Intervals that held {percent(level)} on fresh simulations are others than those of the draws: {each}."


def answers_table(runs: Mapping[str, Run], verdicts: Mapping[str, Verdict]) -> str:
    """HTML table of the answers to several observations, one row each, with the verdict of the checks."""
    each = {name: run.numbers for name, run in runs.items()}
    best = list(dict.fromkeys(name for run in runs.values() for name in run.probabilities))
    first = next((found for found in each.values() if found), {})
    units = [e["unit"] for e in first.values()]
    names = [label(label_of(name, e), unit) for (name, e), unit in zip(first.items(), units, strict=True)]
    levels = {name: percent(run.level) for name, run in runs.items() if run.answer.get("parameters")}
    mixed = len(set(levels.values())) > 1
    rows = []
    for name, found in each.items():
        known = [key in found and found[key]["unit"] == e["unit"] for key, e in first.items()]
        cells = [
            " · ".join(dict.fromkeys(quantile_cells(found[key]))) if there else "–"
            for key, there in zip(first, known, strict=True)
        ]
        likely = [best_of(runs[name].probabilities.get(key)) for key in best]
        rows.append([name, *([levels.get(name, "–")] if mixed else []), *likely, *cells, _state(verdicts[name])])
    of = "" if mixed or not levels else f"{next(iter(levels.values()))} "
    caption = f"Median and central {of}interval of each parameter, and whether to rely on the answer."
    caption += f" Of {', '.join(best)} the most probable value, with its probability." if best else ""
    head = ["observation", *(["level"] if mixed else []), *best, *names, "verdict"]
    return table(head, rows, ["", *["n"] * (len(head) - 2), "wrap markup"], caption, stacked=True)


def best_of(found: Probabilities | None) -> str:
    """Most probable value of a discrete parameter, with its probability; a dash if there is none."""
    if found is None or not found.exists > 0:
        return "–"
    k = found.ranked[0]
    return f"{found.values[k]} ({told(found.probability[k], found.error[k]).replace('+-', '±')})"


def _state(verdict: Verdict) -> str:
    """HTML of the verdict on an answer, in a few words."""
    colour = COLOURS[verdict.level]
    symbol = f'<span class="symbol" aria-hidden="true">{SYMBOLS[colour]}</span>'
    why = f": {'; '.join(verdict.clauses)}" if verdict.level != Level.GOOD else ""
    return f'<span class="{colour}">{symbol} {escape(verdict.word + why)}</span>'


def quantile_cells(e: Mapping[str, Any]) -> list[str]:
    """Texts of the median and of its interval; dashes if the parameter exists in no draw.

    Each end is rounded to two significant digits of its distance from the median. The median is rounded to two
    significant digits of the smaller distance.
    """
    if e.get("exists", 1.0) <= 0:
        return ["–", "–"]
    middle, (low, high) = e["median"], e["interval"]
    if None in (middle, low, high):
        return [number(middle, None), f"{number(low, None)} to {number(high, None)}"]
    below, above = middle - low, high - middle
    width = min((w for w in (below, above) if w > 0), default=None)
    return [number(middle, width), f"{number(low, below or None)} to {number(high, above or None)}"]


def _corrected(e: Mapping[str, Any]) -> str:
    """Text of the corrected interval, with two significant digits of half its width; a dash if there is none."""
    if not e.get("corrected"):
        return "–"
    low, high = e["corrected"]["interval"]
    width = None if None in (low, high) or high <= low else (high - low) / 2
    return f"{number(low, width)} to {number(high, width)}"


def _moves(found: Mapping[str, Any], level: float) -> str:
    """Sentences that explain corrected intervals, and name those that moved by more than chance."""
    each = {name: e["corrected"] for name, e in found.items() if e.get("corrected")}
    if not each:
        return ""
    moved = [f"{n} by {c['moved']:.0%} of its width" for n, c in each.items() if c["moved"] > c["chance"]]
    local = " for data like these" if any(c["local"] for c in each.values()) else ""
    words = (
        f" Corrected intervals are those between the quantiles of the draws that held {percent(level)}{local} of the "
    )
    words += "truths of the fresh simulations; draws are left as they are. "
    return words + (f"Moved by more than chance: {', '.join(moved)}." if moved else "None moved by more than chance.")


def _words(run: Run, level: float) -> str:
    answer = run.answer
    scope = str(answer.get("scope") or "")
    parts = [f"{scope[:1].upper()}{scope[1:]}."] if scope else []
    parts += [f"Intervals are central and hold {percent(level)} of the posterior, unless another level is chosen."]
    if sometimes := [label_of(name, e) for name, e in run.numbers.items() if 0 < e.get("exists", 1.0) < 1]:
        parts.append(f"Numbers of {', '.join(sometimes)} are of the draws in which there is one.")
    parts += ["Bars show them within the central 98% of the prior."] if run.prior else []
    if answer.get("draws"):
        parts.append(f"{answer['draws']:,} draws, effective sample size {answer.get('ess') or 0:,.0f}.")
    if answer.get("log_evidence") is not None:
        error = answer.get("log_evidence_error")
        words = f"Log evidence {number(answer['log_evidence'], error)}" + (
            f" ± {number(error, error)}" if error else ""
        )
        sure = any(one.get("kind") == CONFIRMED for one in answer.get("checks") or ())
        parts.append(f"{words}." if sure else f"{words}; its constant is not confirmed.")
    if answer.get("amortised"):
        parts.append("In purple: the interval before draws were weighted.")
    return " ".join(parts)
