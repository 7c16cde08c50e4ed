"""Sensors in fields: what they measure, their noise, and their likelihood."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from emulators.fields import Decay
from scipy import stats

from sciinf import Flow, build_posterior
from sciinf.core import Fit, identity, load_simulator
from sciinf.simulators.dynamics.random_field import Waves
from sciinf.wrappers import Sensors, observed

AT = (0.1, 0.35, 0.8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def waves():
    return Decay(initial=Waves((1.0,)))


def test_they_measure_the_field_where_they_are(waves):
    simulator = observed(waves, Sensors(AT, sd=0.01))
    theta = waves.prior.sample(4_000, generator=generator())
    y = simulator(theta, generator=generator(1))["y"]
    assert y.shape == (4_000, *simulator.observables["y"].shape) == (4_000, 3, 3)
    t = torch.tensor(waves.times)[:, None]
    at = torch.tensor(AT)
    exact = theta[:, 1, None, None] * torch.exp(-theta[:, 0, None, None] * (2 * math.pi) ** 2 * t)
    exact = exact * torch.sin(2 * math.pi * at)
    off = (y - exact).flatten(1)
    # straight lines between 16 points are off by (pi / 16)^2 / 2 = 2 % of a wave of at most 1.5
    assert float(off.mean(0).abs().max()) < 0.03
    noise = (off - off.mean(0))[:, 6:]  # at the last frame, where what is left of the bias hardly varies
    assert float(noise.std()) == pytest.approx(0.01, rel=0.1)
    assert float(off.abs().max()) < 0.08


def test_noise_is_gaussian_and_independent(waves):
    simulator = observed(waves, Sensors(AT, sd=0.3, frames=[1]))
    theta = waves.prior.sample(1, generator=generator()).expand(3_000, -1)
    y = simulator(theta, generator=generator(2))["y"]
    assert y.shape == (3_000, 3)
    noise = (y - y.mean(0)) / 0.3
    # three tests at 1e-4 and one bound of 5 sds on three correlations: refused by chance once in 3,000
    assert min(stats.kstest(noise[:, k].numpy(), "norm").pvalue for k in range(3)) > 1e-4
    assert float(torch.corrcoef(noise.mT).fill_diagonal_(0.0).abs().max()) < 5 / math.sqrt(3_000)


def test_the_likelihood_is_that_of_the_noise(waves):
    simulator = observed(waves, Sensors(AT, sd=0.05, frames=[2]))
    theta = waves.prior.sample(7, generator=generator())
    x = simulator(theta, generator=generator(1))
    clean = simulator.measured(waves.solve(theta.double(), waves.start(theta, generator=generator())))
    expected = torch.distributions.Normal(clean, 0.05).log_prob(x["y"].double()).sum(1)
    assert simulator.log_likelihood is not None
    assert torch.allclose(simulator.log_likelihood(theta, x).double(), expected, rtol=1e-4, atol=1e-3)
    wide = observed(waves, Sensors(AT, sd=0.1, frames=[2]))  # the fault: another noise
    assert not torch.allclose(wide.log_likelihood(theta, x).double(), expected, rtol=1e-2)


def test_other_sensors_are_another_simulator(waves):
    names = {
        observed(waves, sensors, beside=beside).name
        for sensors, beside in (
            (Sensors(AT, sd=0.05), []),
            (Sensors(AT, sd=0.06), []),
            (Sensors((0.1, 0.35, 0.9), sd=0.05), []),
            (Sensors(AT, sd=0.05, frames=[1]), []),
            (Sensors(AT, sd=0.05), ["initial"]),
        )
    }
    assert len(names) == 5
    some = observed(waves, Sensors(AT, sd=1.0, frames=[1, 2]))
    same = observed(waves, Sensors([np.array([a]) for a in AT], sd=1, frames=range(1, 3), channels=(0,)))
    assert same.name == some.name
    assert observed(waves, Sensors(torch.tensor(AT), sd=0.05)).name not in names  # other numbers, by rounding
    assert observed(waves, Sensors(list(AT), sd=0.05)).name in names


def test_a_start_that_is_shown_tells_of_theta_and_so_there_is_no_likelihood(waves):
    assert observed(waves, Sensors(AT, sd=0.1), beside=["initial"]).log_likelihood is None


def test_what_draws_and_says_that_it_does_not_has_no_likelihood():
    """One draw taken for the solution would give an answer, and a wrong one."""
    equation = Decay()
    equation.random = False
    simulator = observed(equation, Sensors(AT, sd=0.1))
    theta = simulator.prior.sample(5, generator=generator())
    with pytest.raises(ValueError, match=r"draws its start or its solution, .* Set self\.random = True"):
        simulator.log_likelihood(theta, simulator(theta, generator=generator(1)))


def test_random_starts_have_no_likelihood_but_can_be_shown():
    simulator = observed(Decay(), Sensors(AT, sd=0.1), beside=["initial"])
    assert simulator.log_likelihood is None
    theta = simulator.prior.sample(5, generator=generator())
    x = simulator(theta, generator=generator(1))
    assert set(x) == set(simulator.observables) == {"y", "initial"}
    assert x["initial"].shape == (5, 1, 16)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"at": [1.5]}, "outside the box"),
        ({"at": []}, "no sensors"),
        ({"sd": 0.0}, "positive"),
        ({"frames": [3]}, "frames"),
        ({"frames": [0.5]}, r"called by numbers from 0 to 2"),  # a time
        ({"frames": [True]}, "called by numbers"),
        ({"channels": []}, "channels"),
        ({"at": 0.1}, r"at=\[...\], got 0.1"),
        ({"sd": [0.1, 0.2]}, r"one number, .* got \[0.1, 0.2\]"),
    ],
)
def test_sensors_that_cannot_be_are_refused(waves, told, says):
    with pytest.raises(ValueError, match=says):
        observed(waves, Sensors(**{"at": AT, "sd": 0.1} | told))


def test_a_likelihood_of_other_measurements_does_not_correct_without_a_word(waves):
    right = observed(waves, Sensors(AT, sd=0.1))
    estimator = Flow(right.prior, right.observables)
    record = {"store": {"digest": "store", "seed": 0}}
    fit = Fit(estimator.eval(), "digest", identity(right), record, Path())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_posterior(fit, right)
    for sensors in (Sensors(AT, sd=0.2), Sensors((0.2, 0.45, 0.9), sd=0.1)):
        with pytest.warns(UserWarning, match=r"other settings .*sensors was .* another experiment"):
            build_posterior(fit, observed(waves, sensors))
    with pytest.warns(UserWarning, match=r"other settings .*initial was"):
        build_posterior(fit, observed(Decay(points=64, initial=Waves((1.0, 0.5))), Sensors(AT, sd=0.1)))
    with pytest.raises(ValueError, match="another experiment corrects nothing"):
        build_posterior(fit, observed(waves, Sensors(AT[:2], sd=0.1)))


def test_what_has_no_fields_is_refused(waves, root):
    with pytest.raises(TypeError, match="fields of a differential equation"):
        observed(load_simulator(root / "simulators" / "linear_gaussian.py"), Sensors(AT, sd=0.1))
    with pytest.raises(TypeError, match="no space"):
        observed(load_simulator(root / "simulators" / "pde" / "lorenz_63.py"), Sensors(AT, sd=0.1))
    with pytest.raises(ValueError, match="does not start from 'w'"):
        observed(waves, Sensors(AT, sd=0.1), beside=["w"])
