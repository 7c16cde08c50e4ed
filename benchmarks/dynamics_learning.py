"""Training of hidden paths, for `dynamics_neural.py` and its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reporting import clock

from sciinf import Recipe, Simulator, simulate, train
from sciinf.emulators import LatentDynamics


def trained(simulator: Simulator, made: LatentDynamics, out: Path, rows: int, recipe: Recipe) -> tuple[Any, Any, float]:
    """What was learned, 200 fresh rows, and the CPU seconds of the training."""
    store = simulate(simulator, out / "rows", rows, seed=0, progress=False)
    fresh = simulate(simulator, out / "fresh", 200, seed=9, progress=False).load()
    started = clock("cpu")
    fit = train(made, store, out / "fit", recipe=recipe, progress=False)
    return fit.surrogate, fresh, clock("cpu") - started
