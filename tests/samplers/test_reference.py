"""Every sampler against the NUTS of numpyro, on the same target."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from samplers.targets import DRAW, normal, seeded, worth
from scipy import stats


def curved(x):
    """A sheet curved in three dimensions, of which no law is known in closed form."""
    a, b, c = x.unbind(-1)
    return -0.5 * a**2 - 0.5 * (b - 0.5 * a**2) ** 2 - (1 + (c - a * b / 3) ** 2).log() * 3


@cache
def reference():
    import jax
    import jax.numpy as jnp
    from numpyro.infer import MCMC, NUTS

    def potential(z):
        a, b, c = z
        return 0.5 * a**2 + 0.5 * (b - 0.5 * a**2) ** 2 + jnp.log1p((c - a * b / 3) ** 2) * 3

    kernel = NUTS(potential_fn=potential, target_accept_prob=0.9)
    chains = MCMC(kernel, num_warmup=500, num_samples=2000, num_chains=4, chain_method="vectorized", progress_bar=False)
    chains.run(jax.random.PRNGKey(0), init_params=jnp.zeros((4, 3)))
    draws = torch.tensor(chains.get_samples(group_by_chain=True).tolist(), dtype=torch.float64)
    return draws.movedim(0, 1)[:, :, None]


@pytest.mark.long  # compiling takes ten seconds
@pytest.mark.parametrize("name", DRAW)
def test_as_numpyros_nuts(name):
    # false alarms, with other seeds: 1e-6 for each of three marginals
    draw, n = DRAW[name]
    found, known = draw(curved, normal(32, 1, 3), 3 * n, generator=seeded(1)).draws, reference()
    for d in range(3):
        ours, theirs = found[..., d : d + 1], known[..., d : d + 1]
        sizes = float(worth(ours)), float(worth(theirs))
        distance = stats.ks_2samp(ours.flatten().numpy(), theirs.flatten().numpy()).statistic
        assert min(sizes) > 300
        assert stats.kstwobign.sf(distance / math.sqrt(1 / sizes[0] + 1 / sizes[1])) > 1e-6
