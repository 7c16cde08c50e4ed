"""`sciinf calibrate`: a fit checked from the command line."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sciinf import Store, build_posterior
from sciinf import calibrate as check
from sciinf import simulate as run_campaign
from sciinf.asking import refined_by
from sciinf.commands import steps
from sciinf.commands.caller import CommandLine
from sciinf.commands.run_folders import run_of, tell_report_is_older
from sciinf.commands.until_calibrated import FRESH, ROWS, Plan, command_for, more_fresh
from sciinf.commands.user_files import user_simulator
from sciinf.telling import ANSWER, keep_log, tell
from sciinf.trust.failures import Failures


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
    plan = Plan(int(fit.record["store"]["used"]), n or FRESH)
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
