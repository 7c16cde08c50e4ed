"""Refine an answer that is not right at its observation, by rounds of simulations around it."""

from __future__ import annotations

import functools
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sciinf.commands import steps

if TYPE_CHECKING:
    from sciinf.commands.observations import Asked
    from sciinf.core import Answer, Fit, Simulator

ROUNDS = 5  # the first is what is there
FRESH = 500  # fresh simulations of the last region; each takes thousands of draws


def wrong_here(answer: Answer) -> bool:
    """Whether an answer was found not to be right at its observation."""
    from sciinf.trust.here import NAME

    return any(check.name == NAME and check.level == "alarm" for check in answer.checks)


def refine_all(sim: Simulator, fit: Fit, run: Path, wrong: Sequence[Asked], given: Mapping[str, Any]) -> None:
    """Refine the answers that are not right at their observations, or name the command that does."""
    from sciinf.core import DensityUnavailable

    if wrong and given["refine"] == "off":
        named = ", ".join(one.name for one in wrong)
        words = shlex.join(["sciinf", *sys.argv[1:]])
        click.echo(f"next, for {named}: {words} --refine auto (about as many simulations again, around each)", err=True)
        return
    for one in wrong:
        try:
            refine(sim, fit, run, one, given)
        except DensityUnavailable as error:
            click.echo(f"note: {one.name} cannot be refined: {error}", err=True)


def refine(sim: Simulator, fit: Fit, run: Path, one: Asked, given: Mapping[str, Any]) -> Path:
    """Four rounds of a quarter of the simulations each around one answer, in a run folder of their own.

    Args:
        sim: The simulator.
        fit: What was learned of the whole prior, the first of the rounds.
        run: Its run folder; the rounds go into its `refined/NAME`, and go on there when they were stopped.
        one: The observation.
        given: The options of `infer`.

    Returns:
        The folder, with the last round's fit, its calibration within the region, answer and report.
    """
    from sciinf import Store, calibrate, query, simulate
    from sciinf.inference.sequential import infer_sequentially
    from sciinf.training import Recipe

    started, seed, folder = time.time(), given["seed"], run / "refined" / one.name
    store = Store(run / "simulations")
    each = max(500, len(store) // (ROUNDS - 1))
    how: dict[str, Any] = {"workers": given["workers"], "device": given["device"]}
    click.echo(
        f"refining {one.name}: {ROUNDS - 1} rounds of {each:,} simulations around its answer, in {folder}", err=True
    )
    found = infer_sequentially(
        sim,
        one.x,
        folder / "rounds",
        rounds=ROUNDS,
        simulations=each,
        estimator=steps.build(given["estimator"], sim, seed),
        recipe=Recipe(device=given["device"]),
        seed=seed,
        first=(store, fit),
        **how,
    )
    shutil.copytree(folder / "rounds" / f"round_{ROUNDS}" / "fit", folder / "fit", dirs_exist_ok=True)
    fresh = folder / "calibration_simulations"
    checked = calibrate(
        found.local, simulate(sim, fresh, FRESH, seed=seed + 1, proposal=found.truncation, **how), folder
    )
    how = {name: given[name] for name in ("level", "failures", "seed")}
    ask = functools.partial(query, found, calibration=checked, simulator=sim, out=folder, **how)
    answer = ask(one.x, name=one.name, files=one.files)
    steps.finish(folder, {answer.name: answer}, seed=seed, started=started)
    return folder
