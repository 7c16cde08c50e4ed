"""Paths drawn at all times at once: they go on where others ended, and their posterior knows what noise does."""

from __future__ import annotations

import pytest
import torch

from sciinf import Observable, Prior, Recipe, Simulator, simulate, train
from sciinf.emulators import LatentDynamics
from sciinf.emulators.processes import Parallel, Series, Sizes


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def blank(length, times=None):
    return Series(torch.zeros(1, length, 3), torch.zeros(1, length, dtype=torch.bool), torch.ones(1, 2), times)


@pytest.mark.parametrize("equal", [True, False])
def test_a_path_in_parts_is_the_whole_path(equal):
    """Of the same noise: one row, so that the parts take theirs from the stream one after the other."""
    process = Parallel(3, noise=2, width=8, recurrences=4).build(Sizes(3, 2, 0), seed=0)
    times = None if equal else torch.rand(1, 64, generator=generator(1)).cumsum(1)
    whole = process.prior(blank(64, times), generator=generator())
    draw = generator()
    first, end = process.resumed(blank(32, None if equal else times[:, :32]), None, generator=draw)
    second, _ = process.resumed(blank(32, None if equal else times[:, 32:]), end, generator=draw)
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-5)
    draw = generator()
    process.resumed(blank(32), None, generator=draw)
    anew, _ = process.resumed(blank(32, None if equal else times[:, 32:]), None, generator=draw)
    assert not torch.allclose(anew, whole[:, 32:], atol=1e-2)  # the fault: a path that begins anew


class Autoregression(Simulator):
    """x_t = 0.9 x_{t-1} + e_t: log likelihood in closed form."""

    name = "autoregression"
    prior = Prior.none()
    observables = {"x": Observable((12, 1), dims=("time", "channel"))}

    def __call__(self, theta, *, generator):
        noise, found = torch.randn(12, len(theta), 1, generator=generator), []
        for e in noise:
            found.append(0.9 * found[-1] + e if found else e / (1 - 0.81) ** 0.5)
        return {"x": torch.stack(found, 1)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_posterior_of_an_autoregression_needs_noise_that_is_correlated(tmp_path):
    simulator = Autoregression()
    store = simulate(simulator, tmp_path / "store", 500, seed=0, progress=False)
    rows = simulator(torch.zeros(200, 0), generator=generator(1))
    bounds = []
    for correlated in (True, False):
        process = Parallel(1, noise=1, width=8, recurrences=4, layers=1, longest=8, correlated=correlated)
        surrogate = LatentDynamics(simulator.prior, simulator.observables, process, width=0)
        recipe = Recipe(epochs=24, batch=50, learning_rate=1.5e-2)
        fit = train(surrogate, store, tmp_path / str(correlated), recipe=recipe, progress=False)
        with torch.no_grad():
            bounds.append(float(fit.surrogate.bound(torch.zeros(200, 0), rows, generator=generator()).mean()) / 12)
    x = rows["x"][..., 0].double()
    law = torch.distributions.Normal(0.9 * x[:, :-1], 1.0)
    exact = law.log_prob(x[:, 1:]).sum(1) + torch.distributions.Normal(0.0, (1 - 0.81) ** -0.5).log_prob(x[:, 0])
    gaps = [float(exact.mean()) / 12 - bound for bound in bounds]
    assert 0 < gaps[0] < 0.7 * gaps[1]


def test_what_is_asked_for_wrongly_is_said():
    with pytest.raises(ValueError, match="noise"):
        Parallel(2, noise=0)
