"""The boarding school of 1978 as a jump process: a part of `dynamics.py`.

The weighted answer, from the first simulation on, beside a pseudo-marginal chain, the answer of the equations of the
same epidemic, and leaps of a quarter of a day in place of exact jumps, which must be told apart. `KNOWN` are mean and
sd by a filter that is no part of sciinf (1,920 draws of a Student-t law, 96 particles each, effective size 932). No
command here makes them again: what is computed here is the row "chain".
"""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, Rows, check, clock
from torch import Tensor

from sciinf import Flow, build_posterior, load_simulator, simulate, train, wrappers
from sciinf.core.simulator import load_module

NAMES = ("beta", "gamma", "phi_inv")
KNOWN = ((1.886, 0.504, 0.052), (0.160, 0.037, 0.052))
EQUATIONS = ((1.737, 0.541, 0.139), (0.054, 0.046, 0.077))  # `tests/simulators/test_influenza.py`
ESS = 2_000


def school(options: Any, out: Path) -> tuple[Rows, Rows]:
    """The answer, and what it is beside."""
    simulator: Any = load_simulator(SIMULATORS / "sir_jumps.py")
    pipeline = load_module(SIMULATORS.parent / "pipelines" / "boarding_school.py")
    x = {k: v[None] for k, v in simulator.observe(SIMULATORS / "influenza_1978.csv").items()}
    started = clock("cpu")
    store = simulate(simulator, out / "store", 20_000, seed=options.seed)
    fit: Any = train(
        Flow(simulator.prior, simulator.observables, seed=options.seed),
        store,
        out / "fit",
        recipe=pipeline.RECIPE,
        seed=options.seed,
    )
    learned = clock("cpu") - started
    ess = ESS // 4 if options.quick else ESS
    posterior = build_posterior(fit, simulator, ess=ess, budget=8 * ess)
    draws = _drawn(posterior, x, ess, options.seed)
    spent = clock("cpu") - started
    mean, sd = moments(draws.theta, draws.weights)
    weighted = {"draws": len(draws), "effective": draws.ess, "log Z": draws.log_evidence, "CPU s": spent}
    rows = [
        _row("weighted", mean, sd) | weighted,
        _row("known", *map(torch.tensor, KNOWN)),
        _row("equations", *map(torch.tensor, EQUATIONS)),
        _row("learned", *moments(*_learned(fit, x, options.seed))) | {"CPU s": learned},
    ]
    wide = 2.0 if options.quick else 1.0
    known, spread = map(torch.tensor, KNOWN)
    checks = [
        *(
            check(f"school: {n} off by, in sds", float(o), 0.1 * wide)
            for n, o in zip(NAMES, ((mean - known) / spread).abs(), strict=True)
        ),
        *(
            check(f"school: sd of {n} off by", abs(float(o) - 1), 0.1 * wide)
            for n, o in zip(NAMES, sd / spread, strict=True)
        ),
        check(f"school: {ess:,} / effective draws", ess / draws.ess, 1.0),
        check("school: CPU s, from the first simulation on", spent, 120.0),
        check("school: sd of beta by the equations / by jumps", EQUATIONS[1][0] / float(sd[0]), 0.5),
    ]
    more = _beside(simulator, fit, x, draws, options, (mean, sd))
    return rows + more[0], checks + more[1]


def _beside(simulator: Any, fit: Any, x: Any, draws: Any, options: Any, found: Any) -> tuple[Rows, Rows]:
    """Leaps that are too long, and a chain."""
    mean, sd = found
    model = sys.modules[type(simulator.model).__module__]
    short = wrappers.state_space(
        model.School(leap=0.25), simulator.prior, simulator.times, simulator.seen, begin=0.0, particles=64
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is another model than the one learned from is the point
        coarse = build_posterior(fit, short, ess=500, budget=4_000)
    leapt = _drawn(coarse, x, 500, options.seed)
    wrong = moments(leapt.theta, leapt.weights)
    rows = [
        _row("leaps of 1/4 day", *wrong) | {"draws": len(leapt), "effective": leapt.ess, "log Z": leapt.log_evidence}
    ]
    off, evidence = float((wrong[0] - mean)[1] / sd[1]), leapt.log_evidence - draws.log_evidence
    checks = [
        check("school: 0.2 / gamma by leaps of 1/4 day off by, in sds (a planted fault)", 0.2 / abs(off), 1.0),
        check("school: 1 / log evidence by leaps of 1/4 day off by (a planted fault)", 1 / abs(evidence), 1.0),
    ]
    if not options.quick:
        started = clock("cpu")
        chains, accepted = pseudo_marginal(simulator, x, draws, options.seed)
        at = moments(chains, torch.ones(len(chains)) / len(chains))
        rows.append(_row("chain", *at) | {"draws": len(chains), "CPU s": clock("cpu") - started, "accepted": accepted})
        worst = float(((at[0] - mean) / sd).abs().max())
        checks.append(check("school: worst mean off the chain's, in sds", worst, 0.15))
    return rows, checks


def pseudo_marginal(
    simulator: Any, x: Any, draws: Any, seed: int, count: int = 100, steps: int = 100
) -> tuple[Tensor, float]:
    """Metropolis' walks in the logarithms, with the estimate of the likelihood kept until a move is taken.

    They start from weighted draws; the first half is thrown away. Returns draws, and the share of moves taken.
    """
    g = torch.Generator().manual_seed(seed + 5)
    log = draws.theta.double().log()
    start = torch.multinomial(draws.weights.double(), count, replacement=True, generator=g)
    centre = (draws.weights.double()[:, None] * log).sum(0)
    spread = (log - centre).T @ (draws.weights.double()[:, None] * (log - centre))
    factor = torch.linalg.cholesky(spread) * 2.0 / math.sqrt(3)

    def target(z: Tensor) -> Tensor:
        theta = z.exp().float()
        return simulator.log_likelihood(theta, x).double() + simulator.prior.log_prob(theta) + z.sum(-1)

    now = log[start]
    here, kept, taken = target(now), [], 0.0
    for step in range(steps):
        ahead = now + torch.randn(count, 3, generator=g, dtype=torch.float64) @ factor.T
        there = target(ahead)
        moves = torch.rand(count, generator=g, dtype=torch.float64).log() < there - here
        now, here = torch.where(moves[:, None], ahead, now), torch.where(moves, there, here)
        taken += float(moves.double().mean()) / steps
        if step >= steps // 2:
            kept.append(now.exp())
    return torch.cat(kept), taken


def moments(theta: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and sd."""
    theta, weight = theta.double(), (weights / weights.sum()).double()[:, None]
    mean = (weight * theta).sum(0)
    return mean, (weight * (theta - mean).square()).sum(0).sqrt()


def _learned(fit: Any, x: Any, seed: int) -> tuple[Tensor, Tensor]:
    draws = build_posterior(fit).draw(x, 10_000, generator=torch.Generator().manual_seed(seed))
    return draws.theta, torch.ones(len(draws)) / len(draws)


def _drawn(posterior: Any, x: Any, n: int, seed: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return posterior.draw(x, n, generator=torch.Generator().manual_seed(seed))


def _row(name: str, mean: Tensor, sd: Tensor) -> dict[str, Any]:
    row: dict[str, Any] = {"school": name}
    for n, m, s in zip(NAMES, mean.tolist(), sd.tolist(), strict=True):
        row |= {n: m, f"+- {n}": s}
    return row | dict.fromkeys(("draws", "effective", "log Z", "CPU s", "accepted"), "-")
