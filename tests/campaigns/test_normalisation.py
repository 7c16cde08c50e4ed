"""A likelihood that is no normalised density of all the data is told of; a right one is not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td

from sciinf import Normal, Observable, Prior, load_simulator
from sciinf.campaigns.normalisation import Constant, normalisation, normalisation_findings, unused, unused_numbers
from sciinf.core import Level, Simulator
from sciinf.diagnostics.checking import check_simulator

TIMES = torch.linspace(0.0, 2.0, 10)


class Line(Simulator):
    """Ten numbers about a line, with a likelihood that may be wrong.

    Args:
        noise: Their distribution.
        density: What the likelihood takes it for.
        first: How many of them the likelihood uses.
        constant: What it lacks.
    """

    name, prior, observables = "line", Prior(slope=Normal(0.0, 1.0)), {"y": Observable((10,))}

    def __init__(self, noise="normal", density=None, first=10, constant=0.0):
        self.noise, self.density, self.first, self.constant = noise, density or noise, first, constant
        self.log_likelihood = self._log_likelihood

    def __call__(self, theta, *, generator):
        e = torch.randn(len(theta), 10, generator=generator)
        u = 1 - torch.rand(len(theta), 10, generator=generator)
        if self.noise == "t":
            e = e / torch.randn(len(theta), 10, 3, generator=generator).square().mean(-1).sqrt()
        if self.noise == "uniform":
            e = 2 * u - 1
        if self.noise == "counts":
            return {"y": torch.poisson((theta * TIMES).exp().clamp(max=100), generator=generator)}
        if self.noise == "exponential":
            return {"y": -u.log() * (theta * TIMES).exp()}
        if self.noise == "walk":
            e = e.cumsum(1)
        return {"y": theta * TIMES + e}

    def _log_likelihood(self, theta, x):
        y, middle = x["y"].double(), theta.double() * TIMES
        if self.density in ("counts", "counts without log k!"):
            rate = middle.exp().clamp(max=100)
            each = y * rate.log() - rate - (torch.lgamma(y + 1) if self.density == "counts" else 0.0)
        elif self.density == "exponential":  # it does not look whether y is above 0
            each = -middle - y * (-middle).exp()
        elif self.density == "uniform":
            each = torch.where((y - middle).abs() <= 1 + 1e-5, -math.log(2), -math.inf)
        elif self.density == "walk":
            each = td.Normal(0.0, 1.0).log_prob((y - middle).diff(dim=1, prepend=torch.zeros(len(y), 1).double()))
        elif self.density == "t":
            each = td.StudentT(3.0, middle).log_prob(y)
        else:
            each = td.Normal(middle, 3**0.5 if self.noise == "t" else 1.0).log_prob(y)
        return each[:, : self.first].sum(1) - self.constant


def found(line: Simulator, seed: int = 0):
    """At a slope near 0.5, as an answer has it."""
    generator = torch.Generator().manual_seed(seed)
    theta = 0.5 + 0.2 * torch.randn(400, 1, generator=generator)
    return normalisation(line, theta, line(theta, generator=generator), unused(line, seed), seed)


@pytest.mark.parametrize("noise", ["normal", "t", "uniform", "counts", "exponential", "walk"])
def test_the_constant_of_a_right_likelihood_is_confirmed(noise):
    """Of a right one 3 in 1,000 seeds are not confirmed."""
    results = [found(Line(noise), seed) for seed in range(3)]
    assert {one.kind for one in results} == {Constant.CONFIRMED}
    assert max(abs(one.log_integral) for one in results) < 0.5
    assert {one.finding.level for one in results} == {Level.GOOD}


def test_a_constant_that_is_missing_is_measured_and_calls_for_care_about_the_evidence():
    result = found(Line(constant=9.2))
    assert result.kind == Constant.CONSTANT
    assert result.log_integral == pytest.approx(-9.2, abs=0.3)
    assert result.finding.level == Level.CAUTION
    assert "parameters depend on it only where it differs between models" in result.finding.words


def test_a_constant_within_the_precision_is_not_confirmed():
    """It is 3 to 6 of its standard errors, of which five are needed to call it missing."""
    assert {found(Line("uniform", constant=0.3), seed).kind for seed in range(4)}.isdisjoint({Constant.CONFIRMED})


def test_data_that_are_called_times_are_data():
    class Waiting(Line):
        observables = {"waiting_times": Observable((10,))}

        def __call__(self, theta, *, generator):
            return {"waiting_times": super().__call__(theta, generator=generator)["y"]}

        def _log_likelihood(self, theta, x):
            return super()._log_likelihood(theta, {"y": x["waiting_times"]})

    assert found(Waiting()).kind == Constant.CONFIRMED


@pytest.mark.parametrize(
    "line",
    [Line("t", "normal"), Line("counts", "counts without log k!"), Line("walk", "normal")],
    ids=["t", "counts", "walk"],
)
def test_a_wrong_term_of_the_data_is_told_from_a_constant(line):
    result = found(line)
    assert result.kind == Constant.TERM
    assert result.finding.level == Level.CAUTION


def test_numbers_that_a_likelihood_does_not_use_are_named():
    (unused_data,) = normalisation_findings(Line(first=3), 0)
    assert "does not use 7 of the 10 numbers of 'y'" in unused_data.words
    assert any("7 of the 10 numbers" in words for words in check_simulator(Line(first=3), rows=16).warnings)
    for noise in ("normal", "uniform", "counts"):
        assert not unused_numbers(Line(noise), unused(Line(noise), 0))


def test_a_number_that_is_only_noise_counts_as_used_where_its_term_is_there():
    class Beside(Line):
        """The line and, beside it, noise that depends on nothing."""

        observables = {"y": Observable((10,)), "beside": Observable(())}

        def __call__(self, theta, *, generator):
            return super().__call__(theta, generator=generator) | {
                "beside": torch.randn(len(theta), generator=generator)
            }

        def _log_likelihood(self, theta, x):
            return super()._log_likelihood(theta, x) + td.Normal(0.0, 1.0).log_prob(x["beside"].double())

    assert normalisation_findings(Beside(), 0) == []


@pytest.mark.parametrize(
    "name", ["linear_gaussian", "mineral_fractions", "benchmarks/slcp", "benchmarks/two_moons", "turned_spot", "nile"]
)
def test_likelihoods_of_the_simulators_are_not_blamed(name, root):
    assert normalisation_findings(load_simulator(root / f"simulators/{name}.py"), 0) == []
