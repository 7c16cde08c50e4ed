r"""Influenza in an English boarding school, January 1978: the SIR epidemic as jumps of whole boys, seen by counts.

The equations of `influenza.py` are what an epidemic of endlessly many boys does. Here are N = 763, of which one is
infectious on day 0, and the first days are at the mercy of chance:

    infection:  (S, I) -> (S - 1, I + 1)  at the rate beta S I / N,     recovery:  I -> I - 1  at the rate gamma I,

by Gillespie's exact method between the days. The boys in bed on the days t = 1, ..., 14 are counted as there,

    in_bed(t) ~ NegBin(mean I(t), variance I(t) + phi_inv I(t)^2),

with the same laws of the parameters. An epidemic that dies out before it starts is possible, unlike by the equations,
and so is one that is late, so that the counts say less of beta. The likelihood is a particle filter's estimate. Floors
that matter in no simulation keep logarithms finite: I >= 1e-10 boys, phi_inv >= 1e-8.

References: Influenza in a boarding school (British Medical Journal 1, 587, 1978);
Bayesian workflow for disease transmission modeling in Stan (Grinsztajn et al., 2021), https://arxiv.org/abs/2006.02985
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import wrappers
from sciinf.core import Observable, Prior, Truncated
from sciinf.simulators.dynamics.reactions import Reactions
from sciinf.simulators.dynamics.state_space import StateSpace, Theta, Time

BOYS = 763
DAYS = 14
PARTICLES = 64


def rates(theta: Theta, state: Tensor) -> Tensor:
    """Infections and recoveries per day, (row, 2)."""
    susceptible, infectious = state.unbind(-1)
    return torch.stack([theta["beta"] * susceptible * infectious / BOYS, theta["gamma"] * infectious], -1)


EPIDEMIC = Reactions({"infection": [-1, 1], "recovery": [0, -1]}, rates)


class School(StateSpace):
    """Boys that fall ill and recover, and a count of those in bed.

    Args:
        leap: Length of leaps, in days; exact where left out. One of 1/4 makes epidemics start too late, gamma too small
            by a third of its sd, and the evidence five times too large.
    """

    latent: Mapping[str, str] = {"susceptible": "", "infectious": ""}

    def __init__(self, leap: float | None = None) -> None:
        self.leap = leap

    def initial(self, theta: Theta, rows: int, *, generator: torch.Generator) -> Tensor:
        one = theta["beta"].new_tensor([BOYS - 1.0, 1.0])
        return one.expand(rows, 2)

    def advance(self, theta: Theta, state: Tensor, start: Time, stop: Time, *, generator: torch.Generator) -> Tensor:
        if self.leap is not None:
            return EPIDEMIC.leap(theta, state, start, stop, leap=self.leap, generator=generator)
        return EPIDEMIC.exact(theta, state, start, stop, generator=generator)

    def observe(self, theta: Theta, state: Tensor, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        mean, size = _law(theta, state)
        rate = mean / size * torch._standard_gamma(size, generator=generator)
        return {"in_bed": torch.poisson(rate, generator=generator).long()}

    def log_observe(self, theta: Theta, state: Tensor, x: Mapping[str, Tensor]) -> Mapping[str, Tensor]:  # type: ignore[override]
        mean, size = _law(theta, state)
        count = x["in_bed"].double()
        ways = torch.lgamma(count + size) - torch.lgamma(count + 1) - torch.lgamma(size)
        return {"in_bed": ways - size * torch.log1p(mean / size) + count * (mean.log() - (size + mean).log())}


def _law(theta: Theta, state: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of a count, and 1 / phi_inv, float64."""
    return state[:, 1].double().clamp_min(1e-10), 1 / theta["phi_inv"].double().clamp_min(1e-8)


simulator = wrappers.state_space(
    School(),
    Prior(
        beta=(Truncated(td.Normal(2.0, 1.0), low=0.0), "1/day"),
        gamma=(Truncated(td.Normal(0.4, 0.5), low=0.0), "1/day"),
        phi_inv=td.Exponential(5.0),
    ),
    [float(day) for day in range(1, DAYS + 1)],
    {
        "in_bed": Observable(
            (DAYS,),
            "",
            ("time",),
            dtype="int64",
            scale="log",
            coords={"time": range(1, DAYS + 1)},
            coord_units={"time": "day"},
        )
    },
    begin=0.0,
    particles=PARTICLES,
    name="sir_jumps",
)
