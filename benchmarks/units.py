"""Parameters in the units of the field: seconds of GPS time, Julian days, kilograms of a molecule, metres of a galaxy.

    python benchmarks/units.py            20,000 simulations in each unit
    python benchmarks/units.py --quick    5,000

The same model each time: t ~ N(loc, scale), two data t + N(0, (scale / 2)^2) each, whose posterior is a normal law that
is known. Shown is how far the posterior's mean is from it, in its standard deviations, and the ratio of the standard
deviations, the worst of five observations: as the network answers, and corrected by the likelihood. A mean of 40,000
draws is off by .005 sd by chance. The network must not do worse than it does in plain units.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import arguments, check, finish
from torch import distributions as td

from sciinf import Flow, Observable, Prior, Simulator, build_posterior, simulate, train, wrappers
from sciinf.posteriors.reweighted import Reweighted

UNITS = {
    "plain": (0.0, 1.0, ""),
    "GPS time": (1126259462.4, 0.1, "s"),
    "Julian date": (2460000.5, 0.01, "d"),
    "molecule": (1e-26, 1e-27, "kg"),
    "galaxy": (0.0, 1e20, "m"),
}
DATA, DRAWS, OBSERVATIONS = 2, 40_000, 5


def model(loc: float, scale: float, unit: str) -> Simulator:
    """The simulator in one unit; its data are float64, as GPS times must be."""
    noise = scale / 2

    def run(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return t[:, None] + noise * rng.normal(size=(len(t), DATA))

    def log_likelihood(t: np.ndarray, x: dict[str, np.ndarray]) -> np.ndarray:
        z = (x["x"] - t[:, None]) / noise
        return -0.5 * (z**2).sum(1) - DATA * math.log(noise * math.sqrt(2 * math.pi))

    law = td.Normal(torch.tensor(loc, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))
    spec = Observable((DATA,), unit, ("channel",), dtype="float64")
    return wrappers.numpy(
        run, Prior(t=(law, unit)), {"x": spec}, vectorised=True, log_likelihood=log_likelihood, name="clock"
    )


def exact(x: torch.Tensor, loc: float, scale: float) -> tuple[float, float]:
    """Mean and standard deviation of the posterior."""
    precision = 1 + 4 * DATA
    return loc + scale * 4 * float(((x - loc) / scale).sum()) / precision, scale / math.sqrt(precision)


def run(name: str, rows: int, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Mean and sd beside the exact ones, by the network and corrected."""
    loc, scale, unit = UNITS[name]
    simulator = model(loc, scale, unit)
    store = simulate(simulator, folder / "store", rows, seed=seed, progress=False)
    network = build_posterior(train(Flow(simulator.prior, simulator.observables, seed=seed), store, folder / "fit"))
    corrected = Reweighted(network, simulator, ess=DRAWS)
    observed = simulate(simulator, folder / "observed", OBSERVATIONS, seed=seed + 1, progress=False).load().x["x"]
    found = []
    for kind, posterior in (("network", network), ("corrected", corrected)):
        off, ratios = [], []
        for i, x in enumerate(observed):
            draws = posterior.draw({"x": x[None]}, DRAWS, generator=torch.Generator().manual_seed(i))
            mean, sd = exact(x, loc, scale)
            off.append(abs(float(draws.mean()[0]) - mean) / sd)
            ratios.append(float(draws.sd()[0]) / sd)
        worst = max(ratios, key=lambda ratio: abs(math.log(ratio)))
        found.append({"unit": name, "posterior": kind, "mean off, sd": max(off), "sd ratio": worst})
    return found


def main() -> None:
    """Run it."""
    torch.set_num_threads(1)
    options = arguments(str(__doc__).splitlines()[0]).parse_args()
    rows, checks = [], []
    for name in UNITS:
        with tempfile.TemporaryDirectory() as folder:
            rows += run(name, 5_000 if options.quick else 20_000, options.seed, Path(folder))
    plain = next(row for row in rows if row["posterior"] == "network")
    for row in rows:
        name, learned = f"{row['unit']}, {row['posterior']}", row["posterior"] == "network"
        mean, sd = (plain["mean off, sd"], abs(plain["sd ratio"] - 1)) if learned else (0.0, 0.0)
        bound = 0.1 if learned and options.quick else 0.02
        checks.append(check(f"{name}: mean off", row["mean off, sd"] - mean, bound))
        checks.append(check(f"{name}: sd off", abs(row["sd ratio"] - 1) - sd, bound))
    finish(rows, checks, options.json)


if __name__ == "__main__":
    main()
