r"""Influenza in an English boarding school, January 1978: the SIR epidemic with overdispersed counts.

Of N = 763 boys, S are susceptible and I infectious; one is on day 0:

    dS/dt = -beta S I / N,     dI/dt = beta S I / N - gamma I,     S(0) = N - 1,  I(0) = 1,

and the boys in bed on the days t = 1, ..., 14 are counted with a negative binomial law around the infectious ones,

    in_bed(t) ~ NegBin(mean I(t), variance I(t) + phi_inv I(t)^2).

The basic reproduction number is beta / gamma, the mean infectious time 1 / gamma. The equations are solved by 12 steps
of the Runge-Kutta method a day, which leaves a relative error near 1e-3 for the fastest epidemics under the prior and
below 3e-6 around the posterior of the real data. Two floors that matter in no simulation keep logarithms finite:
I >= 1e-10 boys, phi_inv >= 1e-8.

References: Influenza in a boarding school (British Medical Journal 1, 587, 1978);
Bayesian workflow for disease transmission modeling in Stan (Grinsztajn et al., 2021), https://arxiv.org/abs/2006.02985
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike

from sciinf import wrappers
from sciinf.core import Observable

BOYS = 763
DAYS = 14
STEPS_PER_DAY = 12


def infectious(beta: ArrayLike, gamma: ArrayLike, steps_per_day: int = STEPS_PER_DAY) -> jax.Array:
    """I(t) on the days 1 to 14, (14,), for beta and gamma in 1/day."""
    h = 1.0 / steps_per_day

    def field(state: jax.Array) -> jax.Array:
        infections, recoveries = beta * state[0] * state[1] / BOYS, gamma * state[1]
        return jnp.stack([-infections, infections - recoveries])

    def step(state: jax.Array, _: None) -> tuple[jax.Array, None]:
        k1 = field(state)
        k2 = field(state + h / 2 * k1)
        k3 = field(state + h / 2 * k2)
        k4 = field(state + h * k3)
        return state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    def day(state: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        state, _ = jax.lax.scan(step, state, None, length=steps_per_day)
        return state, state[1]

    start = jnp.stack([jnp.full_like(beta, BOYS - 1), jnp.ones_like(beta)])
    return jax.lax.scan(day, start, None, length=DAYS)[1]


def influenza(in_bed: jax.Array | None = None) -> None:
    beta = numpyro.sample("beta", dist.TruncatedNormal(2.0, 1.0, low=0.0))
    gamma = numpyro.sample("gamma", dist.TruncatedNormal(0.4, 0.5, low=0.0))
    phi_inv = numpyro.sample("phi_inv", dist.Exponential(5.0))
    mean = jnp.maximum(infectious(beta, gamma), 1e-10)
    with numpyro.plate("day", DAYS):
        numpyro.sample("in_bed", dist.NegativeBinomial2(mean, 1 / jnp.maximum(phi_inv, 1e-8)), obs=in_bed)


simulator = wrappers.numpyro(
    influenza,
    observed={
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
    units={"beta": "1/day", "gamma": "1/day"},
)
