"""`sciinf train`: an estimator trained from the command line, by one process or by several that torchrun started.

Also `sciinf calibrate`: a fit checked.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sciinf import Store, build_posterior
from sciinf import calibrate as check
from sciinf import simulate as run_campaign
from sciinf.core.telling import ANSWER, keep_log, tell
from sciinf.diagnostics.failures import Failures
from sciinf.interfaces.asking import refined_by
from sciinf.interfaces.commands import steps
from sciinf.interfaces.commands.caller import CommandLine
from sciinf.interfaces.commands.run_folders import run_folder, run_of, tell_report_is_older
from sciinf.interfaces.commands.steps import tell_cost
from sciinf.interfaces.commands.until_calibrated import FRESH, ROWS, SimulationPlan, command_for, more_fresh
from sciinf.interfaces.commands.user_files import user_simulator


def calibrate_run(simulator: str, folder: str, n: int | None, given: Mapping[str, Any]) -> None:
    """Check a fit on fresh simulations, and say the verdict.

    Args:
        simulator: Path of its file.
        folder: The run.
        n: Fresh simulations; 10,000 when left out.
        given: Other options of the command.

    Raises:
        ValueError: If the fit is of another simulator, or as `simulate` and `calibrate` do.
    """
    folder, device = run_of(folder), given["device"]
    keep_log(Path(folder))
    sim, fit = user_simulator(simulator), steps.load_fit(folder, device, simulator)
    how: dict[str, Any] = {"device": device, "accept_changes": given["accept_changes"]}
    steps.same_simulator(sim, fit.simulator, f"the fit in {folder}", [Path(folder) / "simulations"], **how)
    started, seed = time.time(), int(fit.record["store"]["seed"]) + 1
    where, near = Path(folder) / "calibration_simulations", refined_by(Path(folder), device, sim)
    if near is not None and (where / "store.json").is_file():
        seed = Store(where).seed
    plan = SimulationPlan(int(fit.record["store"]["used"]), n or FRESH)
    law = near and near.mixture
    fresh = run_campaign(
        sim, where, plan.fresh, seed=seed, workers=given["workers"], engine=given["engine"], proposal=law, **how
    )
    result = check(near.local if near else build_posterior(fit), fresh, folder, rows=n or ROWS)
    way_on = "" if result.passed else "next: train on more simulations, for an error that was seen stays"
    if result.state == "cannot tell":
        more = command_for(Path(folder), plan, more_fresh(plan, result), ("-n", "-n"), CommandLine())
        way_on = f"next: {more}"
    steps.record(Path(folder), seed, started, sim, way_on=way_on)
    tell(f"calibration {result.level.label}: {'; '.join(result.reasons)}", ANSWER)
    if way_on:
        tell(way_on, ANSWER)
    steps.tell_failures(Failures.from_tensors(result.reference), sim.prior)
    tell_report_is_older(Path(folder))


def train_on_store(simulator: str, store: str, given: Mapping[str, Any]) -> None:
    """Train, and say where the fit is; of several processes that train together the first one says and writes it.

    Args:
        simulator: Path of its file.
        store: Folder of the simulations.
        given: Other options of the command.

    Raises:
        ValueError: If the store is of another simulator, or as `train` does.
        ConnectionError: If processes were started to train together, and one of them is gone.
    """
    from sciinf.training.launched import joined, launched

    try:
        with joined(given["device"]) as group:  # first of all, so that of several only one tells of an error
            _train(simulator, store, given, writes=group.first)
    except BaseException:
        if launched() > 1:  # the launcher ends all when one has gone; what is to be said is said first
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise


def _train(simulator: str, store: str, given: Mapping[str, Any], *, writes: bool) -> None:
    device, seed, follow = given["device"], given["seed"], given["follow"]
    sim, opened = user_simulator(simulator), Store(store)
    what, there = f"the store {store}", [opened.path] if len(opened) or not follow else []
    steps.same_simulator(sim, opened.simulator, what, there, accept_changes=given["accept_changes"], device=device)
    started, where = time.time(), run_folder(given["out"])
    built = steps.build(given["estimator"], sim, seed)
    tell_cost(sim, opened.rows if follow else len(opened), estimator=built)
    fit = steps.train(built, opened, where, device, seed, follow=follow)
    if not writes:
        return
    steps.record(where, seed, started, sim, way_on="")
    tell(f"best validation loss {fit.record['best_validation_loss']:.4f}; fit in {fit.folder}", ANSWER)
