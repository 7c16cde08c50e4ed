r"""Lotka-Volterra as the benchmark has it: predator and prey seen ten times in twenty days.

    dX/dt = alpha X - beta X Y,     dY/dt = -gamma Y + delta X Y,     X(0) = 30,   Y(0) = 1,
    log alpha, log gamma ~ N(-0.125, 0.5^2),     log beta, log delta ~ N(-3, 0.5^2)     (per day),
    log x ~ N(log z, 0.1^2),     z = (X(t_1), ..., X(t_10), Y(t_1), ..., Y(t_10)),     t = 0, 2.1, ..., 18.9 days,

z kept within 1e-10 and 1e4. Solved in (log X, log Y) with 168 steps of the Runge-Kutta method an interval: the method's
relative error is 1e-4 or less in all but one prior draw of two thousand (the sharpest peaks), where it stays far below
the noise.

References: Benchmarking simulation-based inference, task T.10 (Lueckmann et al., 2021), https://arxiv.org/abs/2101.04653;
constants as in https://github.com/sbi-benchmark/sbibm
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Observation, Prior, Simulator, X, read_observation
from sciinf.networks.ode import rk4

TIMES = tuple(2.1 * k for k in range(10))
STEPS = 168
SIGMA = 0.1
LOWEST, HIGHEST = math.log(1e-10), math.log(1e4)


class LotkaVolterraBenchmark(Simulator):
    """Prey at ten times, then predators at ten times."""

    name = "lotka_volterra_benchmark"
    prior = Prior(
        alpha=(td.LogNormal(-0.125, 0.5), "1/d"),
        beta=(td.LogNormal(-3.0, 0.5), "1/d"),
        gamma=(td.LogNormal(-0.125, 0.5), "1/d"),
        delta=(td.LogNormal(-3.0, 0.5), "1/d"),
    )
    observables: Mapping[str, Observable] = {"x": Observable((20,), "", ("feature",), scale="log")}
    block = 8192

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        logs = log_populations(theta)
        noise = torch.randn(logs.shape, generator=generator, dtype=theta.dtype, device=theta.device)
        return {"x": torch.exp(logs + SIGMA * noise)}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        logs = x["x"].to(theta).log()
        residual = (logs - log_populations(theta)) / SIGMA
        total = (-0.5 * residual**2 - logs - math.log(SIGMA * math.sqrt(2 * math.pi))).sum(-1)
        return torch.where(total.isnan(), -math.inf, total)

    def observe(self, *paths: str | Path) -> dict[str, Tensor]:
        """The benchmark's `observation.csv`, columns data_1 to data_20."""
        found = read_observation({"data": self.observables["x"]}, *paths)
        return Observation({"x": found["data"]}, found.read)


def log_populations(theta: Tensor) -> Tensor:
    """Logarithms of z for theta (batch, 4): (batch, 20), in theta's dtype."""
    alpha, beta, gamma, delta = theta.unbind(-1)
    growth, coupling = torch.stack([alpha, -gamma]), torch.stack([-beta, delta])

    def field(_: float, logs: Tensor) -> Tensor:
        return torch.addcmul(growth, coupling, logs.exp().flip(0))

    start = torch.stack([torch.full_like(alpha, math.log(30.0)), torch.zeros_like(alpha)])
    solved = rk4(field, start, TIMES, steps_per_interval=STEPS)
    return solved.permute(2, 1, 0).flatten(1).clamp(LOWEST, HIGHEST)


simulator = LotkaVolterraBenchmark()
