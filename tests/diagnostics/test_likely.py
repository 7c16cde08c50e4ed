"""The likelihood's own predictive check: uniform enough for the model, small for what no parameter explains."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td

from sciinf.core import Observable, Prior, Simulator, load_simulator
from sciinf.diagnostics.likely import check_likelihood

NUMBERS, PAIRS = 50, 400


class Line(Simulator):
    """x_k = theta + e_k, e ~ N(0, 1), k = 1..50, theta ~ N(0, 1)."""

    name = "line"
    prior = Prior(theta=td.Normal(0.0, 1.0))
    observables = {"x": Observable((NUMBERS,))}

    def __call__(self, theta, *, generator):
        return {"x": theta + torch.randn(len(theta), NUMBERS, generator=generator)}

    def log_likelihood(self, theta, x):
        return td.Normal(theta, 1.0).log_prob(x["x"]).sum(-1)


class Estimated(Simulator):
    """The same with a likelihood that is estimated: times an independent factor of mean 1, whose log has an sd of 1."""

    name, prior, observables = "estimated", Line.prior, Line.observables
    random_likelihood = True

    def __init__(self):
        self.generator = torch.Generator().manual_seed(9)

    def __call__(self, theta, *, generator):
        return Line()(theta, generator=generator)

    def log_likelihood(self, theta, x):
        return Line().log_likelihood(theta, x) + torch.randn(len(theta), generator=self.generator) - 0.5


def found(x: torch.Tensor, seed: int = 0, simulator: Simulator | None = None):
    """The finding with draws of the exact posterior."""
    generator = torch.Generator().manual_seed(seed)
    mean, sd = float(x.sum()) / (NUMBERS + 1), 1 / math.sqrt(NUMBERS + 1)
    theta = mean + sd * torch.randn(PAIRS, 1, generator=generator)
    simulator = simulator or Line()
    return check_likelihood(simulator, {"x": x[None]}, theta, simulator(theta, generator=generator))


@pytest.mark.parametrize("simulator", [Line(), Estimated()], ids=["known", "estimated"])
def test_false_alarms_are_no_more_often_than_they_say(simulator):
    """Of 400 data sets of the model at most 1 % are alarms and 5 % cautions, but for chance (8, 30: 2 sd beyond)."""
    generator = torch.Generator().manual_seed(1)
    levels = []
    for seed in range(400):
        x = torch.randn((), generator=generator) + torch.randn(NUMBERS, generator=generator)
        (check,) = found(x, seed, simulator)
        levels.append(check.level)
    assert levels.count("alarm") <= 8
    assert levels.count("caution") + levels.count("alarm") <= 30
    assert levels.count("good") < 400


def test_an_estimated_likelihood_still_finds_a_signal_that_no_parameter_makes():
    (check,) = found(torch.randn(NUMBERS, generator=torch.Generator().manual_seed(1)) * 1.8, 0, Estimated())
    assert check.level == "alarm"
    assert "less likely" in check.words


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda e: e + 1.5 * torch.linspace(-1, 1, NUMBERS).sin(), "less likely"),  # a signal that no theta makes
        (lambda e: 1.6 * e, "less likely"),
        (lambda e: 0.5 * e, "more likely"),
        (lambda e: torch.cat([e[:-1], torch.tensor([9.0])]), "less likely"),
    ],
)
def test_what_no_parameter_explains_is_an_alarm(make, words):
    e = torch.randn(NUMBERS, generator=torch.Generator().manual_seed(2))
    (check,) = found(make(e / e.std()))
    assert check.level == "alarm"
    assert words in check.words


def test_a_posterior_that_is_off_is_seen():
    x = torch.randn(NUMBERS, generator=torch.Generator().manual_seed(2))
    simulator, generator = Line(), torch.Generator().manual_seed(0)
    theta = 1.0 + 0.14 * torch.randn(PAIRS, 1, generator=generator)
    (check,) = check_likelihood(simulator, {"x": x[None]}, theta, simulator(theta, generator=generator))
    assert check.level == "alarm"


def test_nothing_is_said_without_a_likelihood_or_with_few_pairs():
    simulator, theta = Line(), torch.zeros(100, 1)
    x = simulator(theta, generator=torch.Generator().manual_seed(0))
    assert check_likelihood(simulator, {"x": x["x"][:1]}, theta, x) == ()
    assert check_likelihood(None, {"x": x["x"][:1]}, theta, x) == ()


@pytest.mark.slow
def test_a_black_hole_of_a_mass_outside_the_prior_is_no_good_answer(root):
    """A chirp mass of 9.7 where the prior begins at 20, answered with 30.7 +- 3.6; no prior draw explains it."""
    simulator, generator = load_simulator(root / "simulators/gravitational_wave"), torch.Generator().manual_seed(0)
    for mass, expected in ((9.7, "alarm"), (30.0, "good")):
        distance = 45.0 * mass
        truth = torch.tensor([[mass, 0.8, 0.1, 0.004, -0.003, distance, distance]])
        x = simulator(truth, generator=generator)
        if expected == "good":
            theta = truth.expand(PAIRS, -1)
        else:
            drawn = simulator.prior.sample(1_500, generator=generator)
            theta = drawn[simulator.log_likelihood(drawn, x).topk(PAIRS).indices]
        (check,) = check_likelihood(simulator, x, theta, simulator(theta, generator=generator))
        assert check.level == expected, check
