"""Laws of one kind are carried to z together: to the values of each by itself, in fewer calls."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from sciinf import LogUniform, Prior, Truncated
from sciinf.core.bijection import as_one, kind
from sciinf.core.laws import to_normal

GROUPS = {
    "normal": [td.Normal(0.0, 1.0), td.Normal(torch.tensor(3.0), 0.1)],
    "of more digits": [td.Normal(torch.tensor(0.1, dtype=torch.float64), torch.tensor(1e-9, dtype=torch.float64))],
    "lognormal": [td.LogNormal(0.0, 1.0), td.LogNormal(-5.0, 0.2)],
    "uniform": [td.Uniform(-1.0, 1.0), td.Uniform(10.0, 1e4)],
    "half normal": [td.HalfNormal(1.0), td.HalfNormal(20.0)],
    "exponential": [td.Exponential(1.0), td.Exponential(0.01)],
    "decades": [LogUniform(1e-6, 1e6), LogUniform(1.0, 2.0)],
    "above 0": [Truncated(td.Normal(1.0, 0.5), low=0.0), Truncated(td.Normal(0.05, 0.05), low=0.0)],
    "far out": [Truncated(td.Normal(0.0, 1.0), low=6.0), Truncated(td.Normal(1.0, 1.0), low=6.0)],
    "between": [Truncated(td.LogNormal(0.0, 1.0), 0.5, 3.0), Truncated(td.LogNormal(1.0, 2.0), 0.5, 3.0)],
    "decades above 5": [Truncated(LogUniform(1.0, 9.0), low=5.0)],
}


def test_every_law_gets_the_z_that_it_has_alone():
    """Laws of all groups in turn, so that no group stands together."""
    laws = [law for pair in ([g[0] for g in GROUPS.values()], [g[-1] for g in GROUPS.values()]) for law in pair]
    prior = Prior(**{f"p{k}": law for k, law in enumerate(laws)})
    assert len(prior.bijection._together) == len(GROUPS)
    theta = prior.sample(2_000, generator=torch.Generator().manual_seed(0)).double()
    alone = torch.stack([to_normal(law, theta[:, k]) for k, law in enumerate(prior.laws)], dim=-1)
    assert torch.equal(prior.bijection.forward(theta), alone)
    assert float(alone.abs().max()) > 3.0
    back = prior.bijection.inverse(prior.bijection.forward(theta))
    torch.testing.assert_close(back, theta, rtol=1e-6, atol=1e-12)


def test_values_beyond_an_edge_are_read_as_the_edge():
    law = as_one(GROUPS["above 0"])
    values = torch.tensor([[-1.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    z = to_normal(law, values)
    assert torch.equal(z[0], z[1])
    assert torch.equal(z[0], torch.stack([to_normal(one, values[0, 0]) for one in GROUPS["above 0"]]))


@pytest.mark.parametrize(
    "law", [td.Cauchy(0.0, 1.0), td.Gamma(2.0, 1.0), Truncated(td.Cauchy(0.0, 1.0), low=0.0), td.Beta(2.0, 2.0)]
)
def test_a_law_without_a_kind_leaves_all_by_themselves(law):
    assert kind(law) is None
    prior = Prior(a=td.Normal(0.0, 1.0), b=law)
    assert prior.bijection._together == []
    theta = prior.sample(100, generator=torch.Generator().manual_seed(0))
    assert bool(prior.bijection.forward(theta).isfinite().all())
    assert Prior.none().bijection.forward(torch.empty(3, 0)).shape == (3, 0)


def test_bounds_and_digits_belong_to_a_kind():
    laws = [law for group in GROUPS.values() for law in group]
    laws += [Truncated(td.Normal(1.0, 0.5), low=0.1), Truncated(td.Normal(1.0, 0.5), low=0.0, high=2.0)]
    assert len({kind(law) for law in laws}) == len(GROUPS) + 2
