"""Flows predicted after ten epochs of training, and what the equation alone makes of the predictions.

    python benchmarks/refinement.py                200 trajectories of 64 x 64 points, 8 refined (ten CPU minutes)
    python benchmarks/refinement.py --quick        32 x 32 points, 4 refined

Of two-dimensional flows with viscosities from 4e-4 to 4e-3 that start smoothly (spectrum (|k|^2 + 49)^-4) and run to
t = 8 in 13 frames: root mean squares of residuals in the norm of order -1, before and after; errors against the solver;
CPU seconds of a refinement. "untrained": the same from a network that has only just been built. "rough": trained
networks on flows that start as in the literature, whose fine structures decay within the first frame.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, arguments, check, finish
from torch import Tensor

from sciinf import Recipe, load_simulator, simulate, train
from sciinf.core import Surrogate
from sciinf.emulators.spectral_refiner import SpectralRefiner, refine
from sciinf.simulators.dynamics.field_equation import Evolution
from sciinf.simulators.dynamics.random_field import RandomField

END, FRAMES, EPOCHS, TRAJECTORIES = 8.0, 13, 10, 200
SMOOTH, ROUGH = 4.0, 2.5  # alpha of the start's spectrum


def main() -> None:
    """Print the table."""
    options = arguments(str(__doc__).splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows, checks = section(Path(folder), quick=options.quick, seed=options.seed)
    finish(rows, checks, options.json)


def section(folder: Path, *, quick: bool, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and checks.

    Args:
        folder: Where simulations and the training go.
        quick: Whether on 32 x 32 points.
        seed: Of all.
    """
    points, count = (32, 4) if quick else (64, 8)
    equation = flow(points, SMOOTH)
    store = simulate(equation, folder / "store", TRAJECTORIES, seed=seed)
    untrained = SpectralRefiner(equation.prior, equation.observables, width=12, seed=seed)
    started = time.process_time()
    trained = train(untrained, store, folder / "fit", recipe=Recipe(epochs=EPOCHS), seed=seed).surrogate
    epoch = (time.process_time() - started) / EPOCHS
    rows = []
    for name, surrogate, alpha in (("trained", trained, SMOOTH), ("untrained", untrained, SMOOTH)):
        rows += refined(name, surrogate, flow(points, alpha), count, seed)
    rows += refined("rough", trained, flow(points, ROUGH), count, seed)
    own = [row for row in rows if row["start"] == "trained"]
    checks = [
        check("residual left, of what it was, worst", max(row["after"] / row["before"] for row in own), 0.01),
        check("error left, of what it was, worst", max(row["error_after"] / row["error_before"] for row in own), 0.6),
        check("CPU seconds of a refinement, in epochs", max(row["seconds"] for row in own) / epoch, 1.0),
    ]
    return [row | {"epoch_seconds": epoch} for row in rows], checks


def flow(points: int, alpha: float) -> Evolution:
    """Navier-Stokes with that start."""
    kind: Any = type(load_simulator(SIMULATORS / "pde" / "navier_stokes.py"))
    times = tuple(END * k / (FRAMES - 1) for k in range(FRAMES))
    return kind(points, times, RandomField(0.262, tau=7.0, alpha=alpha), dtype=torch.float64)


def refined(name: str, surrogate: Surrogate, equation: Evolution, count: int, seed: int) -> list[dict[str, Any]]:
    """A row for each of some flows that no training has seen."""
    source = torch.Generator().manual_seed(seed + 1_000_000)
    theta = equation.prior.sample(count, generator=source).double()
    given, rows = equation.start(theta, generator=source), []
    for k in range(count):
        one, start = theta[k : k + 1], {key: value[k : k + 1] for key, value in given.items()}
        started = time.process_time()
        true = equation.solve(one, start)
        solver = time.process_time() - started
        with torch.no_grad():
            predicted = surrogate.predict(one, {key: value.float() for key, value in start.items()})
        started = time.process_time()
        found = refine(surrogate, equation, one, start)
        seconds = time.process_time() - started
        rows.append(
            {
                "start": name,
                "viscosity": float(one[0, 0]),
                "before": float(found.before),
                "after": float(found.after),
                "error_before": relative(predicted, true),
                "error_after": relative(found.solution, true),
                "steps": found.steps,
                "seconds": seconds,
                "solver_seconds": solver,
            }
        )
    return rows


def relative(found: Tensor, true: Tensor) -> float:
    """Norm of the difference over that of the truth."""
    return float((found - true).norm() / true.norm())


if __name__ == "__main__":
    main()
