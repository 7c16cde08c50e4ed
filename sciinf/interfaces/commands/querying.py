"""`sciinf query`: ask a fitted run for answers, from the command line."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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


@dataclass(frozen=True, kw_only=True)
class QueryRunOptions:
    """Options of `sciinf query`.

    Args:
        table: Path of a table of all rows, for many observations; None for no table.
        column: Observable -> its name in the files.
        out: Folder of the answers; None for the run's own folder.
        without_simulator: Whether the network answers by itself, without the simulator.
        level: Level of the credible intervals, between 0 and 1.
        ess: Effective sample size to reach where the answer is corrected by a likelihood.
        budget: Largest number of draws for that.
        failures: How failed simulations are treated, as in `query`.
        as_json: Whether to print `answer.json` in place of the table.
        draws: File of the draws of a single answer; of many, the number of draws to keep of each row.
        seed: Seed of the draws.
        device: Device of the networks.
        accept_changes: Whether the simulator's files may have changed since the run was made.
    """

    table: str | None
    column: Mapping[str, str]
    out: str | None
    without_simulator: bool
    level: float
    ess: float
    budget: int
    failures: Literal["exclude", "outcome", "model"]
    as_json: bool
    draws: str | None
    seed: int
    device: str
    accept_changes: bool


def survey_run(folder: str, observations: str, simulator: str | None, options: QueryRunOptions) -> Answers:
    """Answer many observations by a fitted run, and print a summary.

    The answers are weighted by the simulator's likelihood only if the user named the simulator. The reason is that each
    row then takes as
    long as a single question.

    Args:
        folder: The run folder.
        observations: A folder of simulations, or a file with a row for each observation.
        simulator: Path of the simulator's file; None if the user named none.
        options: Other options of the command.

    Raises:
        click.UsageError: If options contradict each other.
        ValueError: As `query_all` does.
    """
    kept, started = _kept(options), time.time()
    if options.table is not None:
        check_table(options.table, options.out)
    out, run = own_folder(str(options.out)), Path(run_of(folder))
    keep_log(out.root)
    without = options.without_simulator or simulator is None
    with contextlib.redirect_stdout(sys.stderr):  # The answer must not contain what a simulator prints.
        sim, fit, _ = asked_with(
            str(run),
            simulator,
            without_simulator=without,
            accept_changes=options.accept_changes,
            device=options.device,
        )
        posterior = build_posterior(fit, sim, ess=options.ess, budget=options.budget)
        answers = query_all(
            posterior,
            observations,
            out,
            load_calibration(run) if (run / "calibration.json").is_file() else None,
            level=options.level,
            draws=max(_DRAWS, kept),
            kept=kept,
            seed=options.seed,
            failures=options.failures,
            run=run,
        )
        write_picture(answers, out.root / "summary.png")
    steps.record(out.root, options.seed, started, sim)
    if options.table is not None:
        write_answers(answers, options.table)
    tell(json_text(answers.about) if options.as_json else answers.summary(), ANSWER)
    return answers


def _kept(options: QueryRunOptions) -> int:
    """Number of draws to keep of each row, from the options; options that contradict each other are refused."""
    if options.out is None:
        raise click.UsageError("--observations takes a folder for the answers: --out DIR")
    if options.column:
        raise click.UsageError("--column is for --observation; in --observations, arrays are named as the observables")
    if options.draws is None:
        return 0
    if not str(options.draws).isdigit():
        raise click.UsageError(
            f"with --observations, --draws is how many draws of each row to keep, got {options.draws!r}"
        )
    return int(options.draws)


def query_run(folder: str, observation: Sequence[str], simulator: str | None, options: QueryRunOptions) -> list[Answer]:
    """Ask a fitted run for the answers to some observations, print them, and write the run's report again.

    Args:
        folder: The run folder.
        observation: Files of the observations.
        simulator: Path of the simulator's file. If None, the run's own simulator is used.
        options: Other options of the command.

    Raises:
        ValueError: If an observation does not fit the observables, or as `query` does.
    """
    if options.table is not None:
        raise ValueError("--table is of many observations (--observations); --draws writes the draws of a single one")
    draws = None if options.draws is None else Path(options.draws)
    if draws is not None:
        check_kind(draws)
    if draws is not None and not draws.parent.is_dir():
        raise ValueError(f"{draws}: the folder {draws.parent} does not exist")
    folder = run_of(folder)
    started, out = time.time(), None if options.out is None else Path(options.out)
    if out is None:
        keep_log(Path(folder))
    with contextlib.redirect_stdout(sys.stderr):  # The answer must not contain what a simulator prints.
        sim, fit, without = asked_with(
            folder,
            simulator,
            without_simulator=options.without_simulator,
            accept_changes=options.accept_changes,
            device=options.device,
        )
        known = fit.estimator.observables
        read = reading(sim, known, options.column, reader_options(sim, options_of_run(Path(folder))))
        asked = observations(known, read, observation)
        if draws is not None and len(asked) > 1:
            raise ValueError(f"--draws writes the draws of one observation, got {len(asked)}; ask for each by itself")
        posterior = build_posterior(fit, sim, ess=options.ess, budget=options.budget)
        how: dict[str, Any] = {"level": options.level, "failures": options.failures, "seed": options.seed}
        ask = functools.partial(ask_posterior, simulator=sim, **how)
        if out is not None:
            run_folder(str(out))
        answers = steps.answers_to(asked, asking(Path(folder), posterior, ask, options.device, sim, out))
    if draws is not None:
        write_draws(answers[0], draws)
    steps.record(out or Path(folder), options.seed, started, sim)
    tell_what_lacks(Path(folder), without)
    steps.report_of(out or Path(folder))
    tell(steps.json_of(answers) if options.as_json else table_of(answers), ANSWER)
    for line in next_steps(answers, {}).splitlines():
        tell(line)
    return answers
