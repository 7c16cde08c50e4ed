"""How many lines spectra have: a part of `discrete.py`, against tempered particles and dynesty (`line_references`).

Two answers are compared with them: what the network says by itself, which needs no likelihood ("raw"), and what the
weights by the likelihood make of its draws ("corrected").
"""

from __future__ import annotations

import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from line_references import MOST, nested, probabilities, tempered
from reporting import SIMULATORS, check, clock

from sciinf import Mixed, Recipe, build_posterior, load_simulator, simulate, train
from sciinf.networks.summaries.spectrum import Spectrum

SIMULATIONS, DRAWS, MOST_DRAWS = 1_000_000, 10_000, 40_000
FEWER = 200_000  # with --quick; the network by itself is off by .30 after 20,000, .22 after 100,000 and .16 after these
RECIPE = Recipe(  # each simulation is seen once: none can be learnt by heart
    epochs=1,
    batch=256,
    learning_rate=0.015,
    optimiser="muon",
    weight_decay=0.0,
    clip=1.0,
    ema=0.0,
    validation_fraction=0.02,
)


def lines(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Probabilities of 0 to 4 lines."""
    simulator: Any = load_simulator(SIMULATORS / "spectral_lines.py")
    store = simulate(simulator, out / "store", FEWER if options.quick else SIMULATIONS, seed=options.seed)
    estimator = Mixed(simulator.prior, simulator.observables, summary=Spectrum(), seed=options.seed)
    started = clock("cpu")
    fit: Any = train(estimator, store, out / "fit", recipe=RECIPE, seed=options.seed)
    trained, records = clock("cpu") - started, 4 if options.quick else 20
    generator = torch.Generator().manual_seed(options.seed + 3)
    x = simulator(simulator.prior.sample(records, generator=generator), generator=generator)
    started = clock("cpu")
    evidence = np.array([_evidence(counts, 1_500, options.seed) for counts in x["counts"].numpy().astype(float)])
    spent = (clock("cpu") - started) / records
    truth = np.array([probabilities(row) for row in evidence])
    again = np.array([_evidence(counts, 1_500, 1) for counts in x["counts"][:2].numpy().astype(float)])
    noise = [_apart(probabilities(a), truth[k]) for k, a in enumerate(again)]
    peer, cost = _dynesty(x["counts"][0].numpy().astype(float), evidence[0], options)

    said = fit.estimator.condition(x).log_probabilities("lines").double().exp().numpy()
    raw = np.array([_apart(*pair) for pair in zip(said, truth, strict=True)])
    weighed, shares, seconds = _corrected(fit, simulator, x, options.seed)
    corrected = np.array([_apart(*pair) for pair in zip(weighed, truth, strict=True)])
    asked = _seconds(fit, {k: v[:1] for k, v in x.items()})
    rows: list[dict[str, Any]] = [
        {"P(n) by": "network (raw)", "TV mean": float(raw.mean()), "TV max": float(raw.max()), "wall s": asked},
        {"P(n) by": "weights (corrected)", "TV mean": float(corrected.mean()), "TV max": float(corrected.max())},
        {"P(n) by": "particles", "TV mean": max(noise), "CPU s": spent},
        {"P(n) by": "dynesty", "CPU s": cost},
    ]
    rows[0] |= {"training s": trained, "records": records}
    rows[1] |= {"CPU s": seconds, "efficiency": float(np.median(shares)), "least": float(shares.min())}
    wide = 5.0 if options.quick else 1.0
    return rows, [
        check("lines: mean total variation of P(n), raw", rows[0]["TV mean"], 0.05 * wide),
        check("lines: mean total variation of P(n), corrected", rows[1]["TV mean"], 0.05 * wide),
        check("lines: wall s for the answer of a record, raw", asked, 1.0),
        check("lines: CPU s for the answer of a record, corrected", seconds, 1.0),
        check("lines: particles against dynesty, each log Z, in errors", peer, 4.0),
    ]


def _apart(p: np.ndarray, q: np.ndarray) -> float:
    """Their total variation."""
    return float(np.abs(p - q).sum() / 2)


def _corrected(fit: Any, simulator: Any, x: dict[str, torch.Tensor], seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """P(n) of each record by weights, the effective share of its draws, and CPU seconds a record."""
    posterior = build_posterior(fit, simulator, ess=1_000, budget=MOST_DRAWS)
    found, shares, started = list[Any](), list[float](), clock("cpu")
    for k in range(len(x["counts"])):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            generator = torch.Generator().manual_seed(seed + k)
            draws: Any = posterior.draw({"counts": x["counts"][k : k + 1]}, DRAWS, generator=generator)
        found.append([float(draws.weights[draws.theta[:, 0] == n].sum()) for n in range(MOST + 1)])
        shares.append(draws.ess / len(draws))
    return np.array(found), np.array(shares), (clock("cpu") - started) / len(found)


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
