"""Fields given a start and what sensors see, against the exact law: a part of `generators.py`.

The linear equation with random forcing, 32 points, five frames after the start; points that sensors see are drawn
anew for each of the questions, anywhere in the five frames. "Sensors": a generator that has been shown such points in
training. "particles": one that has not, asked by `conditioned`. Means are off in sds of the exact law, sds over its
own, both over all points of all frames; milliseconds are of a question, with as many draws.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, check, clock
from torch import Tensor

from sciinf import Recipe, load_simulator, simulate, train
from sciinf.core import Batch, X
from sciinf.emulators import Frame, Generator, SensorReadings, conditioned
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.networks.diffusion.inverse import Measured

POINTS, TIMES, SD = 32, tuple(k / 10 for k in range(6)), 0.05
SEEN, DRAWS = (0, 6, 24), 200


def sensors(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of each way, by the number of points seen."""
    make: Any = type(load_simulator(SIMULATORS / "pde" / "forced_burgers.py"))
    equation, questions = make(POINTS, TIMES, steepening=0.0, longest=0.1), 4 if options.quick else 20
    store = simulate(equation, out / "store", 1_000 if options.quick else 4_000, seed=options.seed)
    draw = torch.Generator().manual_seed(options.seed + 7)
    theta = equation.prior.sample(questions, generator=draw)
    rows = Batch(theta, equation(theta, generator=draw))
    laws, spent = {}, {}
    for name, given in (("Sensors", [Frame(0), SensorReadings(max(SEEN), sd=SD)]), ("particles", [Frame(0)])):
        network, started = TokenTransformer(64, 4, heads=4), clock("cpu")
        made = Generator(equation.prior, equation.observables, given=given, network=network, seed=options.seed)
        recipe = Recipe(epochs=10) if options.quick else Recipe(epochs=60)
        laws[name] = train(made, store, out / name, recipe=recipe, seed=options.seed).surrogate
        spent[name] = clock("cpu") - started
    found = []
    for count in SEEN:
        seen, few = shown(rows.x["u"], count, draw), questions if count else 2
        for name, ask in (("Sensors", _amortised), ("particles", _by_particles)):
            asked = few if name == "Sensors" else min(few, 4)
            if not count and name == "particles":
                continue
            started, off, wide = clock("cpu"), 0.0, 0.0
            answers = [ask(laws[name], rows.rows(slice(k, k + 1)), cut(seen, k), draw) for k in range(asked)]
            each = 1000 * (clock("cpu") - started) / asked
            for k, drawn in enumerate(answers):
                mean, sd = exact(equation, rows.rows(slice(k, k + 1)), cut(seen, k))
                off += float(((drawn.mean(0) - mean) / sd).square().mean()) / asked
                wide += float((drawn.std(0) / sd).log().mean()) / asked
            row = {"by": name, "points seen": count, "means off": off**0.5, "sds": torch.tensor(wide).exp().item()}
            found.append(row | {"ms a question": each, "training s": spent[name]})
    slack, checks = 2.0 if options.quick else 1.0, []
    for row in found:
        words = f"sensors, {row['by']}, {row['points seen']} points"
        checks.append(check(f"{words}: means off", row["means off"], 0.5 * slack))
        checks.append(check(f"{words}: sds off by", abs(row["sds"] - 1), 0.3 * slack))
    return found, checks


def shown(frames: Tensor, count: int, draw: torch.Generator) -> dict[str, Tensor]:
    """So many points of each solution's frames after the first, with noise."""
    mask = torch.zeros_like(frames, dtype=torch.bool)
    order = torch.rand(frames[:, 1:].flatten(1).shape, generator=draw).argsort(1).argsort(1)
    mask[:, 1:] = (order < count).reshape(frames[:, 1:].shape)
    noise = SD * torch.randn(frames.shape, generator=draw)
    return {"sensors": torch.where(mask, frames + noise, 0.0), "sensors_mask": mask}


def cut(x: X, row: int) -> dict[str, Tensor]:
    """One row."""
    return {name: value[row : row + 1] for name, value in x.items()}


def _amortised(law: Any, row: Batch, seen: X, draw: torch.Generator) -> Tensor:
    given = {"initial": row.x["initial"], **seen}
    many = {name: value.expand(DRAWS, *value.shape[1:]) for name, value in given.items()}
    return law.sample(row.theta.expand(DRAWS, -1), many, generator=draw)[:, 1:, 0]


def _by_particles(law: Any, row: Batch, seen: X, draw: torch.Generator) -> Tensor:
    at = seen["sensors_mask"][0, 1:].flatten().nonzero()[:, 0]
    measured = Measured(lambda u: u.flatten(1)[:, at], seen["sensors"][0, 1:].flatten()[at], SD)
    given = {"initial": row.x["initial"]}
    found = conditioned(law, row.theta, given, measured, 4 * DRAWS, generator=draw, steps=100)
    return found.resample(DRAWS, generator=draw)[:, :, 0]


def exact(equation: Any, row: Batch, seen: X) -> tuple[Tensor, Tensor]:
    """Mean and sd, (frame, point): every mode is an Ornstein-Uhlenbeck process."""
    laws = [equation.law(row.theta, row.x["initial"], time) for time in TIMES[1:]]
    unit = torch.eye(POINTS, dtype=torch.float64)[:, None]
    blocks = [[torch.empty(0)] * len(laws) for _ in laws]
    for i, (_, early) in enumerate(laws):
        for j in range(i, len(laws)):
            lasting = (-row.theta[0, 0].double() * equation.grid.squared * (TIMES[1 + j] - TIMES[1 + i])).exp()
            blocks[i][j] = early[0] @ equation.grid.back(equation.grid.transformed(unit) * lasting)[:, 0]
            blocks[j][i] = blocks[i][j].mT
    covariance, mean = torch.cat([torch.cat(line, 1) for line in blocks]), torch.cat([m[0, 0] for m, _ in laws])
    at = seen["sensors_mask"][0, 1:].flatten().nonzero()[:, 0]
    y = seen["sensors"][0, 1:].flatten()[at].double()
    noisy = covariance[at][:, at] + SD**2 * torch.eye(len(at), dtype=torch.float64)
    gain = torch.linalg.solve(noisy, covariance[at]).mT
    left = (covariance - gain @ covariance[at]).diagonal().sqrt()
    return (mean + gain @ (y - mean[at])).unflatten(0, (-1, POINTS)), left.unflatten(0, (-1, POINTS))
