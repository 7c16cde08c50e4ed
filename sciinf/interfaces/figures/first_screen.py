"""First screen of the report: the question, the verdict with the next command, and a mark for each finding."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np

from sciinf.core.findings import Level
from sciinf.core.verdict import Verdict
from sciinf.interfaces.figures.run_folder import Run
from sciinf.interfaces.figures.style import pretty_unit
from sciinf.interfaces.figures.verdicts import COLOURS, SYMBOLS, cards
from sciinf.interfaces.run_answers import ANSWERS, REFINED, answer_folders

_NAMED = 12


def title_of(run: Run, name: str) -> str:
    """Title of the page: the simulator's name, and the observation's name if there is one."""
    return f"{run.name}: {name}" if name and name != "answer" else run.name


def about(run: Run, count: int = 1) -> str:
    """Line that sums up the question: observation, simulator, simulations, posterior, date.

    Args:
        run: The run with the answer.
        count: Number of answers on the page.
    """
    files = [
        str(f).replace("\\", "/").rpartition("/")[2] for f in (run.answer.get("observation") or {}).get("files", ())
    ]
    parts = [f"{count} observations"] if count > 1 else [", ".join(files)] if files else []
    parts += [_values(run)] if run.checked else []
    source = (
        str((run.provenance.get("simulator") or {}).get("file", "")).replace("\\", "/").rstrip("/").rpartition("/")[2]
    )
    parts += [source] if source else []
    store = run.stores.get("simulations")
    rows = store.rows if store else (run.fit.get("store") or {}).get("rows")
    parts += [f"{rows:,} simulations"] if rows else []
    parts += [f"posterior: {run.answer['posterior']}"] if run.answer.get("posterior") else []
    return " · ".join([*parts, _date(run)])


def _values(run: Run) -> str:
    """Number of observed values and their unit, such as "50 values of v [mV]" or "16 of 21 values of counts"."""
    said = []
    for one in run.checked[:3]:
        unit = pretty_unit(one.unit)
        plural, seen = "" if one.observed.size == 1 else "s", int(np.isfinite(one.observed).sum())
        there = "" if seen == one.observed.size else f"{seen:,} of "
        said.append(f"{there}{one.observed.size:,} value{plural} of {one.name}" + (f" [{unit}]" if unit else ""))
    more = len(run.checked) - len(said)
    return ", ".join(said) + (f" and {more} more" if more else "")


def _date(run: Run) -> str:
    try:
        when = datetime.fromisoformat(str(run.provenance["started"]))
    except (KeyError, ValueError):
        answers = [f / "answer.json" for f in answer_folders(run.folder).values()]
        files = [*answers, *(run.folder / name for name in ("calibration.json", "fit/fit.json"))]
        times = [f.stat().st_mtime for f in files if f.is_file()]
        when = datetime.fromtimestamp(max(times), UTC) if times else datetime.now(UTC)
    return f"{when.day} {when:%B %Y}"


def verdict_part(run: Run, verdict: Verdict, key: str = "", page: Path | None = None) -> str:
    """HTML of the verdict on one answer.

    The verdict is a sentence. Below it stand the next command, a link between a refined answer and the earlier one, and
    a mark for each finding.

    Args:
        run: The run with the answer.
        verdict: Verdict on the answer.
        key: Anchor of the verdict if the page has several answers. The next command is then shown once for all answers.
        page: Folder that contains the page; the run's folder when left out.
    """
    way_on = "" if key or verdict.level == Level.GOOD else _next([run])
    shown = "".join(
        f'<li class="{one.colour}" title="{escape(one.state)}"><span class="symbol" aria-hidden="true">'
        f"{SYMBOLS[one.colour]}</span>{escape(one.title.lower())}</li>"
        for one in cards(verdict)
    )
    return (
        f'<section class="verdict {COLOURS[verdict.level]}" id="{escape(key or "verdict")}" aria-label="Verdict">'
        f'<p class="headline">{escape(verdict.sentence)}</p>{way_on}{_elsewhere(run, page or run.folder)}'
        f'<ul class="lights">{shown}</ul></section>'
    )


def verdicts_part(runs: Mapping[str, Run], verdicts: Mapping[str, Verdict]) -> str:
    """HTML of the verdicts on several answers.

    The text says how many answers can be relied on, which answers have each other level, and the next commands.
    """
    by_level: dict[Level, list[str]] = {level: [] for level in reversed(Level)}
    for name, verdict in verdicts.items():
        by_level[verdict.level].append(name)
    said = f"{len(by_level[Level.GOOD])} of {len(runs)} answers can be relied on."
    for level, names in by_level.items():
        of = "of" if level == Level.UNKNOWN else "on"
        said += f" {level.advice.capitalize()} {of} {_listed(names)}." if names else ""
    worst = max(verdict.level for verdict in verdicts.values())
    way_on = "" if worst == Level.GOOD else _next(runs.values())
    return (
        f'<section class="verdict {COLOURS[worst]}" id="verdict" aria-label="Verdict">'
        f'<p class="headline">{escape(said)}</p>{way_on}</section>'
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


_WAY_ON = re.compile(r"(?P<when>next[^:]*): (?P<what>.*?)(?P<cost> \((?:about|up to) [^()]*\))?")

_COMMAND = re.compile(r"sciinf |infer\(")  # A command starts like this. Any other text is a sentence.


def _next(runs: Iterable[Run]) -> str:
    """HTML of the next steps that the runs recommend, each once with its cost: a command or a sentence."""
    lines, said_by = [], (str(run.provenance.get("next") or "").splitlines() for run in runs)
    for place, line in enumerate(dict.fromkeys(line for said in said_by for line in said)):
        said = _WAY_ON.fullmatch(line)
        if said is None:
            continue
        when, what, cost = (escape(said[part] or "") for part in ("when", "what", "cost"))
        if _COMMAND.match(said["what"]):
            button = f' <button type="button" class="script" data-copy="next{place}">Copy</button>'
            shown = f'<code id="next{place}">{what}</code>{cost}{button}'
        else:
            shown = f"{what}{cost}" + ("" if what.endswith(".") else ".")
        lines.append(f'<p class="next">{when.capitalize()}: {shown}</p>')
    return "".join(lines)


def _elsewhere(run: Run, page: Path) -> str:
    """HTML link from a refined answer to the answer that it replaces, or from that answer to the refined one."""
    if run.folder.parent.name == REFINED:
        first = run.folder.parents[1] / ANSWERS / run.folder.name
        if not (first / "answer.json").is_file():
            return ""
        words, link, more = "Refined by simulations around this observation.", first, "the answer that it replaces"
    elif run.answer.get(REFINED):
        words, link, more = "This answer was refined by simulations around it.", run.folder, "the refined one"
    else:
        return ""
    href = escape(quote(os.path.relpath(link / "report.html", page).replace(os.sep, "/")))
    return f'<p class="elsewhere">{words} Read <a href="{href}">{more}</a>.</p>'
