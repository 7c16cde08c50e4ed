"""Other answers beside an answer: a table of their estimates and distances, and a paragraph on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from sciinf.core.answer import Answer
from sciinf.core.beside import OtherAnswer, as_beside
from sciinf.core.estimates import estimate_from_json
from sciinf.core.tables import percent
from sciinf.interfaces.answer import load_answer
from sciinf.interfaces.figures.answers import quantile_cells
from sciinf.interfaces.figures.page import paragraph, table
from sciinf.interfaces.figures.run_folder import Run
from sciinf.interfaces.figures.style import pretty_unit
from sciinf.interfaces.run_answers import newest_answers

Others = Mapping[str, Answer | str | Path]
"""What another answer is called -> it, or the run folder that it is in."""


def with_others(runs: Mapping[str, Run], others: Others) -> dict[str, Run]:
    """Runs, each with further answers added beside its own answer.

    Args:
        runs: Name of each answer -> the run with that answer.
        others: Label -> further answer, or the run folder that holds it. Of a run folder, the answer of the same name
            is taken, or its only answer.

    Raises:
        FileNotFoundError: If a run folder among `others` holds no answer.
        ValueError: If one of the runs has no answer. Also if there are several answers, and it is unclear which further
            answer belongs to which. Also if the parameters of two answers cannot be compared.
    """
    found = {}
    for name, run in runs.items():
        if not run.answer:
            raise ValueError(f"{run.folder} holds no answer, so no other answer can be shown beside it")
        mine = load_answer(newest_answers(run.folder)[name])
        added = {label: as_beside(mine, _one(label, other, name, len(runs))) for label, other in others.items()}
        found[name] = replace(run, beside={**run.beside, **added})
    return found


def _one(label: str, other: Answer | str | Path, name: str, count: int) -> Answer:
    if isinstance(other, Answer):
        if count > 1:
            raise ValueError(
                f"{label!r} is one answer, and {count} are reported on: name the one that it stands beside"
            )
        return other
    known = newest_answers(other)
    if name not in known and count > 1 and len(known) > 0:
        raise ValueError(f"{other} has no answer called {name!r}, and {count} are reported on: name those that it has")
    return load_answer(other, name=name if name in known else None)


def beside_part(run: Run) -> str:
    """HTML of the other answers beside the answer of a run; "" if there are none."""
    if not run.beside:
        return ""
    mine = {name: estimate_from_json(e) for name, e in (run.answer.get("parameters") or {}).items()}
    ess = float(run.answer.get("ess") or 1.0)
    rows, said = [], []
    for name, e in mine.items():
        of = {label: other for label, other in run.beside.items() if name in other.parameters}
        if not of or not e.cells():
            continue
        unit = pretty_unit(e.unit)
        rows.append([f"{name} [{unit}]" if unit else name, _shown(e.to_json()), "", ""])
        for label, other in of.items():
            here, there, ratio = next(cells for known, cells, _ in other.rows(mine, ess) if known == name)
            off = f"{here} / {there}".replace("-", "−") if here != "-" else "–"
            rows.append([label, _shown(other.parameters[name].to_json()), off, ratio.replace("-", "–")])
    for label, other in run.beside.items():
        words = [f"{n}: {e.words(n)}." for n, e in other.parameters.items() if e.words(n)]
        said.append(_said(label, other, " ".join([other.words(mine, ess), *words])))
    head = ["parameter", f"median, {percent(run.level)}", "off, in sds here / its own", "sd ratio"]
    numbers = table(head, rows, ["", "markup", "n", "n"]) if rows else ""
    title = f"<h3>Beside other answers</h3>{paragraph(_WARNING, 'caption')}"
    return f'<div class="others">{title}{numbers}{"".join(said)}</div>'


_WARNING = (
    "Other posteriors, each by itself. Nothing of this answer was taken from them, and the two are not one. Small: "
)
_WARNING += "the ends of the interval."


def _shown(estimate: Mapping[str, Any]) -> str:
    """HTML of a median and the two ends of its interval."""
    middle, interval = quantile_cells(estimate)
    low, _, high = interval.partition(" to ")
    ends = f'<span class="ends"><span>{escape(high)}</span> <span>{escape(low)}</span></span>'
    return f'<span class="value">{escape(middle)}{ends if high else ""}</span>'


def _said(label: str, other: OtherAnswer, words: str) -> str:
    """HTML paragraph about one other answer.

    The paragraph is highlighted if the other answer has doubts, is not known to use the same data, or disagrees.
    """
    kind = "moved" if other.doubts or other.data != "same" or "DISAGREE" in words else "caption"
    return f'<p class="{kind}"><b>{escape(label)}</b>: {escape(words[:1].lower() + words[1:])}</p>'


__all__ = ["Others", "beside_part", "with_others"]
