r"""Influenza in an English boarding school, January 1978: infectious at once (SIR), or latent at first (SEIR)?

Two models of the same fourteen counts, each equally likely before the data. SIR is that of `influenza.py`. In SEIR a
boy who was infected is latent for 1 / sigma days on average before he infects others and lies in bed:

    dS/dt = -beta S I / N,     dE/dt = beta S I / N - sigma E,     dI/dt = sigma E - gamma I,
    S(0) = N - 1,  E(0) = 0,  I(0) = 1,     sigma ~ LogNormal(0, 0.7) per day.

Both share beta, gamma and the dispersion phi_inv with their laws, so each of these is one parameter, whichever the
model; `SEIR.sigma` exists in SEIR alone. The equations are solved as in `influenza.py`, 12 steps of the Runge-Kutta
method a day.

References: Influenza in a boarding school (British Medical Journal 1, 587, 1978);
Bayesian workflow for disease transmission modeling in Stan (Grinsztajn et al., 2021), https://arxiv.org/abs/2006.02985
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike

from sciinf import load_simulator, wrappers

BOYS = 763
DAYS = 14
STEPS_PER_DAY = 12


def infectious(beta: ArrayLike, gamma: ArrayLike, sigma: ArrayLike, steps_per_day: int = STEPS_PER_DAY) -> jax.Array:
    """I(t) on the days 1 to 14, (14,), for rates in 1/day."""
    h = 1.0 / steps_per_day

    def field(state: jax.Array) -> jax.Array:
        infections, onsets, recoveries = beta * state[0] * state[2] / BOYS, sigma * state[1], gamma * state[2]
        return jnp.stack([-infections, infections - onsets, onsets - recoveries])

    def step(state: jax.Array, _: None) -> tuple[jax.Array, None]:
        k1 = field(state)
        k2 = field(state + h / 2 * k1)
        k3 = field(state + h / 2 * k2)
        k4 = field(state + h * k3)
        return state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    def day(state: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        state, _ = jax.lax.scan(step, state, None, length=steps_per_day)
        return state, state[2]

    start = jnp.stack([jnp.full_like(beta, BOYS - 1), jnp.zeros_like(beta), jnp.ones_like(beta)])
    return jax.lax.scan(day, start, None, length=DAYS)[1]


def latent(in_bed: jax.Array | None = None) -> None:
    beta = numpyro.sample("beta", dist.TruncatedNormal(2.0, 1.0, low=0.0))
    gamma = numpyro.sample("gamma", dist.TruncatedNormal(0.4, 0.5, low=0.0))
    sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 0.7))
    phi_inv = numpyro.sample("phi_inv", dist.Exponential(5.0))
    mean = jnp.maximum(infectious(beta, gamma, sigma), 1e-10)
    with numpyro.plate("day", DAYS):
        numpyro.sample("in_bed", dist.NegativeBinomial2(mean, 1 / jnp.maximum(phi_inv, 1e-8)), obs=in_bed)


sir = load_simulator(Path(__file__).with_name("influenza.py"))
seir = wrappers.numpyro(
    latent,
    observed={"in_bed": sir.observables["in_bed"]},
    units={"beta": "1/day", "gamma": "1/day", "sigma": "1/day"},
    name="influenza_latent",
)
simulator = wrappers.models({"SIR": sir, "SEIR": seir}, name="two_epidemics")
