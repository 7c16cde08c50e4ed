"""`write_report`: write the answers of a run folder as one self-contained HTML page.

This file puts the parts of the page in order; the parts themselves are made in `figures`. Everything is inline: the
page has no font of its own, fetches nothing, and has one script of ours. The page can be read without the script. Where
the folder lacks something, a sentence says so in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from sciinf.core.files import write_bytes
from sciinf.core.quantities import truth_in
from sciinf.core.verdict import Verdict
from sciinf.interfaces.figures.answers import answer_words, answers_table, every_number, moved_words
from sciinf.interfaces.figures.beside import Others, beside_part, with_others
from sciinf.interfaces.figures.checks import calibration_pictures, checks_part
from sciinf.interfaces.figures.first_screen import about, title_of, verdict_part, verdicts_part
from sciinf.interfaces.figures.made import made_part
from sciinf.interfaces.figures.numbers import (
    PosteriorNumbers,
    level_choice,
    numbers_of,
    numbers_pictured,
    numbers_table,
)
from sciinf.interfaces.figures.page import absent, details, page, paragraph, section
from sciinf.interfaces.figures.paths import paths_part
from sciinf.interfaces.figures.posterior import MOST, posterior_part
from sciinf.interfaces.figures.prediction import prediction_part
from sciinf.interfaces.figures.probabilities import probabilities_part
from sciinf.interfaces.figures.run_folder import Run, read_runs
from sciinf.interfaces.figures.script_data import downloads, script_data
from sciinf.interfaces.figures.verdicts import verdict_of
from sciinf.interfaces.run_answers import answer_folders, newest_answers

_PICTURED = 8
_PAIRS = 190  # Largest number of two-parameter panels on a page, over all its answers.


def write_report(
    folder: str | Path,
    *,
    truth: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
    beside: Others | None = None,
) -> Path:
    """Write `report.html` into a run folder, with the newest answer to each observation.

    If an answer was refined, the earlier answer gets a page of its own, `answers/NAME/report.html`.

    Args:
        folder: The run folder, as written by `sciinf infer`, `sciinf run` or the single steps.
        truth: Parameter -> true value, for a simulated observation; drawn as lines. A value is a number in the
            parameter's unit, or an astropy quantity.
        names: Names of the answers to report; all answers when left out.
        beside: Other answers to compare with, on this page alone: label -> answer, or the run folder that holds it.
            Each is shown beside the answer, with the differences. Other answers that were given to `query` are shown on
            every page.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: If the folder holds nothing to report on.
        ValueError: If `truth` names a parameter that the answer does not have, or if there is no answer of one of the
            names. Also if an answer in `beside` has no parameter of the same name, or one in another unit.
    """
    folder = Path(folder)
    newest = newest_answers(folder)
    for name, place in answer_folders(folder).items():
        if newest[name] != place and name in (names or [name]):
            _written(read_runs(folder, [name], replaced=True), place, truth, None)
    return _written(read_runs(folder, names), folder, truth, beside)


def _written(runs: Mapping[str, Run], folder: Path, truth: Mapping[str, Any] | None, beside: Others | None) -> Path:
    """Write the page of some answers into a folder, and return its path."""
    runs = with_others(runs, beside) if beside else runs
    run = next((one for one in runs.values() if one.folder == folder), next(iter(runs.values())))
    known, labels = run.answer.get("parameters", {}), {name: one.values for name, one in run.probabilities.items()}
    truth = truth_in(truth, list(known), [known[name]["unit"] for name in known], labels)
    numbers = {name: numbers_of(one) for name, one in runs.items()}
    parts = (_one if len(runs) == 1 else _several)(runs, numbers, truth, folder)
    body = _doubts(runs.values()) + parts
    title = title_of(run, next(iter(runs)) if len(runs) == 1 else "")
    pictured = {name: (one, numbers[name]) for name, one in list(runs.items())[:_PICTURED]}
    html = page(title, about(run, len(runs)), body, script_data(pictured), _foot(run))
    path = folder / "report.html"
    write_bytes(path, html.encode())
    return path


def _doubts(runs: Iterable[Run]) -> str:
    """Markup that names the files that are damaged or cannot be checked; an empty text if there are none."""
    found = dict.fromkeys(doubt for run in runs for doubt in run.doubts)
    return absent(f"Not read, or not to be checked: {' '.join(found)}") if found else ""


def _one(
    runs: Mapping[str, Run], numbers: Mapping[str, PosteriorNumbers], truth: Mapping[str, float], folder: Path
) -> str:
    name, run = next(iter(runs.items()))
    verdict = verdict_of(run)
    posterior = posterior_part(run, numbers_pictured(run), truth, {}, compact=len(run.checked) > 2)
    made = section("made", "How it was made", made_part(run))
    parts = _answer(run, numbers[name], verdict, posterior, made)
    return verdict_part(run, verdict, page=folder) + _article(0, numbers[name], parts)


def _article(index: int, numbers: PosteriorNumbers, content: str) -> str:
    """Markup of one answer; the script of the page finds the answer's data by the index."""
    return f'<article class="answer" data-answer="{index}" data-level="{numbers.asked}">{content}</article>'


def _answer(run: Run, numbers: PosteriorNumbers, verdict: Verdict, posterior: str, made: str, unlike: str = "") -> str:
    """Markup of one answer: prediction and corner plot on the left, numbers and checks on the right.

    Args:
        run: The run with the answer.
        numbers: Numbers of the answer's parameters.
        verdict: Verdict that follows from the answer's checks.
        posterior: Markup of the corner plot.
        made: Markup that goes below the checks.
        unlike: Prefix that makes identifiers unique on a page of several answers; empty on a page of one answer.
    """
    predicted, checks = prediction_part(run, unlike), checks_part(run, verdict, pictures=not unlike)
    hidden = paths_part(run.paths, _seen(run), unlike) if run.paths else ""
    left = [
        section(f"{unlike}prediction", "Data and prediction", predicted, "prediction"),
        *([section(f"{unlike}paths", "Hidden paths", hidden, "paths")] if hidden else []),
        section(f"{unlike}posterior", "Posterior", posterior, "posterior"),
    ]
    right = [
        section(f"{unlike}numbers", "Answer", _numbers(run, numbers), "numbers", level_choice(numbers, unlike)),
        section(f"{unlike}checks", "Checks", checks, "checks"),
        made,
    ]
    return f'<div class="left">{"".join(left)}</div><div class="right">{"".join(right)}</div>'


def _seen(run: Run) -> dict[str, tuple[str, np.ndarray]]:
    """Observables with one number at each time: name -> unit and values."""
    return {one.name: (one.unit, one.observed) for one in run.checked if one.observed.ndim == 1}


def _numbers(run: Run, numbers: PosteriorNumbers) -> str:
    values = probabilities_part(run)
    if not numbers.names and not values:
        return absent(run.missing.get("answer", "The answer names no parameter."))
    more = details("All numbers", every_number(run) + paragraph(answer_words(run)))
    moved = moved_words(run)
    shown = values + numbers_table(run, numbers) + (paragraph(moved, "moved") if moved else "")
    return shown + beside_part(run) + more + downloads()


def _several(
    runs: Mapping[str, Run], numbers: Mapping[str, PosteriorNumbers], truth: Mapping[str, float], folder: Path
) -> str:
    """Markup of several answers: a table of all of them, then each answer by itself.

    The first `_PICTURED` answers have pictures. The script of the page shows one answer at a time.
    """
    run, verdicts = next(iter(runs.values())), {name: verdict_of(one) for name, one in runs.items()}
    articles, most, shown = [], MOST, dict(list(runs.items())[:_PICTURED])
    while most > 2 and len(shown) * most * (most - 1) / 2 > _PAIRS:
        most -= 1
    for index, (name, one) in enumerate(runs.items()):
        inside = f"<h2>{escape(name)}</h2>{verdict_part(one, verdicts[name], f'verdict{index}', folder)}"
        if index < _PICTURED:
            others = {key: other for key, other in shown.items() if key != name}
            posterior = posterior_part(one, numbers_pictured(one), truth, others, most=most, compact=True)
            inside += _answer(one, numbers[name], verdicts[name], posterior, "", f"answer{index}_")
        else:
            words = f"Pictures of the first {_PICTURED} are drawn; `sciinf report` with a name draws its own."
            inside += f'<div class="left">{_numbers(one, numbers[name])}{paragraph(words)}</div>'
        articles.append(_article(index, numbers[name], inside))
    calibration = details("Calibration", calibration_pictures(run))
    made = section("made", "How it was made", f'<div id="calibration">{calibration}</div>{made_part(run)}')
    answers = f'<section id="answers" aria-label="Answers">{answers_table(runs, verdicts)}</section>'
    return f'{verdicts_part(runs, verdicts)}{answers}<div class="together">{"".join(articles)}{made}</div>'


def _foot(run: Run) -> str:
    version = (run.provenance.get("versions") or run.fit.get("versions") or {}).get("sciinf", "")
    return (
        f"Written by sciinf{f' {version}' if version else ''} from the files in this folder. The page needs no network."
    )
