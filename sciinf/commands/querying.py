"""`sciinf query`: a fitted run asked from the command line."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sciinf import build_posterior
from sciinf import query as ask_posterior
from sciinf.commands import steps
from sciinf.commands.caller import table_of
from sciinf.commands.next_steps import next_steps
from sciinf.commands.observations import observations, reader_options, reading
from sciinf.commands.refine import asking
from sciinf.commands.remembered import asked_with, options_of_run
from sciinf.commands.run_folders import run_folder, run_of, tell_what_lacks
from sciinf.core import Answer
from sciinf.exports.plain import check_kind, write_draws
from sciinf.telling import ANSWER, keep_log, tell


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
