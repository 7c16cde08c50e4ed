"""Checks of answers whose parameters are discrete or exist only sometimes are of the draws that have them."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest
import torch
from nested import Exact, Nested

from sciinf import query
from sciinf.core import Case, Choice, Counts, Draws, Each, Only, Prior, Uniform, X
from sciinf.core.categories import categories_of
from sciinf.diagnostics.bounds import Bounds
from sciinf.diagnostics.compared import ModelComparison
from sciinf.diagnostics.failures import examine, judge
from sciinf.diagnostics.members import network_share
from sciinf.diagnostics.stray import check_stray
from sciinf.posteriors.ensemble import Ensemble
from sciinf.posteriors.reweighted import Reweighted


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws_of(prior: Prior, theta: torch.Tensor) -> Draws:
    return Draws(prior.names, prior.units, theta, torch.zeros(len(theta), dtype=torch.float64))


PRIOR = Prior(model=Choice("a", "b"), rate=(Uniform(0.0, 1.0), "1/s"), size=Only(Uniform(0.0, 1.0), "m", model="b"))


def test_bounds_are_looked_at_in_draws_that_have_the_parameter() -> None:
    theta = PRIOR.sample(4_000, generator=seeded())
    assert Bounds(PRIOR).check(draws_of(PRIOR, theta))[0].level == "good"
    leaning = theta.clone()  # a normal law whose peak lies beyond the upper bound
    b = theta[:, 0] == 1
    leaning[b, 2] = 1 - 0.004 * torch.rand(int(b.sum()), generator=seeded(1)).square()
    words = Bounds(PRIOR).check(draws_of(PRIOR, leaning))[0].words
    assert "the posterior of size lies within the last 1%" in words or "the median of size" in words
    assert "rate" not in words
    assert "model" not in words
    rare = leaning.clone()  # in one of a hundred draws nothing is said of it
    rare[40:, 0], rare[40:, 2] = 0.0, math.nan
    assert Bounds(PRIOR).check(draws_of(PRIOR, rare))[0].level == "good"


def test_bounds_of_those_in_order_are_none() -> None:
    prior = Prior(k=Counts(1, 2), t=Each("k", Uniform(0.0, 1.0), increasing=True))
    found = Bounds(prior).check(draws_of(prior, prior.sample(4_000, generator=seeded(2))))
    assert [one.level for one in found] == ["good"]


def test_strays_are_looked_for_in_draws_that_have_the_parameter() -> None:
    theta = PRIOR.sample(4_000, generator=seeded(3))
    assert check_stray(draws_of(PRIOR, theta), PRIOR) == ()
    far = theta.clone()
    far[(theta[:, 0] == 1).nonzero()[:2, 0], 2] = 1e4
    found = check_stray(draws_of(PRIOR, far), PRIOR)
    assert len(found) == 1
    assert "the variance of size" in found[0].words


def test_members_differ_by_what_they_say_of_models_and_of_what_exists() -> None:
    simulator = Nested()
    x = {"x": torch.tensor([[0.1, -0.2, 0.3, 0.2, 0.1, 0.4]])}
    alike = network_share(Ensemble([Exact(simulator)] * 3), x, generator=seeded(4))
    assert bool((alike < 0.01).all())
    odds = network_share(Ensemble([Exact(simulator, odds=o) for o in (-2.0, 0.0, 2.0)]), x, generator=seeded(4))
    assert float(odds[0]) > 0.1
    shifted = network_share(Ensemble([Exact(simulator, shift=s) for s in (-1.0, 1.0)]), x, generator=seeded(4))
    assert float(shifted[2]) > 0.3
    assert float(shifted[1]) < 0.01


def test_failures_may_depend_on_a_label_or_on_what_exists_only_sometimes() -> None:
    theta = PRIOR.sample(3_000, generator=seeded(5))
    of_model = examine(PRIOR, theta, (theta[:, 0] == 1) & (torch.rand(3_000, generator=seeded(6)) < 0.3))
    assert of_model.depend
    assert "fail where model is b" in of_model.words(PRIOR)
    of_size = examine(PRIOR, theta, theta[:, 2] > 0.8)
    assert "size > 0.8" in of_size.words(PRIOR)
    by_chance = examine(PRIOR, theta, torch.rand(3_000, generator=seeded(7)) < 0.1)
    assert not by_chance.depend  # false alarms: 1e-2, the seed is fixed
    posterior = Exact(Nested())
    posterior.prior = PRIOR
    assert judge(of_size, posterior, draws_of(PRIOR, theta)).level == "alarm"


@pytest.fixture(scope="module")
def weighted() -> tuple[Nested, X, Reweighted]:
    simulator = Nested()
    x = simulator(torch.tensor([[1.0, 0.3, 0.8]]), generator=seeded(8))
    return simulator, x, Reweighted(Exact(simulator, odds=1.5), simulator, ess=1_000)


def test_evidence_stands_beside_the_network(weighted: tuple[Nested, X, Reweighted]) -> None:
    simulator, x, posterior = weighted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = query(posterior, x, simulator=simulator, draws=2_000)
    said = next(check for check in found.checks if check.name == "model comparison")
    assert said.level == "good"  # the answer is, although the network is 1.5 off
    right = simulator.evidences(x["x"])[0]
    value = abs(float(right[1] - right[0]))
    first = float(said.words.split(" is ")[1].split(" +- ")[0])
    assert abs(abs(first) - value) < 0.2  # three standard errors
    assert said.words.endswith("train on more simulations")


def test_a_right_network_is_called_so(weighted: tuple[Nested, X, Reweighted]) -> None:
    simulator, x, _ = weighted
    right = Exact(simulator)
    continuous = right.draw(x, 4_000, generator=seeded(9))
    plain = replace(continuous, categories=categories_of(right.prior))
    assert "not to be relied on" not in ModelComparison()(Case(right, plain, 0.9, plain=plain))[0].words
    assert ModelComparison()(Case(right, continuous, 0.9, plain=continuous)) == ()
