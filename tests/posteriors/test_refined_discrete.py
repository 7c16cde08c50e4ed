"""Rounds around an answer with discrete parameters: their laws, what they change, and a wrong answer made right."""

from __future__ import annotations

import json
import math

import pytest
import torch
from nested import Exact, Nested
from torch import distributions as td

from sciinf.core import Choice, Counts, Each, Normal, Only, Prior, Uniform
from sciinf.posteriors.around import MixedLaw, Mixture, law_around
from sciinf.posteriors.changes import changes
from sciinf.posteriors.refined import load_refined, refine_around
from sciinf.training.estimators.mixed import Mixed

SIMULATOR = Nested()
PRIORS = {
    "nested": SIMULATOR.prior,
    "ordered": Prior(k=Counts(0, 2), t=Each("k", Uniform(0.0, 1.0), increasing=True), rate=Normal(0.0, 1.0)),
    "twice": Prior(
        model=Choice("a", "b"), kind=Only(Choice("x", "y"), model="b"), size=Only(Normal(0.0, 1.0), kind="y")
    ),
    "labels": Prior(model=Choice("a", "b", "c")),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def x_of(theta=(1.0, 0.5, 0.9), seed=3):
    return SIMULATOR(torch.tensor([theta]), generator=generator(seed))


def mixture_of(prior):
    """Around an answer in which half of the draws are of one value, and the others of the prior."""
    theta = prior.sample(4_000, generator=generator())
    theta = torch.cat([theta[:1_000], theta[theta[:, 0] == theta[0, 0]][:1_000]])
    laws = [(weight, law_around(prior, theta, k)) for weight, k in ((0.8, 1.5), (0.2, 3.0))]
    return Mixture(prior, [(weight, law) for weight, law in laws if law is not None], {"observation": "ab"})


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_a_mixture_has_the_density_that_it_is_drawn_from(prior):
    """The mean of p / r under r is 1, and that of r / p under p: five standard errors, one in 10^6."""
    mixture = mixture_of(prior)
    assert len(mixture.parts) == 2
    for drawn, sign in (
        (mixture.sample(50_000, generator=generator(1)), 1),
        (prior.sample(50_000, generator=generator(2)), -1),
    ):
        assert bool(prior.log_prob(drawn).isfinite().all())
        ratio = (sign * mixture.log_ratio(drawn)).exp()
        assert float(ratio.mean()) == pytest.approx(1.0, abs=5 * float(ratio.std()) / math.sqrt(len(ratio)) + 1e-9)
        # and within one discrete value
        first = drawn[:, 0] == drawn[0, 0]
        share = float((prior.sample(200_000, generator=generator(3))[:, 0] == drawn[0, 0]).double().mean())
        if sign == 1:
            assert float((ratio * first).mean()) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_a_mixture_is_read_back(prior):
    mixture = mixture_of(prior)
    again = Mixture.from_json(prior, json.loads(json.dumps(mixture.to_json())))
    theta = prior.sample(500, generator=generator(4))
    torch.testing.assert_close(again.log_ratio(theta), mixture.log_ratio(theta), rtol=0, atol=0)
    data = mixture.to_json()
    data["parts"][0]["log_p"][0] += [0.0]
    with pytest.raises(ValueError, match="other discrete parameters"):
        Mixture.from_json(prior, data)


def test_a_law_is_wider_than_the_answer_and_not_than_the_prior():
    """r(d) ~ q(d)^(1/k^2) p(d)^(1 - 1/k^2): of .02 and .98, where the prior is even, .125 and .875 at k^2 = 2."""
    theta = torch.full((20_000, 3), math.nan)
    theta[:, 0], theta[:, 1] = (torch.arange(20_000) % 50 > 0).float(), torch.randn(20_000, generator=generator())
    theta[theta[:, 0] == 1, 2] = 0.1 * torch.randn(19_600, generator=generator())
    law = law_around(SIMULATOR.prior, theta, math.sqrt(2.0))
    assert isinstance(law, MixedLaw)
    assert law.log_p[0].exp().tolist() == pytest.approx([0.125, 0.875], abs=0.003)
    assert law.normal.factor.diagonal()[1] == pytest.approx(math.sqrt(1 / (0.5 / 0.01 + 0.5)), abs=0.01)


def test_a_parameter_that_hardly_exists_has_the_law_of_the_prior():
    theta = torch.full((20_000, 3), math.nan)
    theta[:, 0], theta[:, 1] = 0.0, 0.2 * torch.randn(20_000, generator=generator())
    theta[:5, 0], theta[:5, 2] = 1.0, 0.5
    law = law_around(SIMULATOR.prior, theta, 1.5)
    assert float(law.normal.factor[1, 1]) == pytest.approx(1.0, abs=0.05)


def test_parameters_that_hardly_exist_are_independent_of_each_other():
    prior = Prior(
        model=Choice("a", "b"),
        c=Only(Normal(0.0, 1.0), model="b"),
        d=Only(Normal(0.0, 1.0), model="b"),
        always=Normal(0.0, 1.0),
    )
    theta = prior.sample(20_000, generator=torch.Generator().manual_seed(0))
    law = law_around(prior, theta[theta[:, 0] == 0], 2.0)
    assert law is not None
    drawn = law.sample(5_000, generator=torch.Generator().manual_seed(1))
    assert abs(float(torch.corrcoef(drawn[:, 1:].T)[0, 1])) < 0.1, "the same order would make it 1"


def test_answers_differ_by_what_is_planted():
    """A probability that differs by .05 counts as .15 sds; what is chance of 10,000 draws does not count."""
    x, right = x_of(), Exact(SIMULATOR)
    assert changes(right, Exact(SIMULATOR), x) == (0.0, 0.0)
    p, other = (float(Exact(SIMULATOR, odds=odds).log_probabilities(x)[0, 1].exp()) for odds in (0.0, 0.6))
    moved, wider = changes(Exact(SIMULATOR, odds=0.6), right, x)
    assert moved == pytest.approx(3 * abs(other - p), abs=0.06)
    assert wider < 0.05
    moved, wider = changes(Exact(SIMULATOR, shift=0.5, width=1.3), right, x)
    assert moved == pytest.approx(0.5, abs=0.06)
    assert wider == pytest.approx(math.log(1.3), abs=0.06)
    rare = x_of((0.0, 0.5, math.nan), seed=0)  # whose slope hardly exists, so that its fault does not count
    flat = Exact(SIMULATOR, odds=-6.0)
    assert changes(Exact(SIMULATOR, shift=0.5, odds=-6.0), flat, rare)[0] < 0.1


@pytest.mark.slow
def test_a_wrong_answer_is_made_right(tmp_path):
    """The probability of the line was .2 off, the slope half an sd; the rounds know neither."""
    x, right, wrong = x_of(), Exact(SIMULATOR), Exact(SIMULATOR, odds=1.0, shift=0.5)
    assert changes(wrong, right, x)[0] > 0.4
    found = refine_around(SIMULATOR, x, tmp_path, wrong, simulations=[3_000, 3_000], progress=False)
    assert isinstance(found.network.estimator, Mixed)
    moved, wider = changes(found, right, x)
    assert moved < 0.15
    assert math.expm1(wider) < 0.1
    # without the weights it would be the posterior under the law of the rounds
    assert max(changes(found.local, right, x)) > max(moved, wider)
    again = load_refined(tmp_path)
    assert changes(again, found, x) == (0.0, 0.0)
    theta = found.draw_batched(x, 500, generator=generator(5))
    both = [one.log_prob_batched(theta, x)[:, 0] for one in (found, right)]
    assert float((both[0] - both[1]).mean()) == pytest.approx(0.0, abs=0.15)
    assert found.reaches(x)
    assert not found.reaches({"x": x["x"] + 5})


def test_parts_of_a_whole_are_refused():
    prior = Prior(model=Choice("a", "b")) + Prior.joint(["u", "v", "w"], td.Dirichlet(torch.ones(3)))
    with pytest.raises(ValueError, match="parts of a whole"):
        Mixture(prior, [], {})
