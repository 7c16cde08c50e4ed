"""A log-likelihood that is not the density of what is simulated is told of by the check; a right one is not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import distributions as td

from sciinf import LogUniform, Normal, Observable, Prior, load_simulator, wrappers
from sciinf.campaigns.densities import density_finding, density_of_draws
from sciinf.core import Simulator
from sciinf.diagnostics.checking import check_simulator
from sciinf.simulators.dynamics.state_space import StateSpace

SIMULATORS = Path(__file__).parent.parent.parent / "simulators"


class Line(Simulator):
    """y_i = a x_i + sd e_i, with a likelihood that may be wrong."""

    name = "line"
    prior = Prior(a=Normal(0.0, 1.0), sd=LogUniform(0.2, 2.0))
    observables = {"y": Observable((5,))}

    def __init__(self, scale: float = 1.0, normalised: bool = True, factor: float = 0.0) -> None:
        self.scale, self.normalised, self.factor = scale, normalised, factor
        self.log_likelihood = self._log_likelihood

    def __call__(self, theta, *, generator):
        noise = torch.randn(len(theta), 5, generator=generator)
        return {"y": theta[:, :1] * torch.arange(5.0) + theta[:, 1:] * noise}

    def _log_likelihood(self, theta, x):
        law = td.Normal(theta[:, :1] * torch.arange(5.0), self.scale * theta[:, 1:])
        found = law.log_prob(x["y"]).sum(1) + self.factor
        return found if self.normalised else found + 5 * theta[:, 1].log()


class Walk(StateSpace):
    """A random walk seen with noise of sd 0.3, whose density may have another."""

    latent = {"place": ""}

    def __init__(self, sd: float = 0.3) -> None:
        self.sd = sd

    def initial(self, theta, rows, *, generator):
        return theta["s"].new_zeros(rows, 1)

    def advance(self, theta, state, start, stop, *, generator):
        return state + theta["s"][:, None] * torch.randn(state.shape, generator=generator)

    def observe(self, theta, state, *, generator):
        return {"y": state[:, 0] + 0.3 * torch.randn(len(state), generator=generator)}

    def log_observe(self, theta, state, x):
        return {"y": td.Normal(state[:, 0], self.sd).log_prob(x["y"])}


def walk(sd: float = 0.3):
    return wrappers.state_space(
        Walk(sd), Prior(s=LogUniform(0.2, 1.0)), range(1, 9), {"y": Observable((8,), "", ("time",))}, begin=0.0
    )


@pytest.mark.parametrize(
    ("simulator", "words"),
    [
        (Line(scale=0.6), "log_likelihood is not the density of what the simulator draws: it is too sure"),
        (Line(scale=1.7), "log_likelihood is not the density of what the simulator draws"),
        (Line(normalised=False), "it prefers one side"),
        (walk(0.15), "log_observe of the model is not the density of what observe draws: it is too sure"),
        (walk(1.0), "it is not sure enough"),
    ],
)
def test_a_wrong_density_is_seen(simulator, words) -> None:
    assert words in density_finding(simulator, 256, 0)
    assert any(words in problem for problem in check_simulator(simulator, rows=256).problems)


@pytest.mark.parametrize("make", [Line, walk, lambda: Line(factor=3.0)])
def test_a_right_one_is_not(make) -> None:
    """Three tests, each at five standard errors: a false alarm in 2e-6 a seed, 4e-5 over all."""
    assert {density_finding(make(), 256, seed) for seed in range(20)} == {""}


@pytest.mark.parametrize("name", ["linear_gaussian", "turned_spot", "sir_jumps", "nile", "benchmarks/two_moons"])
def test_likelihoods_of_the_simulators_are_densities(name) -> None:
    assert density_finding(load_simulator(SIMULATORS / f"{name}.py"), 128, 0) == ""


def test_data_that_only_one_of_a_pair_can_give_are_no_fault() -> None:
    """y ~ Uniform(a - 1, a + 1): where supports differ, ratios of densities would have another mean than 1."""

    class Box(Simulator):
        name, prior, observables = "box", Prior(a=Normal(0.0, 3.0)), {"y": Observable((1,))}

        def __call__(self, theta, *, generator):
            return {"y": theta + 2 * torch.rand(theta.shape, generator=generator) - 1}

        def log_likelihood(self, theta, x):  # type: ignore[override]
            inside = (x["y"] - theta).abs() <= 1
            return torch.where(inside, -math.log(2), -math.inf)[:, 0]

    assert {density_finding(Box(), 256, seed) for seed in range(10)} == {""}


def test_a_likelihood_that_fails_is_told() -> None:
    simulator = Line()
    simulator.log_likelihood = lambda theta, x: x["z"]
    (found,) = [p for p in check_simulator(simulator, rows=64).problems if "log_likelihood" in p]
    assert "fails on data of the simulator's own: KeyError" in found


@pytest.mark.parametrize(("scale", "seen"), [(1.0, False), (0.5, True), (2.0, True)])
def test_a_wrong_density_is_seen_where_an_answer_lies(scale, seen) -> None:
    """Of draws near each other, as those of a posterior are, with the data that were simulated from each.

    A right one is blamed with probability 2e-6 a seed.
    """
    line = Line(scale=scale)
    found = []
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        theta = torch.stack(
            [0.3 + 0.1 * torch.randn(400, generator=draw), 0.5 * torch.rand(400, generator=draw) + 0.5], 1
        )
        found.append(bool(density_of_draws(line, theta, line(theta, generator=draw), seed)))
    assert found == [seen] * 5
