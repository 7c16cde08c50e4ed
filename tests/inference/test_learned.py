"""Draws of an answer are without the thousandth that a flow may put anywhere; weights are given to all."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from sciinf import Flow, Observable, Prior, Recipe, Score, build_posterior, simulate, train
from sciinf.core import Simulator
from sciinf.flows import SplineCoupling, StudentT
from sciinf.inference.ensemble import Ensemble
from sciinf.inference.learned import Learned
from sciinf.inference.tilted import Tilted

N = 20_000


class Law(Learned):
    """N(0, 1) for each parameter, but for a share of the draws, which are a hundred times as wide."""

    name, digest, scope, under, observation, trained_on = "law", "0", "", None, None, frozenset[str]()
    observables = {"x": Observable((1,))}
    strays = True

    def __init__(self, share=0.0, size=1):
        self.share = share
        self.prior = Prior(**{f"p{i}": td.Normal(0.0, 1_000.0) for i in range(size)})

    def draw_batched(self, x, n, *, generator):
        z = torch.randn(n, len(x["x"]), len(self.prior), generator=generator)
        far = torch.rand(n, len(x["x"]), 1, generator=generator) < self.share
        return torch.where(far, 100 * z, z)

    def log_prob_batched(self, theta, x):
        near, far = (td.Normal(0.0, sd).log_prob(theta).sum(-1) for sd in (1.0, 100.0))
        return torch.logaddexp(near + torch.tensor(1 - self.share).log(), far + torch.tensor(self.share).log())

    def features(self, x):
        return x["x"]


def drawn(law, n=N, seed=0):
    return law.draw({"x": torch.zeros(1, 1)}, n, generator=torch.Generator().manual_seed(seed)).theta


def test_strays_are_no_part_of_an_answer():
    """Ten draws of twenty thousand, far out, double the sd; an sd of N draws has an error of .5 %."""
    law = Law(0.0005, 2)
    whole = law.draw_all({"x": torch.zeros(1, 1)}, N, generator=torch.Generator().manual_seed(0)).theta
    assert whole.std(0).min() > 1.3
    assert torch.allclose(drawn(law).std(0), torch.ones(2), atol=0.025)
    law.strays = False
    assert drawn(law).std(0).min() > 1.3


@pytest.mark.parametrize(("size", "lost"), [(1, 0.0059), (4, 0.0021)])
def test_what_a_normal_law_loses_by_it(size, lost):
    """The radius r holds .999 of chi^2 of D degrees; inside it the variance is P(chi^2 of D + 2 < r^2) / .999."""
    from scipy.stats import chi2

    r2 = chi2.ppf(0.999, size)
    assert 1 - (chi2.cdf(r2, size + 2) / 0.999) ** 0.5 == pytest.approx(lost, abs=1e-4)
    sds = torch.stack([drawn(Law(0.0, size), 100_000, seed).std(0).mean() for seed in range(4)])
    assert float(sds.mean()) == pytest.approx(1 - lost, abs=4 * 0.7e-3)  # four sds of the mean of four, or more


def test_the_others_stay_in_their_order_and_few_draws_are_all_of_them():
    law, x = Law(0.0005), {"x": torch.zeros(1, 1)}
    more = N // 999
    whole = law.draw_batched(x, N + more, generator=torch.Generator().manual_seed(0))
    density = law.log_prob_batched(whole, x)[:, 0]
    found = drawn(law)
    assert len(found) == N
    assert torch.equal(found, whole[density > density.kthvalue(more).values][:, 0])
    assert torch.equal(drawn(law, 900), law.draw_batched(x, 900, generator=torch.Generator().manual_seed(0))[:, 0])


def test_what_is_given_weights_has_strays():
    """Draws under another law of the parameters: a factor that looks at what lies far out finds it."""
    tilted = Tilted(Law(0.0005, 1), lambda theta: torch.where(theta.abs() > 6, 0.0, -torch.inf)[:, 0], "far", "1")
    found = tilted.draw({"x": torch.zeros(1, 1)}, N, generator=torch.Generator().manual_seed(0))
    assert found.ess > 5


class Line(Simulator):
    name = "line"
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.Normal(0.0, 1.0))
    observables = {"x": Observable((3,))}

    def __call__(self, theta, *, generator):
        return {"x": theta.sum(1, keepdim=True) + torch.randn(len(theta), 3, generator=generator)}


def test_flows_of_normal_noise_have_strays_and_others_have_none(tmp_path):
    """Tails that a user asked for stay; a density that takes an equation for each draw is not asked."""
    line, store = Line(), simulate(Line(), tmp_path / "store", 200, progress=False)
    found = []
    for number, estimator in enumerate(
        (
            Flow(line.prior, line.observables),
            Flow(line.prior, line.observables, flow=StudentT(SplineCoupling())),
            Score(line.prior, line.observables),
        )
    ):
        fit = train(estimator, store, tmp_path / str(number), recipe=Recipe(epochs=1))
        found.append(build_posterior(fit).strays)
    assert found == [True, False, False]
    assert Ensemble([Law(), Law()]).strays
    other = Law()
    other.strays = False
    assert not Ensemble([Law(), other]).strays
