"""`sciinf train`: train an estimator from the command line, in one process or in several that torchrun started.

The command `sciinf calibrate`, which checks a fit, is here, too.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sciinf import build_posterior
from sciinf import calibrate as check
from sciinf import simulate as run_campaign
from sciinf.campaigns import Store
from sciinf.campaigns.campaign import Engine
from sciinf.core import Estimator
from sciinf.core.telling import ANSWER, keep_log, tell
from sciinf.diagnostics.failures import Failures
from sciinf.interfaces.asking import refined_by
from sciinf.interfaces.commands import steps
from sciinf.interfaces.commands.caller import CommandLine
from sciinf.interfaces.commands.run_folders import run_folder, run_of, tell_report_is_older
from sciinf.interfaces.commands.steps import tell_cost
from sciinf.interfaces.commands.until_calibrated import FRESH, ROWS, SimulationPlan, command_for, more_fresh
from sciinf.interfaces.commands.user_files import user_simulator


def calibrate_run(
    simulator: str,
    folder: str,
    n: int | None,
    *,
    workers: int | Literal["auto"],
    engine: Engine | None,
    device: str,
    accept_changes: bool,
) -> None:
    """Check a fit on fresh simulations, and print the verdict.

    Args:
        simulator: Path of the simulator's file.
        folder: The run folder.
        n: Number of fresh simulations; 10,000 when left out.
        workers: Number of processes that simulate, as in `simulate`.
        engine: Engine that simulates in their place, as in `simulate`.
        device: Device of the network and of the simulator.
        accept_changes: Whether the simulator's files may have changed since the run was made.

    Raises:
        ValueError: If the fit is of another simulator, or as `simulate` and `calibrate` do.
    """
    folder = run_of(folder)
    keep_log(Path(folder))
    sim, fit = user_simulator(simulator), steps.load_fit(folder, device, simulator)
    how: dict[str, Any] = {"device": device, "accept_changes": accept_changes}
    steps.same_simulator(sim, fit.simulator, f"the fit in {folder}", [Path(folder) / "simulations"], **how)
    started, seed = time.time(), int(fit.record["store"]["seed"]) + 1
    where, near = Path(folder) / "calibration_simulations", refined_by(Path(folder), device, sim)
    if near is not None and (where / "store.json").is_file():
        seed = Store(where).seed
    plan = SimulationPlan(int(fit.record["store"]["used"]), n or FRESH)
    law = near and near.mixture
    fresh = run_campaign(sim, where, plan.fresh, seed=seed, workers=workers, engine=engine, proposal=law, **how)
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


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `sciinf train`.

    Args:
        out: The run folder; the fit goes into its subfolder `fit`.
        estimator: Name of the estimator, or an estimator.
        device: Device of the network.
        seed: Seed of the training.
        accept_changes: Whether the simulator's files may have changed since the store was made.
        follow: Whether to begin while a campaign still fills the store.
    """

    out: str
    estimator: str | Estimator
    device: str
    seed: int
    accept_changes: bool
    follow: bool


def train_on_store(simulator: str, store: str, options: TrainOptions) -> None:
    """Train an estimator on a store, and print where the fit is.

    If several processes train together, the first one prints this and writes the files.

    Args:
        simulator: Path of the simulator's file.
        store: Folder of the simulations.
        options: Other options of the command.

    Raises:
        ValueError: If the store is of another simulator, or as `train` does.
        ConnectionError: If several processes train together, and one of them is gone.
    """
    from sciinf.training.launched import joined, launched

    try:
        # The processes join before anything else, so that only one of them reports an error.
        with joined(options.device) as group:
            _train(simulator, store, options, writes=group.first)
    except BaseException:
        if launched() > 1:  # The launcher ends all processes when one has gone; this one first reports its error.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise


def _train(simulator: str, store: str, options: TrainOptions, *, writes: bool) -> None:
    device, seed, follow = options.device, options.seed, options.follow
    sim, opened = user_simulator(simulator), Store(store)
    what, there = f"the store {store}", [opened.path] if len(opened) or not follow else []
    steps.same_simulator(sim, opened.simulator, what, there, accept_changes=options.accept_changes, device=device)
    started, where = time.time(), run_folder(options.out)
    built = steps.build(options.estimator, sim, seed)
    tell_cost(sim, opened.rows if follow else len(opened), estimator=built)
    fit = steps.train(built, opened, where, device, seed, follow=follow)
    if not writes:
        return
    steps.record(where, seed, started, sim, way_on="")
    tell(f"best validation loss {fit.record['best_validation_loss']:.4f}; fit in {fit.folder}", ANSWER)
