r"""SIR: an epidemic in a population of a million, seen through ten samples of a thousand people.

    dS/dt = -beta S I / N,     dI/dt = beta S I / N - gamma I,     N = 10^6,   S(0) = N - 1,   I(0) = 1,
    log beta ~ N(log 0.4, 0.5^2),     log gamma ~ N(log 0.125, 0.2^2)     (per day),
    x_k ~ Binomial(1000, I(t_k) / N),     t_k = 0, 17, ..., 153 days.

Solved in (log S/N, log I/N) with 34 steps of the Runge-Kutta method an interval: the method's relative error is 1e-4 or
less; in float32, rounding adds up to 3e-4.

References: A contribution to the mathematical theory of epidemics (Kermack, McKendrick, 1927),
https://doi.org/10.1098/rspa.1927.0118; Benchmarking simulation-based inference, task T.9 (Lueckmann et al., 2021),
https://arxiv.org/abs/2101.04653; constants as in https://github.com/sbi-benchmark/sbibm
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

POPULATION = 1e6
SAMPLE = 1000.0
TIMES = tuple(17.0 * k for k in range(10))
STEPS = 34


class SIR(Simulator):
    """People found infected, of a thousand tested, every seventeen days."""

    name = "sir"
    prior = Prior(
        beta=(td.LogNormal(math.log(0.4), 0.5), "1/d"),
        gamma=(td.LogNormal(math.log(0.125), 0.2), "1/d"),
    )
    observables: Mapping[str, Observable] = {"x": Observable((10,), "", ("feature",))}
    block = 16384

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        infected = log_infected(theta).exp()
        return {"x": torch.binomial(torch.full_like(infected, SAMPLE), infected, generator=generator)}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        counts, rate = x["x"].to(theta), log_infected(theta)
        others = SAMPLE - counts
        ways = math.lgamma(SAMPLE + 1) - torch.lgamma(counts + 1) - torch.lgamma(others + 1)
        return (ways + counts * rate + others * torch.log1p(-rate.exp())).sum(-1)

    def observe(self, *paths: str | Path) -> dict[str, Tensor]:
        """The benchmark's `observation.csv`, columns data_1 to data_10."""
        found = read_observation({"data": self.observables["x"]}, *paths)
        return Observation({"x": found["data"]}, found.read)


def log_infected(theta: Tensor) -> Tensor:
    """Logarithm of I/N at the ten times for theta (batch, 2): (batch, 10), in theta's dtype, below zero."""
    beta, gamma = theta.unbind(-1)

    def field(_: float, logs: Tensor) -> Tensor:
        susceptible, infected = logs.exp().unbind()
        return torch.stack([-beta * infected, beta * susceptible - gamma])

    ones = torch.ones_like(beta)
    start = torch.stack([ones * math.log1p(-1 / POPULATION), ones * -math.log(POPULATION)])
    return rk4(field, start, TIMES, steps_per_interval=STEPS)[:, 1].T.clamp_max(-1e-6)


simulator = SIR()
