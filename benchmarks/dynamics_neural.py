"""Hidden paths that a network learns, beside exact references: a part of `dynamics.py`.

"ornstein": a neural stochastic equation with a linear drift, on noisy values at irregular times, beside the exact
likelihood of its own chain of steps, and that of the equation that made the data. "hurst": the roughness of the noise,
learned with a neural drift from data whose motion was drawn by its exact covariance: printed, and not checked, for it
is not found. "pendulum": two more periods of a pendulum with friction, forecast by an equation without friction, by a
neural drift, and by both. "jumps": chains of 3 and 6 states, beside forward and backward with the likeliest rates.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from dynamics_hurst import covariance
from dynamics_jumps import jumps
from dynamics_learning import trained
from dynamics_pendulum import pendulum
from reporting import check
from torch import Tensor

from sciinf import Observable, Prior, Recipe, Simulator
from sciinf.core import X
from sciinf.emulators import LatentDynamics
from sciinf.emulators.processes import Fractional, NeuralSDE

Rows = list[dict[str, Any]]
NOISE = 0.3  # sd of what is seen, where the path has 0.7


def neural(options: Any, out: Path) -> tuple[Rows, Rows]:
    """All comparisons."""
    parts = {"ornstein": ornstein, "hurst": hurst, "pendulum": pendulum, "jumps": jumps}
    found = [part(options, out / name) for name, part in parts.items()]
    return [row for rows, _ in found for row in rows], [one for _, checks in found for one in checks]


class Ornstein(Simulator):
    """dz = -z dt + dW at 30 random times of each row's own in (0, 10), from its stationary law, seen with noise."""

    name = "ornstein"

    def __init__(self) -> None:
        self.prior = Prior.none()
        self.observables = {
            "x": Observable((30, 1), dims=("time", "channel")),
            "x_times": Observable((30,), dtype="float64", dims=("time",)),
        }

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        rows = len(theta)
        times = (10 * torch.rand(rows, 30, generator=generator, dtype=torch.float64)).sort(1).values
        white = torch.randn(rows, 30, generator=generator)
        kept = (-times.diff(dim=1, prepend=times[:, :1])).exp().float()
        states = [white[:, 0] * math.sqrt(0.5)]
        for k in range(1, 30):
            states.append(kept[:, k] * states[-1] + (0.5 * (1 - kept[:, k].square())).sqrt() * white[:, k])
        seen = torch.stack(states, 1) + NOISE * torch.randn(rows, 30, generator=generator)
        return {"x": seen[..., None], "x_times": times}


def ornstein(options: Any, out: Path) -> tuple[Rows, Rows]:
    """The bound of a linear drift, and exact likelihoods."""
    simulator, steps = Ornstein(), 2
    made = LatentDynamics(simulator.prior, simulator.observables, NeuralSDE(1, steps=steps, hidden=0), width=0)
    recipe = Recipe(
        epochs=10 if options.quick else 25,
        batch=128,
        learning_rate=0.015,
        optimiser="adamw",
        weight_decay=0.0,
        ema=0.0,
    )
    learned, fresh, spent = trained(simulator, made, out, 3_000, recipe)
    process, emission, none = learned.process, learned.emission, torch.zeros(1, 0)
    with torch.no_grad():
        own = torch.Generator().manual_seed(0)
        bounds = [learned.bound(fresh.theta, fresh.x, generator=own).mean() for _ in range(10)]
        tight = learned.bound(fresh.theta, fresh.x, generator=own, draws=20).mean()
        unit, scale = float(learned.inputs.step), float(emission.scale)
        mean, log_sd = (float(v) for v in process.start(none)[0])
        drift = (float(process.flow.direct.weight), float(process.flow.direct.bias))
        view = (float(learned.decoder.direct.weight), float(learned.decoder.direct.bias))
        noise, g = float(emission.log_sd.exp()), float(process.diffusion(none))
    times, x = learned.inputs.when(fresh.x).double(), emission.read(fresh.x["x"])[..., 0].double()
    own_chain = _kalman(times, x, drift, (g, steps), (mean, math.exp(2 * log_sd)), (*view, noise)) - 30 * math.log(
        scale
    )
    centred = fresh.x["x"][..., 0].double()
    truth = _kalman(fresh.x["x_times"], centred, (-1.0, 0.0), (1.0, 0), (0.0, 0.5), (1.0, 0.0, NOISE))
    bound = float(torch.stack(bounds).mean())
    rows = [
        {"30 values of an OU path": "nats a row", "bound": bound, "by 20 draws": float(tight)}
        | {"exact, same chain": own_chain, "exact, true equation": truth, "CPU s": spent},
        {"what was learned": "", "rate (1)": -drift[0] / unit, "sd of noise (1)": abs(view[0]) * g * scale / unit**0.5}
        | {"sd of errors (0.3)": noise * scale},
    ]
    gap = 1.0 if options.quick else 0.15
    checks = [check("OU: bound above the exact likelihood of its chain, nats a row", bound - own_chain, 0.0)]
    checks += [check("OU: bound below the exact likelihood of its chain, nats a row", own_chain - bound, gap)]
    return rows, [*checks, check("OU: bound below the true equation's likelihood, nats a row", truth - bound, 2 * gap)]


def _kalman(
    times: Tensor,
    x: Tensor,
    drift: tuple[float, float],
    noise: tuple[float, int],
    start: tuple[float, float],
    view: tuple[float, float, float],
) -> float:
    """Mean log likelihood of x = w z + b + error, dz = (a z + c) dt + g dW: exactly, or by steps of a `NeuralSDE`.

    Args:
        times: (row, T).
        x: (row, T).
        drift: a, c.
        noise: g, and how many steps there are between two times; 0 for the equation itself.
        start: Mean and variance at the first time.
        view: w, b and the sd of the error.
    """
    (a, c), (g, steps), (w, b, error) = drift, noise, view
    mean, variance = torch.full_like(x[:, 0], start[0]), torch.full_like(x[:, 0], start[1])
    total = torch.zeros_like(mean)
    for k in range(x.shape[1]):
        gap = times[:, k] - times[:, max(k - 1, 0)]
        if steps == 0:
            kept = (a * gap).exp()
            mean, variance = kept * mean + c / a * (kept - 1), kept**2 * variance + g**2 / (2 * a) * (kept**2 - 1)
        for _ in range(steps):
            h = gap / steps
            push = 1 + a * h / 2 * (1 + a * h / 3 * (1 + a * h / 4))
            mean = mean + h * push * (a * mean + c)
            variance = (1 + a * h * push) ** 2 * variance + g**2 * h
        spread, off = w**2 * variance + error**2, x[:, k] - w * mean - b
        total = total - 0.5 * (off**2 / spread + spread.log() + math.log(2 * math.pi))
        gain = w * variance / spread
        mean, variance = mean + gain * off, variance * (1 - gain * w)
    return float(total.mean())


class Rough(Simulator):
    """dz = -z dt + dB, B Riemann and Liouville's motion of H = 0.3, z(0) = 0, seen at 50 times, 0.02 apart."""

    name = "rough"
    hurst, count, fine = 0.3, 50, 4

    def __init__(self) -> None:
        self.prior = Prior.none()
        self.observables = {"x": Observable((self.count, 1), dims=("time", "channel"))}
        length, many = 1 / self.count / self.fine, (self.count - 1) * self.fine
        times = length * torch.arange(1, many + 1, dtype=torch.float64)
        motion = torch.linalg.cholesky(covariance(times, self.hurst))
        steps = motion.diff(dim=0, prepend=torch.zeros_like(motion[:1]))
        keeps = (1 - length / 2) / (1 + length / 2)  # of z in a fine step
        states = [steps[0] / (1 + length / 2)]
        for step in steps[1:]:
            states.append(keeps * states[-1] + step / (1 + length / 2))
        later = torch.stack(states)[self.fine - 1 :: self.fine].float()
        self.path = torch.cat([torch.zeros_like(later[:1]), later])

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        white = torch.randn(len(theta), self.path.shape[1], generator=generator)
        seen = white @ self.path.T
        return {"x": (seen + 0.02 * torch.randn(seen.shape, generator=generator))[..., None]}


def hurst(options: Any, out: Path) -> tuple[Rows, Rows]:
    """H, learned with a neural drift."""
    simulator = Rough()
    noise = Fractional(simulator.count - 1.0)
    made = LatentDynamics(simulator.prior, simulator.observables, NeuralSDE(1, noise=noise, steps=1), width=0)
    recipe = Recipe(
        epochs=4 if options.quick else 10,
        batch=128,
        learning_rate=0.015,
        optimiser="adamw",
        weight_decay=0.0,
        ema=0.0,
    )
    learned, _, spent = trained(simulator, made, out, 2_000, recipe)
    with torch.no_grad():
        found = float(learned.process.driver.index(torch.zeros(1, 0)))
    exact, plain = _likelihoods(simulator)
    rows = [{"H = 0.3, neural drift": "learned H (begins at 0.525)", "H": found, "CPU s": spent}]
    return [*rows, {"nats a row": "true law, less the likeliest relaxation by plain noise", "": exact - plain}], []


def _likelihoods(simulator: Rough) -> tuple[float, float]:
    """Mean log likelihoods of values, in nats a row: of the true law, and of an OU process from 0 with errors."""
    eye, times = torch.eye(simulator.count, dtype=torch.float64), torch.arange(simulator.count, dtype=torch.float64)
    times = times / simulator.count
    truth = simulator.path.double() @ simulator.path.double().T + 0.02**2 * eye

    def nats(law: Tensor) -> Tensor:
        much = torch.logdet(law) + torch.trace(torch.linalg.solve(law, truth))
        return -0.5 * (much + simulator.count * math.log(2 * math.pi))

    found = torch.tensor([1.0, 0.5, -3.0], dtype=torch.float64, requires_grad=True)  # logs: rate, noise, errors
    descent = torch.optim.LBFGS([found], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        descent.zero_grad()
        rate, noise, error = found.exp()
        apart, both = (times[:, None] - times).abs(), times[:, None] + times
        law = noise**2 / (2 * rate) * ((-rate * apart).exp() - (-rate * both).exp()) + error**2 * eye
        total = -nats(law)
        total.backward()
        return total

    descent.step(loss)
    return float(nats(truth)), -float(loss().detach())
