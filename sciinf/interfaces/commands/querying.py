"""`sciinf query`: a fitted run asked from the command line."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sciinf import build_posterior
from sciinf import query as ask_posterior
from sciinf.core import Answer
from sciinf.core.files import json_text
from sciinf.core.telling import ANSWER, keep_log, tell
from sciinf.diagnostics.calibration import load_calibration
from sciinf.interfaces.commands import steps
from sciinf.interfaces.commands.caller import table_of
from sciinf.interfaces.commands.observations import observations, reader_options, reading
from sciinf.interfaces.commands.refine import asking
from sciinf.interfaces.commands.remembered import asked_with, options_of_run
from sciinf.interfaces.commands.run_folders import run_folder, run_of, tell_what_lacks
from sciinf.interfaces.commands.steps import next_steps
from sciinf.interfaces.exports.answers_table import check_table, write_answers
from sciinf.interfaces.exports.plain import check_kind, write_draws
from sciinf.interfaces.figures.survey import write_picture
from sciinf.interfaces.surveys.answers import Answers
from sciinf.interfaces.surveys.asking import own_folder, query_all

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


def query_run(folder: str, observation: Sequence[str], simulator: str | None, given: Mapping[str, Any]) -> list[Answer]:
    """Ask, print the answers, and renew the page of the run.

    Args:
        folder: The run.
        observation: Files of the observations.
        simulator: Path of its file; the run's own where None.
        given: Other options of the command.

    Raises:
        ValueError: If an observation does not fit, or as `query` does.
    """
    if given["table"] is not None:
        raise ValueError("--table is of many observations, --observations; --draws writes the draws of one")
    draws = None if given["draws"] is None else Path(given["draws"])
    if draws is not None:
        check_kind(draws)
    if draws is not None and not draws.parent.is_dir():
        raise ValueError(f"{draws}: the folder {draws.parent} does not exist")
    folder = run_of(folder)
    started, out = time.time(), None if given["out"] is None else Path(given["out"])
    if out is None:
        keep_log(Path(folder))
    with contextlib.redirect_stdout(sys.stderr):  # what a simulator prints is no part of the answer
        sim, fit, without = asked_with(folder, simulator, given)
        known = fit.estimator.observables
        read = reading(sim, known, given["column"], reader_options(sim, options_of_run(Path(folder))))
        asked = observations(known, read, observation)
        if draws is not None and len(asked) > 1:
            raise ValueError(f"--draws writes the draws of one observation, got {len(asked)}; ask for each by itself")
        posterior = build_posterior(fit, sim, ess=given["ess"], budget=given["budget"])
        wanted = {name: given[name] for name in ("level", "failures", "seed")}
        ask = functools.partial(ask_posterior, simulator=sim, **wanted)
        if out is not None:
            run_folder(str(out))
        answers = steps.answers_to(asked, asking(Path(folder), posterior, ask, given["device"], sim, out))
    if draws is not None:
        write_draws(answers[0], draws)
    steps.record(out or Path(folder), given["seed"], started, sim)
    tell_what_lacks(Path(folder), without)
    steps.report_of(out or Path(folder))
    tell(steps.json_of(answers) if given["as_json"] else table_of(answers), ANSWER)
    for line in next_steps(answers, {}).splitlines():
        tell(line)
    return answers
