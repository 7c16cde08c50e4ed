"""write_report: a run folder -> one self-contained HTML page.

This is its table of contents; the parts are in `figures`. Everything is inline: no font, nothing fetched, one script of
our own that the page can be read without. What the folder lacks is left out with a sentence that says so.
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
_PAIRS = 190  # panels of two parameters on a page, over all its answers


def write_report(
    folder: str | Path,
    *,
    truth: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
    beside: Others | None = None,
) -> Path:
    """Write `report.html` into a run folder: the newest answer to each observation.

    Of an answer that was refined, the one that it replaces has a page of its own, `answers/NAME/report.html`.

    Args:
        folder: What `sciinf infer`, `sciinf run` or the steps themselves wrote.
        truth: Parameter -> true value, a number in its unit or a quantity of astropy, where the observation was
            simulated; drawn as lines.
        names: Of which observations, by the names of their answers; all when left out.
        beside: What another answer is called -> it, or the run folder that it is in: it stands beside the answer, with
            what tells them apart, on this page alone. Those that were given to `query` stand on every page.

    Returns:
        The page.

    Raises:
        FileNotFoundError: If the folder holds nothing to report on.
        ValueError: If `truth` names a parameter that the answer does not have, or there is no answer of a name; or one
            that is to stand beside it has no parameter of the same name, or one in another unit.
    """
    folder = Path(folder)
    newest = newest_answers(folder)
    for name, place in answer_folders(folder).items():
        if newest[name] != place and name in (names or [name]):
            _written(read_runs(folder, [name], replaced=True), place, truth, None)
    return _written(read_runs(folder, names), folder, truth, beside)


def _written(runs: Mapping[str, Run], folder: Path, truth: Mapping[str, Any] | None, beside: Others | None) -> Path:
    """Write the page of some answers into a folder."""
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
    """Files that are damaged, and those that nothing vouches for."""
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
    """One answer; the script finds its data by the index."""
    return f'<article class="answer" data-answer="{index}" data-level="{numbers.asked}">{content}</article>'


def _answer(run: Run, numbers: PosteriorNumbers, verdict: Verdict, posterior: str, made: str, unlike: str = "") -> str:
    """Prediction and corner on the left, numbers and checks on the right.

    Args:
        run: The run with the answer.
        numbers: Its numbers.
        verdict: What its checks say.
        posterior: The corner, as markup.
        made: What stands below the checks, as markup.
        unlike: Goes before identifiers, where the page has several answers.
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
    """Observables that are one number at each time -> unit and values."""
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
    """One table of all answers, then each by itself, the first of them with their pictures; the script shows one."""
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
