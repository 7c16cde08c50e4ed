"""The first screen: what was asked, the verdict in one sentence with the next command, and the lights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from urllib.parse import quote

import numpy as np

from sciinf.figures.run_folder import Run
from sciinf.figures.style import pretty_unit
from sciinf.figures.verdicts import SYMBOLS, Colour, Verdict
from sciinf.storage.answers import REFINED, ROUNDS, ROUNDS_FILE, answer_folders, newest_answers

_NAMED = 12


def title_of(run: Run, name: str) -> str:
    """The simulator, and the observation where there is one."""
    return f"{run.name}: {name}" if name and name != "answer" else run.name


def about(run: Run, count: int = 1) -> str:
    """The question in a line: observation, simulator, simulations, posterior, date.

    Args:
        run: The run with the answer.
        count: How many answers are on the page.
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
    """How many numbers were observed, and in which unit: "50 values of v [mV]", "16 of 21 values of counts"."""
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


def verdict_part(run: Run, verdict: Verdict, name: str = "", key: str = "") -> str:
    """The verdict on one answer: a sentence, the next command, the lights, and where it was refined.

    Args:
        run: The run with the answer.
        verdict: What the checks say of it.
        name: What the answer is called.
        key: Its anchor, where the page has several; what to do next is then said for all of them.
    """
    way_on = "" if key or verdict.colour == "green" else _next(run)
    shown = "".join(
        f'<li class="{one.colour}"><span class="symbol" aria-hidden="true">{SYMBOLS[one.colour]}</span>'
        f"{escape(one.words)}</li>"
        for one in verdict.lights
    )
    return (
        f'<section class="verdict {verdict.colour}" id="{escape(key or "verdict")}" aria-label="Verdict">'
        f'<p class="headline">{escape(verdict.headline)}</p>{way_on}{_elsewhere(run, name)}'
        f'<ul class="lights">{shown}</ul></section>'
    )


def verdicts_part(runs: Mapping[str, Run], verdicts: Mapping[str, Verdict]) -> str:
    """The verdict on several answers: how many passed, which did not, and the next command."""
    by_colour: dict[Colour, list[str]] = {"red": [], "amber": [], "green": []}
    for name, verdict in verdicts.items():
        by_colour[verdict.colour].append(name)
    made = " that were made" if any(verdict.missing for verdict in verdicts.values()) else ""
    said = f"{len(by_colour['green'])} of {len(runs)} answers passed all checks{made}."
    said += f" Do not rely on {_listed(by_colour['red'])}." if by_colour["red"] else ""
    said += f" Read with care {_listed(by_colour['amber'])}." if by_colour["amber"] else ""
    refined = [name for name, run in runs.items() if run.answer.get(REFINED)]
    said += f" Refined since, each with a report of its own: {_listed(refined)}." if refined else ""
    worst = next(colour for colour, names in by_colour.items() if names)
    way_on = "" if worst == "green" else _next(next(iter(runs.values())))
    return (
        f'<section class="verdict {worst}" id="verdict" aria-label="Verdict"><p class="headline">{escape(said)}</p>'
        f"{way_on}</section>"
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


_WAY_ON = re.compile(r"(?P<when>next[^:]*): (?P<what>.*?)(?P<cost> \((?:about|up to) [^()]*\))?")

_COMMAND = re.compile(r"sciinf |infer\(")  # what is run; anything else is a sentence


def _next(run: Run) -> str:
    """What the run said to do next, with its cost: commands, or a sentence."""
    lines = []
    for place, line in enumerate(str(run.provenance.get("next") or "").splitlines()):
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


def _elsewhere(run: Run, name: str) -> str:
    """A link to the refined answer, or from a refined one to what it was refined from."""
    if run.folder.parent.name == REFINED and (run.folder / ROUNDS / ROUNDS_FILE).is_file():
        return (
            '<p class="elsewhere">Refined by simulations around this observation, from the answer of the whole prior: '
            '<a href="../../report.html">the report it began from</a>.</p>'
        )
    near = run.folder / REFINED / name
    refined = newest_answers(run.folder).get(name)
    if refined is not None and near in refined.parents and (near / "report.html").is_file():
        link = escape(f"{REFINED}/{quote(name)}/report.html")
        return (
            f'<p class="elsewhere">This answer was refined by simulations around it: <a href="{link}">read the refined '
            "one</a> in place of this.</p>"
        )
    return ""
