"""Hares and lynx without their likelihood: rounds around the answer to the real counts, beside reference draws."""

from __future__ import annotations

import json
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from asked_answers import verdict_at
from reporting import SIMULATORS, check
from torch import Tensor

from sciinf import Flow, build_posterior, load_simulator, refine_around, simulate, train
from sciinf.core import Posterior, X, as_observation

DRAWS, ROUNDS = 20_000, 3
PUBLISHED = "posteriordb/hudson_lynx_hare-lotka_volterra.draws.json.zip"
NAMES = ("theta[1]", "theta[2]", "theta[3]", "theta[4]", "z_init[1]", "z_init[2]", "sigma[1]", "sigma[2]")
OFF, NARROW, BROAD = 0.2, 0.85, 1.15


def published(data: Path) -> Tensor:
    """The reference draws of posteriordb, (n, 8).

    Args:
        data: The folder of reference posteriors.
    """
    with zipfile.ZipFile(data / PUBLISHED) as file:
        chains = json.loads(file.read(file.namelist()[0]))
    return torch.tensor([[v for chain in chains for v in chain[name]] for name in NAMES], dtype=torch.float64).T


def hares(data: Path, simulations: tuple[int, int], seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the first answer and the refined one; what they must show.

    Args:
        data: The folder of reference posteriors.
        simulations: From the prior, and of each round.
        seed: Of everything.
    """
    right, simulator = published(data), load_simulator(SIMULATORS / "lotka_volterra.py")
    x = as_observation(simulator.observables, simulator.observe(SIMULATORS / "hudson_bay.csv"))
    with tempfile.TemporaryDirectory() as name:
        folder, started = Path(name), time.process_time()
        store = simulate(simulator, folder / "s", simulations[0], seed=seed, progress=False)
        fit = train(Flow(simulator.prior, simulator.observables, seed=seed), store, folder / "f", seed=seed)
        first = build_posterior(fit)
        rows = [_row("first", first, x, right, time.process_time() - started)]
        one = {key: value[0] for key, value in x.items()}
        how: dict[str, Any] = {"rounds": ROUNDS, "simulations": simulations[1], "seed": seed}
        refined = refine_around(simulator, one, folder / "r", first, **how)
        rows.append(_row("refined", refined, x, right, time.process_time() - started))
        rows[1]["local check"] = verdict_at(refined, simulator, x, torch.Generator().manual_seed(seed)).level
    off, ratios = rows[1]["off"], (rows[1]["narrowest"], rows[1]["broadest"])
    return rows, [
        check("hares, refined: largest error of a mean, sd", off, OFF),
        check("hares, refined: largest sd ratio", ratios[1], BROAD),
        check("hares, refined: largest inverse sd ratio", 1 / ratios[0], 1 / NARROW),
    ]


def _row(name: str, posterior: Posterior, x: X, right: Tensor, spent: float) -> dict[str, Any]:
    theta = posterior.draw(x, DRAWS, generator=torch.Generator().manual_seed(1)).theta.double()
    ratios = theta.std(0) / right.std(0)
    off = ((theta.mean(0) - right.mean(0)) / right.std(0)).abs()
    found = {"off": float(off.max()), "narrowest": float(ratios.min()), "broadest": float(ratios.max())}
    return {"answer": name, **found, "local check": "-", "CPU s": spent}
