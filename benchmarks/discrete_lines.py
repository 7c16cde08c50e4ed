"""How many lines spectra have: a part of `discrete.py`, against tempered particles and dynesty (`line_references`)."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from line_references import MOST, nested, probabilities, tempered
from reporting import SIMULATORS, check, clock

from sciinf import Mixed, build_posterior, load_simulator, simulate, train


def lines(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Probabilities of 0 to 4 lines."""
    simulator: Any = load_simulator(SIMULATORS / "spectral_lines.py")
    store = simulate(simulator, out / "store", 20_000 if options.quick else 150_000, seed=options.seed)
    started = clock("cpu")
    fit: Any = train(
        Mixed(simulator.prior, simulator.observables, seed=options.seed), store, out / "fit", seed=options.seed
    )
    trained, records = clock("cpu") - started, 4 if options.quick else 20
    generator = torch.Generator().manual_seed(options.seed + 3)
    x = simulator(simulator.prior.sample(records, generator=generator), generator=generator)
    started = clock("cpu")
    evidence = np.array([_evidence(counts, 1_500, options.seed) for counts in x["counts"].numpy().astype(float)])
    spent = (clock("cpu") - started) / records
    truth = np.array([probabilities(row) for row in evidence])
    said = fit.estimator.condition(x).log_probabilities("lines").double().exp().numpy()
    again = np.array([_evidence(counts, 1_500, 1) for counts in x["counts"][:2].numpy().astype(float)])
    apart = np.abs(said - truth).sum(1) / 2
    noise = [
        float(np.abs(probabilities(a) - probabilities(b)).sum() / 2) for a, b in zip(again, evidence, strict=False)
    ]
    asked = _seconds(fit, {k: v[:1] for k, v in x.items()})
    peer, cost = _dynesty(x["counts"][0].numpy().astype(float), evidence[0], options)
    row = {"records": records, "training s": trained, "TV mean": float(apart.mean()), "TV max": float(apart.max())}
    row |= {"wall s a record": asked, "particles s": spent, "dynesty s": cost, "particles' own TV": max(noise)}
    wide = 5.0 if options.quick else 1.0
    return [row], [
        check("lines: mean total variation of P(n)", row["TV mean"], 0.05 * wide),
        check("lines: wall s for the answer of a record", asked, 1.0),
        check("lines: particles against dynesty, each log Z, in errors", peer, 4.0),
    ]


def _evidence(counts: np.ndarray, particles: int, seed: int) -> np.ndarray:
    return np.array([tempered(counts, n, particles, np.random.default_rng(seed)) for n in range(MOST + 1)])


def _seconds(fit: Any, x: dict[str, torch.Tensor]) -> float:
    """Wall seconds for 10,000 draws and the probabilities of one record."""
    posterior = build_posterior(fit)
    posterior.draw(x, 100, generator=torch.Generator().manual_seed(0))
    started = time.perf_counter()
    posterior.draw(x, 10_000, generator=torch.Generator().manual_seed(0))
    fit.estimator.condition(x).log_probabilities("lines")
    return time.perf_counter() - started


def _dynesty(counts: np.ndarray, evidence: np.ndarray, options: Any) -> tuple[float, float]:
    """The largest difference of the logarithms, in errors, of up to two lines (four without --quick); CPU s of all."""
    started, worst = clock("cpu"), 0.0
    for n in range(3 if options.quick else MOST + 1):
        value, error = nested(counts, n, 250, options.seed)
        worst = max(worst, abs(value - evidence[n]) / math.hypot(error, 0.1))
    return worst, clock("cpu") - started
