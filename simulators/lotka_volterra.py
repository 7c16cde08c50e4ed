r"""Snowshoe hare and Canadian lynx at Hudson Bay, 1900 to 1920: the Lotka-Volterra model of predator and prey.

Hare u and lynx v, in thousands of pelts, follow

    du/dt = (alpha - beta v) u,     dv/dt = (-gamma + delta u) v,     u(0) = hare_0,  v(0) = lynx_0,

and the pelts counted in the years t = 0, 1, ..., 20 scatter around them log-normally, each species with its own sigma:

    log counts(t) ~ N((log u(t), log v(t)), diag(sigma_hare^2, sigma_lynx^2)).

The equations are solved in (log u, log v), where populations stay positive however deep they fall. 24 steps of the
Runge-Kutta method a year leave an error of 2e-5 in the logarithms around the posterior of the real data (float32), and
of more than 0.01 in one prior draw of a thousand. Some prior draws take a population through many decades; a simulated
count is kept within exp(-80) and exp(80), which float32 can hold. No such value comes near any real count.

References: Predator-Prey Population Dynamics: the Lotka-Volterra model in Stan (Carpenter, 2018),
https://mc-stan.org/users/documentation/case-studies/lotka-volterra-predator-prey.html;
data and reference posterior: posteriordb, hudson_lynx_hare-lotka_volterra, https://github.com/stan-dev/posteriordb
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Observation, Prior, Simulator, Truncated, X, read_observation
from sciinf.networks.ode import rk4

FIRST, YEARS = 1900, 21
STEPS_PER_YEAR = 24
LARGEST = 80.0


class LotkaVolterra(Simulator):
    """Counts of hare and lynx pelts (in thousands), one pair a year."""

    name = "lotka_volterra"
    prior = Prior(
        alpha=(Truncated(td.Normal(1.0, 0.5), low=0.0), "1/yr"),
        beta=(Truncated(td.Normal(0.05, 0.05), low=0.0), "1/yr"),
        gamma=(Truncated(td.Normal(1.0, 0.5), low=0.0), "1/yr"),
        delta=(Truncated(td.Normal(0.05, 0.05), low=0.0), "1/yr"),
        hare_0=td.LogNormal(math.log(10.0), 1.0),
        lynx_0=td.LogNormal(math.log(10.0), 1.0),
        sigma_hare=td.LogNormal(-1.0, 1.0),
        sigma_lynx=td.LogNormal(-1.0, 1.0),
    )
    observables: Mapping[str, Observable] = {
        "counts": Observable(
            (YEARS, 2),
            dims=("time", "species"),
            scale="log",
            coords={"time": range(FIRST, FIRST + YEARS), "species": ("hare", "lynx")},
            coord_units={"time": "yr"},
        )
    }
    block = 8192

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        noise = torch.randn(len(theta), YEARS, 2, generator=generator, dtype=theta.dtype, device=theta.device)
        logs = log_populations(theta) + theta[:, None, 6:8] * noise
        return {"counts": logs.clamp(-LARGEST, LARGEST).exp()}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        logs = x["counts"].to(theta).log()
        sigma = theta[:, None, 6:8]
        residual = (logs - log_populations(theta)) / sigma
        total = (-0.5 * residual**2 - sigma.log() - logs - 0.5 * math.log(2 * math.pi)).sum((1, 2))
        return torch.where(total.isnan(), -math.inf, total)

    def observe(self, *paths: str | Path) -> dict[str, Tensor]:
        """Counts from a table with the columns year, hare and lynx, for 1900 to 1920.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If a column is missing or has another length, or the years are others.
        """
        column = Observable((YEARS,), "", ("time",), dtype="float64")
        table = read_observation({"year": column, "hare": column, "lynx": column}, *paths)
        if table["year"].tolist() != list(range(FIRST, FIRST + YEARS)):
            years = f"the years are {table['year'].tolist()}"
            raise ValueError(f"{years}, expected the consecutive ones from {FIRST} to {FIRST + YEARS - 1}")
        return Observation({"counts": torch.stack([table["hare"], table["lynx"]], dim=-1).float()}, table.read)


def log_populations(theta: Tensor) -> Tensor:
    """(log u, log v) at the years 0 to 20 for theta (batch, 8): (batch, 21, 2), in theta's dtype."""
    alpha, beta, gamma, delta = theta[:, :4].unbind(-1)
    growth, coupling = torch.stack([alpha, -gamma]), torch.stack([-beta, delta])

    def field(_: float, logs: Tensor) -> Tensor:
        return torch.addcmul(growth, coupling, logs.exp().flip(0))

    start = theta[:, 4:6].log().T
    return rk4(field, start, range(YEARS), steps_per_interval=STEPS_PER_YEAR).permute(2, 0, 1)


simulator = LotkaVolterra()
