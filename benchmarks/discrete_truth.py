"""What checks of discrete parameters find: false alarms on exact posteriors, faults that they see, models not listed.

Exact posteriors are those of `tests/nested.py`: two models of which one has a parameter more.

    python benchmarks/discrete_truth.py alarms [repetitions] [rows]   calibrations of an exact posterior, by verdict
    python benchmarks/discrete_truth.py power [repetitions] [rows]    shares of such with faults that are not passed
    python benchmarks/discrete_truth.py unlisted [records] [numbers]  data of models not listed, and of listed ones
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sciinf import calibrate, query, simulate
from sciinf.core import Calibration, X
from sciinf.diagnostics import recalibrate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from nested import Exact, Nested  # pyright: ignore[reportMissingImports]

ROWS = 5_000
FAULTS: dict[str, dict[str, float]] = {
    "log odds off by 0.4": {"odds": 0.4},
    "slope off by 0.15 sd": {"shift": 0.15},
    "log odds 1.7 times too large": {"sure": 1.7},
}


def calibrated(seed: int, rows: int, folder: Path, **fault: float) -> Calibration:
    """The calibration of a posterior with a fault, on simulations of its own."""
    simulator = Nested()
    store = simulate(simulator, folder / f"{seed}", rows, seed=seed, progress=False)
    return calibrate(Exact(simulator, **fault), store, rows=rows, seed=seed, progress=False, scores=[])


def alarms(repetitions: int, rows: int = ROWS) -> dict[str, int]:
    """How often an exact posterior passes, does not, or cannot be told, of so many campaigns."""
    with tempfile.TemporaryDirectory() as folder:
        states = [calibrated(seed, rows, Path(folder)).state for seed in range(repetitions)]
    return {state: states.count(state) for state in ("passed", "cannot tell", "not passed")}


def power(repetitions: int, rows: int = ROWS) -> dict[str, float]:
    """In which share of campaigns each fault is seen."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, fault in FAULTS.items():
            states = [calibrated(seed, rows, Path(folder), **fault).state for seed in range(repetitions)]
            found[name] = states.count("not passed") / repetitions
    return found


def _curve(s: Nested, size: Tensor) -> Tensor:
    return size * (s.t.square() - s.t.square().mean())


def _step(s: Nested, size: Tensor) -> Tensor:
    return size * (s.t.abs() < 0.4).double()


def _wave(s: Nested, size: Tensor) -> Tensor:
    return size * torch.sin(3 * torch.pi * s.t)


def _spike(s: Nested, size: Tensor) -> Tensor:
    return 2 * size * (torch.arange(s.numbers) == s.numbers // 3).double()


def _rough(s: Nested, size: Tensor) -> Tensor:
    return size * torch.where(torch.arange(s.numbers) % 2 == 0, 1.0, -1.0)


UNLISTED: dict[str, Callable[[Nested, Tensor], Tensor]] = {
    "curve": _curve,
    "step": _step,
    "wave": _wave,
    "spike": _spike,
    "rough": _rough,
}


def strange_records(simulator: Nested, kind: str, count: int, generator: torch.Generator) -> Tensor:
    """Data of a model that is not listed, of which a line leaves a chi-square of p < 1e-4, (count, n)."""
    from scipy.stats import chi2

    design = torch.stack([torch.ones_like(simulator.t), simulator.t], dim=1)
    left = torch.eye(simulator.numbers, dtype=torch.float64) - design @ torch.linalg.pinv(design)
    found = []
    while len(found) < count:
        theta = simulator.prior.sample(1, generator=generator)
        size = simulator.noise * (1.0 + 2.0 * torch.rand(1, generator=generator, dtype=torch.float64))
        noise = simulator.noise * torch.randn(simulator.numbers, generator=generator, dtype=torch.float64)
        x = simulator.means(theta)[0].double() + UNLISTED[kind](simulator, size) + noise
        squares = float((left @ x).square().sum()) / simulator.noise**2
        if chi2.sf(squares, simulator.numbers - 2) < 1e-4:
            found.append(x)
    return torch.stack(found).float()


def unlisted(records: int, numbers: int = 20) -> dict[str, dict[str, float]]:
    """In which share of records each check alarms: data of unlisted models, and twenty times as many of listed ones."""
    simulator, found = Nested(numbers, 0.5), dict[str, dict[str, float]]()
    posterior, generator = Exact(simulator), torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        store = simulate(simulator, Path(folder) / "fresh", ROWS, seed=1, progress=False)
        calibration = calibrate(posterior, store, progress=False, scores=[])
    listed = simulator(simulator.prior.sample(20 * records, generator=generator), generator=generator)["x"]
    data = {kind: strange_records(simulator, kind, records, generator) for kind in UNLISTED} | {"listed": listed}
    for kind, rows in data.items():
        counts: dict[str, int] = {}
        for seed, x in enumerate(rows):
            for name in _alarmed(posterior, {"x": x[None]}, calibration, simulator, seed):
                counts[name] = counts.get(name, 0) + 1
        found[kind] = {name: count / len(rows) for name, count in sorted(counts.items())}
    return found


def _alarmed(posterior: Exact, x: X, calibration: Calibration, simulator: Nested, seed: int) -> set[str]:
    answer = query(posterior, x, calibration=calibration, simulator=simulator, seed=seed, draws=2_000)
    own = {"trust"} if answer.trust.alarm else set()
    return own | {check.name for check in answer.checks if check.level == "alarm"}


def main() -> None:
    """Print what is asked for."""
    warnings.simplefilter("ignore")
    recalibrate._LEAST = 10**9  # levels alike for all data: nothing here asks for others, and learning them takes long
    what, count, *rows = sys.argv[1], *map(int, sys.argv[2:] or ["20"])
    began = time.process_time()
    found = {"alarms": alarms, "power": power, "unlisted": unlisted}[what](count, *rows)
    for name, value in found.items():
        print(f"{name}: {value}")
    print(f"{time.process_time() - began:.0f} CPU s")


if __name__ == "__main__":
    main()
