"""Normal laws around an answer and their mixtures: against formulas, and as laws of parameters to simulate from."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import distributions as td

from sciinf.core import Prior
from sciinf.posteriors.around import Law, Mixture

PRIOR = Prior(a=td.Normal(1.0, 2.0), rate=td.LogNormal(0.0, 0.5), share=td.Uniform(0.0, 1.0))
JOINT = Prior.joint(["a", "b"], td.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.6], [0.6, 1.0]])))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(mean, sd, n=200_000):
    noise = torch.randn(n, len(mean), generator=generator(), dtype=torch.float64)
    return torch.tensor(mean, dtype=torch.float64) + noise * torch.tensor(sd, dtype=torch.float64)


def test_a_law_is_wider_than_the_answer_and_not_than_the_prior():
    law = Law.around(normal([0.5, 0.0], [0.1, 1.0]), 2.0, normal=True)
    variance = 1 / (1 / 0.04 + 0.75)  # the second answer is the prior, and stays it
    expected = torch.tensor([variance / 0.04 * 0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(law.centre, expected, atol=5e-3, rtol=0)
    expected = torch.tensor([math.sqrt(variance), 1.0], dtype=torch.float64)
    torch.testing.assert_close(law.factor.diagonal(), expected, atol=5e-3, rtol=0)


def test_where_the_prior_of_z_is_no_normal_law_only_the_width_counts():
    law = Law.around(normal([0.5], [0.1]), 3.0, normal=False)
    assert float(law.centre) == pytest.approx(0.5, abs=1e-3)
    assert float(law.factor) == pytest.approx(0.3, abs=2e-3)


@pytest.mark.parametrize("z", [torch.zeros(10, 1), torch.full((10, 1), math.nan)])
def test_draws_that_do_not_vary_have_no_law(z):
    assert Law.around(z.double(), 2.0, normal=True) is None


def test_the_density_of_a_law_is_that_of_torch():
    law = Law.around(
        normal([0.5, -1.0], [0.1, 0.6], 500) @ torch.tensor([[1.0, 0.4], [0, 1]]).double(), 2.0, normal=True
    )
    z = law.sample(50, generator=generator())
    torch.testing.assert_close(law.log_prob(z), td.MultivariateNormal(law.centre, scale_tril=law.factor).log_prob(z))
    assert float(law.squares(law.sample(20_000, generator=generator())).mean()) == pytest.approx(2.0, abs=0.06)


@pytest.fixture(scope="module")
def mixture():
    laws = [Law.around(normal([0.3, -0.4, 0.2], [0.3, 0.2, 0.5], 5_000), k, normal=True) for k in (2.0, 4.0)]
    return Mixture(PRIOR, [(0.8, laws[0]), (0.2, laws[1])], {"observation": "ab"})


def test_weights_make_a_mixture_the_prior(mixture):
    """Means under the prior of bounded functions, within six standard errors of the weighted draws."""
    theta = mixture.sample(200_000, generator=generator())
    assert theta.dtype == PRIOR.dtype
    weight = mixture.log_ratio(theta).exp()
    near = (PRIOR.bijection.forward(theta.double()) - torch.tensor([0.3, -0.4, 0.2])).square().sum(1) < 1
    draws = PRIOR.bijection.forward(PRIOR.sample(400_000, generator=generator(1)).double())
    expected = float(((draws - torch.tensor([0.3, -0.4, 0.2])).square().sum(1) < 1).double().mean())
    found = weight * near
    assert float(found.mean()) == pytest.approx(expected, abs=6 * float(found.std()) / 447 + 6e-4 * 2)


def test_what_lies_outside_the_support_has_no_weight(mixture):
    outside = torch.tensor([[0.0, 1.0, 1.5], [0.0, -1.0, 0.5]])
    assert (mixture.log_ratio(outside) == -math.inf).all()


def test_a_mixture_is_told_and_read_again(mixture):
    again = Mixture.from_json(PRIOR, json.loads(json.dumps(mixture.to_json())))
    theta = mixture.sample(20, generator=generator())
    assert torch.equal(again.sample(20, generator=generator()), theta)
    assert torch.equal(again.log_ratio(theta), mixture.log_ratio(theta))
    assert again.to_json() == mixture.to_json()
    with pytest.raises(ValueError, match="another number of parameters"):
        Mixture.from_json(JOINT, mixture.to_json())


def test_laws_of_a_joint_prior_stay_within_it():
    z = JOINT.bijection.forward(JOINT.sample(5_000, generator=generator()).double())
    law = Law.around(z, 2.0, normal=JOINT.bijection.normal)
    theta = Mixture(JOINT, [(1.0, law)], {}).sample(2_000, generator=generator())
    assert JOINT.log_prob(theta).isfinite().all()
