"""`sciinf train`: an estimator trained from the command line, by one process or by several that torchrun started."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from typing import Any

from sciinf import Store
from sciinf.commands import steps
from sciinf.commands.costs import tell_cost
from sciinf.commands.run_folders import run_folder
from sciinf.commands.user_files import user_simulator
from sciinf.telling import ANSWER, tell


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
    from sciinf.engine.launched import joined, launched

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
