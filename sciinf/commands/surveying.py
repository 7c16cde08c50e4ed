"""`sciinf query RUN --observations`: a fitted run asked about any number of observations."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sciinf import build_posterior
from sciinf.calibration import load_calibration
from sciinf.commands import steps
from sciinf.commands.remembered import asked_with
from sciinf.commands.run_folders import run_of
from sciinf.core.files import json_text
from sciinf.exports.answers_table import check_table, write_answers
from sciinf.figures.survey import write_picture
from sciinf.surveys.answers import Answers
from sciinf.surveys.asking import own_folder, query_all
from sciinf.telling import ANSWER, keep_log, tell

_DRAWS = 2_000


def survey_run(folder: str, observations: str, simulator: str | None, given: Mapping[str, Any]) -> Answers:
    """Ask, and print the summary.

    The simulator weights answers by its likelihood where it was named alone, for each row then takes as long as a
    question.

    Args:
        folder: The run.
        observations: A folder of simulations, or a file with a row for each observation.
        simulator: Path of its file, if it was named.
        given: Other options of the command.

    Raises:
        click.UsageError: If options do not go together.
        ValueError: As `query_all` does.
    """
    kept, started = _kept(given), time.time()
    if given["table"] is not None:
        check_table(given["table"], given["out"])
    out, run = own_folder(given["out"]), Path(run_of(folder))
    keep_log(out.root)
    without = given["without_simulator"] or simulator is None
    with contextlib.redirect_stdout(sys.stderr):  # what a simulator prints is no part of the answer
        sim, fit, _ = asked_with(str(run), simulator, {**given, "without_simulator": without})
        posterior = build_posterior(fit, sim, ess=given["ess"], budget=given["budget"])
        answers = query_all(
            posterior,
            observations,
            out,
            load_calibration(run) if (run / "calibration.json").is_file() else None,
            level=given["level"],
            draws=max(_DRAWS, kept),
            kept=kept,
            seed=given["seed"],
            failures=given["failures"],
            run=run,
        )
        write_picture(answers, out.root / "summary.png")
    steps.record(out.root, given["seed"], started, sim)
    if given["table"] is not None:
        write_answers(answers, given["table"])
    tell(json_text(answers.about) if given["as_json"] else answers.summary(), ANSWER)
    return answers


def _kept(given: Mapping[str, Any]) -> int:
    """How many draws of each row to keep."""
    if given["out"] is None:
        raise click.UsageError("--observations takes a folder for the answers: --out DIR")
    if given["column"]:
        raise click.UsageError("--column is for --observation; arrays of --observations are called as the observables")
    if given["draws"] is None:
        return 0
    if not str(given["draws"]).isdigit():
        raise click.UsageError(
            f"with --observations, --draws is how many draws of each row to keep, got {given['draws']!r}"
        )
    return int(given["draws"])
