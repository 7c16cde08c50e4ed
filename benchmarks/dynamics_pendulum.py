"""A pendulum with friction that nobody told of: forecasts by what is known, by what is learned, and by both.

Used by `dynamics_neural.py`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from dynamics_learning import trained
from reporting import check
from torch import Tensor

from sciinf import Observable, Prior, Recipe, Simulator
from sciinf.core import X
from sciinf.emulators import LatentDynamics
from sciinf.emulators.processes import NeuralSDE

Rows = list[dict[str, Any]]


class Pendulum(Simulator):
    """An angle that swings, with friction: d^2a/dt^2 = -sin a - 0.1 v - 0.1 v |v|, seen 24 times in two periods."""

    name = "pendulum"
    count, step = 24, 4 * math.pi / 24  # s

    def __init__(self) -> None:
        self.prior = Prior.none()
        self.observables = {
            "x": Observable((self.count, 1), "rad", dims=("time", "channel")),
            "x_times": Observable((self.count,), "s", dtype="float64", dims=("time",)),
        }

    def swing(self, rows: int, count: int, *, generator: torch.Generator) -> Tensor:
        """Angles without errors, (row, count)."""
        state = torch.randn(rows, 2, generator=generator, dtype=torch.float64) * torch.tensor([1.2, 0.5])
        angles, h = [state[:, 0]], self.step / 20
        for k in range(1, 20 * (count - 1) + 1):
            half = state + h / 2 * _rubbed(state)
            state = state + h * _rubbed(half)
            if k % 20 == 0:
                angles.append(state[:, 0])
        return torch.stack(angles, 1).float()

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        angle = self.swing(len(theta), self.count, generator=generator)
        seen = angle + 0.03 * torch.randn(angle.shape, generator=generator)
        return {"x": seen[..., None], "x_times": self.times(len(theta), self.count)}

    def times(self, rows: int, count: int) -> Tensor:
        """The same for all rows."""
        return (self.step * torch.arange(count, dtype=torch.float64)).expand(rows, -1)


def _rubbed(state: Tensor) -> Tensor:
    angle, speed = state.unbind(-1)
    return torch.stack([speed, -angle.sin() - 0.1 * speed - 0.1 * speed * speed.abs()], -1)


def swinging(theta: Any, z: Tensor, t: Tensor) -> Tensor:
    """What is known of it: no friction."""
    return torch.stack([z[:, 1], -z[:, 0].sin()], -1)


def pendulum(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Two more periods, forecast by what is known, by what was learned, and by both."""
    simulator, g = Pendulum(), torch.Generator().manual_seed(7)
    truth, count = simulator.swing(200, 2 * simulator.count, generator=g), simulator.count
    seen = truth + 0.03 * torch.randn(truth.shape, generator=g)
    there = torch.arange(2 * count).expand(200, -1) < count
    x = {"x": torch.where(there, seen, 0.0)[..., None], "x_mask": there, "x_times": simulator.times(200, 2 * count)}
    kinds = {
        "known drift alone": NeuralSDE(2, known=swinging, unknown=(), steps=1),
        "neural drift": NeuralSDE(2, steps=1),
        "known drift and a learned part": NeuralSDE(2, known=swinging, unknown=(1,), steps=1),
    }
    steps = 60 if options.quick else 250
    recipe = Recipe(
        epochs=steps,
        batch=90,
        learning_rate=0.015,
        optimiser="adamw",
        weight_decay=0.0,
        ema=0.0,
        patience=steps,
    )
    fitted = _by_least_squares(simulator, seen[:, :count], 2 * count)[:, count:]
    off = {"known drift, start by least squares": float((fitted - truth[:, count:]).square().mean().sqrt())}
    rows = [{"pendulum, two more periods": name, "RMSE (rad)": value} for name, value in off.items()]
    for name, process in kinds.items():
        made = LatentDynamics(simulator.prior, simulator.observables, process, width=0, columns=(0,))
        learned, _, spent = trained(simulator, made, out / name.replace(" ", "_"), 100, recipe)
        own = torch.Generator().manual_seed(0)
        draws = [learned.latent(torch.zeros(200, 0), x, generator=own)[:, count:, 0] for _ in range(16)]
        found = torch.stack(draws)
        off[name] = float((found.mean(0) - truth[:, count:]).square().mean().sqrt())
        ratio = float(found.std(0).square().mean().sqrt()) / off[name]
        rows.append(
            {"pendulum, two more periods": name, "RMSE (rad)": off[name], "spread / error": ratio, "CPU s": spent}
        )
    squares, alone, neural, both = off.values()
    loose = 2.0 if options.quick else 1.0
    return rows, [
        check("pendulum: RMSE of both over that of the known drift", both / min(alone, squares), 0.5 * loose),
        check("pendulum: RMSE of both over that of the neural drift", both / neural, 0.7 * loose),
    ]


def _by_least_squares(simulator: Pendulum, seen: Tensor, count: int) -> Tensor:
    """Angles (row, count) of the known drift, from the start that comes nearest to what was seen of each row."""
    h = simulator.step / 4

    def swung(start: Tensor, number: int) -> Tensor:
        state, angles = start, [start[:, 0]]
        for k in range(1, 4 * (number - 1) + 1):
            middle = state + h / 2 * swinging({}, state, state)
            state = state + h * swinging({}, middle, state)
            if k % 4 == 0:
                angles.append(state[:, 0])
        return torch.stack(angles, 1)

    start = torch.stack([seen[:, 0], (seen[:, 1] - seen[:, 0]) / simulator.step], 1).requires_grad_()
    descent = torch.optim.LBFGS([start], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        descent.zero_grad()
        total = (swung(start, seen.shape[1]) - seen).square().sum()
        total.backward()
        return total

    descent.step(loss)
    return swung(start.detach(), count)
