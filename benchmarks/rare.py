"""How probable events are by a generator, against the solver's own runs: a part of `generators.py`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, check, clock
from torch import Tensor

from sciinf import Recipe, load_simulator, simulate, train
from sciinf.diffusion.events import Event
from sciinf.nets.token_transformer import TokenTransformer
from sciinf.surrogates import Generator, conditioned

TIMES = tuple(k / 10 for k in range(11))
PROBABILITIES = (0.2, 0.03, 0.002)
PARTICLES = 1_000


def highest(frames: Tensor) -> Tensor:
    """The highest wave of the last frame."""
    return frames[:, -1, 0].amax(1)


def rare(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of log probabilities, and what they are to be."""
    make: Any = type(load_simulator(SIMULATORS / "pde" / "forced_burgers.py"))
    equation = make(32, TIMES)
    store = simulate(equation, out / "store", 1_000 if options.quick else 4_000, seed=options.seed)
    network, started = TokenTransformer(96, 4, heads=4), clock("cpu")
    made = Generator(equation.prior, equation.observables, network=network, seed=options.seed)  # AtOnce(), Joint()
    recipe = Recipe(epochs=30 if options.quick else 150)
    law: Any = train(made, store, out / "fit", recipe=recipe, seed=options.seed).surrogate
    spent = clock("cpu") - started
    draw = torch.Generator().manual_seed(options.seed + 1)
    rows, checks = [], []
    for number in range(2 if options.quick else 4):
        theta = equation.prior.sample(1, generator=draw)
        start = equation.start(theta, generator=draw)
        count = 10_000 if options.quick else 40_000
        runs = [
            highest(equation.solution(theta.expand(2_000, -1), repeated(start, 2_000), generator=draw))
            for _ in range(count // 2_000)
        ]
        true = torch.cat(runs).sort().values
        drawn = highest(law.sample(theta.expand(4_000, -1), repeated(start, 4_000), generator=draw))
        for probability in PROBABILITIES:
            level = float(true[int((1 - probability) * count)])
            started = clock("cpu")
            found = conditioned(law, theta, start, Event(highest, level), PARTICLES, generator=draw)
            inside = found.x[:, -1, 0].amax(1)
            rows.append(
                {
                    "start": number,
                    "P": probability,
                    "log P by particles": found.log_evidence,
                    "off": found.log_evidence - math.log(probability),
                    "said": found.error,
                    "4,000 draws": int((drawn > level).sum()) / 4_000,
                    "inside": float((inside > level).float() @ found.log_weight.exp()),
                    "least ESS": found.least,
                    "s": clock("cpu") - started,
                    "training s": spent,
                }
            )
    for probability in PROBABILITIES:
        off = [abs(row["off"]) for row in rows if row["P"] == probability]
        bound = (0.35 if probability > 0.01 else 0.7) * (2 if options.quick else 1)
        checks.append(check(f"rare, P = {probability}: log P off by, on average", sum(off) / len(off), bound))
    checks.append(check("rare: 0.95 / share of draws inside", 0.95 / min(row["inside"] for row in rows), 1.0))
    return rows, checks


def repeated(start: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    """The same start for n rows."""
    return {name: value.expand(n, *value.shape[1:]) for name, value in start.items()}
