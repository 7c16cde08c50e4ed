"""Measurements at random places: what they see, their likelihood, and one posterior for any of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from astropy import units
from emulators.fields import Decay
from scipy import stats

from sciinf import Flow, Recipe, build_posterior, load_simulator, simulate, train
from sciinf.core import Observable
from sciinf.networks.flows import SplineCoupling
from sciinf.simulators.dynamics.grid import BoxGrid, GridInterpolation, interpolated
from sciinf.simulators.dynamics.random_field import Waves
from sciinf.wrappers import scattered


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def waves():
    return Decay(points=64, initial=Waves((1.0,)))


def exact(theta, at, t):
    """The wave of amplitude theta[:, 1], decayed."""
    size = theta[:, 1] * torch.exp(-theta[:, 0] * (2 * math.pi) ** 2 * t)
    return size[:, None] * torch.sin(2 * math.pi * at)


def test_they_measure_the_field_where_they_are(waves):
    simulator = scattered(waves, 6, sd=0.01, frames=[0, 2])
    theta = waves.prior.sample(2_000, generator=generator())
    x = simulator(theta, generator=generator(1))
    assert {name: tuple(value.shape[1:]) for name, value in x.items()} == {"y": (6, 3), "y_mask": (6,)}
    assert simulator.observables["y"] == Observable((6, 3), dims=("item", "feature"))
    at, first, last = x["y"].unbind(2)
    there = x["y_mask"]
    assert bool((x["y"][~there] == 0).all())
    assert stats.kstest(at[there].numpy(), "uniform").pvalue > 1e-4
    counts = torch.bincount(there.sum(1), minlength=7)
    assert stats.chisquare(counts[1:].numpy()).pvalue > 1e-4  # with the test above refused by chance once in 5,000
    assert counts[0] == 0
    for seen, t in ((first, 0.0), (last, 1.0)):
        off = (seen - exact(theta, at, t))[there]
        # straight lines between 64 points are off by (pi / 64)^2 / 2 = 0.12 % of a wave of at most 1.5
        assert float(off.std()) == pytest.approx(0.01, rel=0.05)
        assert float(off.abs().max()) < 0.06


def test_each_row_has_places_of_its_own_in_two_directions():
    grid = BoxGrid((12, 16), (1.0, 2.0))
    y, x = grid.coordinates
    fields = torch.stack([torch.stack([y + 0 * x, 0 * y + x]), torch.stack([0 * y + x, y + 0 * x])])
    at = torch.rand(2, 9, 2, generator=generator()) * torch.tensor([11 / 12, 2 * 15 / 16])
    found = interpolated(grid, fields.reshape(2, 2, 12, 16), at)
    assert torch.allclose(found[0].T, at[0].double())
    assert torch.allclose(found[1].flip(0).T, at[1].double())
    together = GridInterpolation(grid, tuple(tuple(p) for p in at[0].tolist())).of(fields.reshape(2, 2, 12, 16))
    assert torch.allclose(together[0], found[0])


def test_the_likelihood_is_that_of_the_noise_at_the_places_there_are(waves):
    simulator = scattered(waves, 5, sd=0.05, frames=[1])
    theta = waves.prior.sample(9, generator=generator())
    x = simulator(theta, generator=generator(1))
    at, seen = x["y"].double().unbind(2)
    each = torch.distributions.Normal(exact(theta.double(), at, 0.5), 0.05).log_prob(seen)
    expected = (each * x["y_mask"]).sum(1)
    assert simulator.log_likelihood is not None
    assert torch.allclose(simulator.log_likelihood(theta, x), expected, atol=0.2)  # lines are not waves
    assert not torch.allclose(simulator.log_likelihood(theta, x), each.sum(1), atol=0.2)  # the fault: places not there
    one = {name: value[:1] for name, value in x.items()}
    assert simulator.log_likelihood(theta, one)[0] == simulator.log_likelihood(theta, x)[0]


@pytest.mark.slow
def test_one_posterior_answers_for_any_sensors(waves, tmp_path):
    simulator = scattered(waves, 20, least=3, sd=0.1, frames=[0, 2])
    store = simulate(simulator, tmp_path / "store", 2_000, seed=0)
    flow = Flow(simulator.prior, simulator.observables, flow=SplineCoupling(3, 32))
    fit = train(flow, store, tmp_path / "fit", recipe=Recipe(epochs=12, learning_rate=2e-3))
    plain, weighted = build_posterior(fit), build_posterior(fit, simulator, ess=500, budget=10_000)
    theta, amplitude = torch.tensor([[0.02, 1.2]]), {}
    crest, flank, all_over = torch.linspace(0.15, 0.35, 4), torch.linspace(0.02, 0.1, 4), torch.linspace(0.02, 0.93, 20)

    def values(at):
        return torch.stack([exact(theta, at[None], t)[0] for t in (0.0, 1.0)], 1)

    for name, at in (("crest", crest), ("flank", flank), ("all over", all_over)):
        data = simulator.observation(at, values(at))
        draws = weighted.draw({key: value[None] for key, value in data.items()}, 500, generator=generator())
        assert draws.ess / len(draws.theta) > 0.2
        amplitude[name] = draws.resample(2_000, generator=generator())[:, 1]
        assert abs(float(amplitude[name].mean()) - 1.2) < 3 * float(amplitude[name].std())
    assert 1.5 * amplitude["all over"].std() < amplitude["crest"].std() < amplitude["flank"].std()
    elsewhere = simulator.observation(crest, values(flank))  # the fault: where a value was measured is not heeded
    there = simulator.observation(flank, values(flank))
    astray, right = (plain.sample((500,), x=x, generator=generator())[:, 1] for x in (elsewhere, there))
    assert abs(float(right.mean()) - 1.2) < float(right.std())
    assert float(astray.mean()) < float(right.mean()) - 0.1


def test_what_does_not_fit_is_refused(waves):
    simulator = scattered(waves, 5, least=2, sd=0.1)
    for make, says in (
        (lambda: scattered(waves, 5, least=6, sd=0.1), "most"),
        (lambda: scattered(waves, 5, sd=0.0), "positive and finite"),
        (lambda: scattered(waves, 5, sd=0.1, frames=[3]), "has 3, called by numbers from 0 to 2"),
        (lambda: simulator.observation([0.1, 0.2], [[1.0], [2.0]]), "3 frames, 1 channels"),
        (lambda: simulator.observation([0.1, 0.2], torch.zeros(3, 2)), "3 frames, 1 channels"),
        (lambda: simulator.observation(0.1, torch.zeros(1, 3)), r"places \(\) and"),
        (lambda: simulator.observation([0.1, 0.2], torch.full((2, 3), math.nan)), "not finite"),
        (lambda: simulator.observation([0.1, 1.2], torch.zeros(2, 3)), "outside the box"),
        (lambda: simulator.observation([0.1, 0.2] * units.m, torch.zeros(2, 3)), "places are given in 'm'"),
        (lambda: simulator.observation([0.1, 0.2], torch.zeros(2, 3).numpy() * units.s), "observable 'y' is in 's'"),
        (lambda: simulator.observation([0.1], torch.zeros(1, 3)), "1 places and 1 values; there are to be 2 to 5"),
        (lambda: simulator.observation([0.1] * 6, torch.zeros(6, 3)), "6 places"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    kelvin = Decay(points=64, initial=Waves((1.0,)))
    kelvin.observables = {**kelvin.observables, "u": Observable((3, 1, 64), "K", ("time", "channel", "x"))}
    one = scattered(kelvin, 4, sd=0.1, frames=[2])
    assert one.observation([0.5], np.array([1_000.0]) * units.mK)["y"][0].tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match="does not convert"):
        one.observation([0.5], np.array([1.0]) * units.m)
    ordinary = load_simulator("simulators/pde/lorenz_63.py")
    with pytest.raises(TypeError, match="no space"):
        scattered(ordinary, 5, sd=0.1)
    full = scattered(waves, 4, least=4, sd=0.1)
    assert "y_mask" not in full.observables
    assert full.name != scattered(waves, 4, sd=0.1).name
