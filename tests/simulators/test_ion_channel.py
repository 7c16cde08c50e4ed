"""The blocked channel: its likelihood against a sum over all paths, and ranks of parameters and states.

False-alarm rates: counts alarm at 4 standard errors (6e-5), ranks at 1e-3. Seeds are fixed.
"""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch
from samplers.ranked import ranks, worst
from scipy import stats

from sciinf import Observable, wrappers
from sciinf.core import load_simulator

FILE = Path(__file__).parents[2] / "simulators" / "ion_channel.py"
THETA = {"opening": 0.4, "closing": 0.3, "blocking": 1.2, "unblocking": 2.5, "amplitude": 4.0, "noise": 1.0}
SHORT = [0.0, 0.1, 0.2, 3.2, 3.3, 4.3]  # with gaps


@pytest.fixture(scope="module")
def simulator():
    return load_simulator(FILE)


@pytest.fixture(scope="module")
def module(simulator):
    return sys.modules[type(simulator.model).__module__]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def few(simulator, times, model=None):
    """The simulator at a few times."""
    seen = {"current": Observable((len(times),), "pA", ("time",))}
    return wrappers.state_space(model or simulator.model, simulator.prior, times, seen)


def every_path(times, current):
    """Log of the sum over all paths, in plain numbers, and the probability that the channel is open at each time."""
    a, b, p, q, amplitude, noise = THETA.values()
    rates = torch.tensor([[-a, a, 0.0], [b, -b - p, p], [0.0, q, -q]], dtype=torch.float64)
    start = torch.linalg.matrix_exp(1e4 * rates)[0]  # long after
    moves = [torch.linalg.matrix_exp(rates * (t - s)) for s, t in itertools.pairwise(times)]
    total, open_at = 0.0, torch.zeros(len(times), dtype=torch.float64)
    for path in itertools.product(range(3), repeat=len(times)):
        chance = float(start[path[0]])
        for move, (i, j) in zip(moves, itertools.pairwise(path), strict=True):
            chance *= float(move[i, j])
        for state, x in zip(path, current, strict=True):
            chance *= stats.norm.pdf(x, amplitude if state == 1 else 0.0, noise)
        total += chance
        open_at += chance * torch.tensor([state == 1 for state in path])
    return math.log(total), torch.as_tensor(open_at / total)


def made(times, simulator):
    theta = torch.tensor([list(THETA.values())], dtype=torch.float64)
    return theta, few(simulator, times)(theta, generator=generator(7))


def test_the_likelihood_is_the_sum_over_all_paths(simulator):
    theta, x = made(SHORT, simulator)
    short = few(simulator, SHORT)
    assert short.log_likelihood is not None
    found = short.log_likelihood(theta, x)
    truth, _ = every_path(SHORT, x["current"][0].tolist())
    assert not simulator.random_likelihood
    assert float(found) == pytest.approx(truth, abs=1e-6)
    without_gaps = [0.1 * k for k in range(len(SHORT))]
    assert abs(truth - every_path(without_gaps, x["current"][0].tolist())[0]) > 1e-3  # the fault: gaps not told


def test_paths_are_those_of_the_sum(simulator):
    """Shares of 4,000 paths that are open, within 4 standard errors."""
    theta, x = made(SHORT, simulator)
    paths = few(simulator, SHORT).smooth(theta.expand(4_000, -1), x, generator=generator(1))[..., 0]
    _, truth = every_path(SHORT, x["current"][0].tolist())
    off = ((paths == 1).double().mean(0) - truth).abs()
    assert bool((off < 4 * (truth * (1 - truth) / 4_000).sqrt() + 1e-4).all())


def test_a_record_begins_in_the_law_that_lasts(simulator, module):
    theta = {name: torch.full((1,), value, dtype=torch.float64) for name, value in THETA.items()}
    start = module.Channel().start(theta)
    assert start.sum() == pytest.approx(1.0)
    torch.testing.assert_close((start[:, None] @ module.Channel().transition(theta, 0.0, 0.7))[:, 0], start)
    assert start[0, 1] / start[0, 0] == pytest.approx(THETA["opening"] / THETA["closing"])


def test_times_have_the_gaps(simulator):
    steps = simulator.times.diff()
    assert len(simulator.times) == 200
    assert sorted(steps[steps > 0.15].round(decimals=3).tolist()) == [1.0, 3.0, 7.0]
    assert float(steps.min()) == pytest.approx(0.1, abs=1e-5)


@pytest.mark.slow
def test_records_tell_their_parameters(simulator):
    """Eight records together: the log-likelihood at the truth is higher than with one parameter changed, by over 3."""
    theta = torch.tensor([list(THETA.values())], dtype=torch.float64).expand(8, -1)
    x = simulator(theta, generator=generator(3))
    at = simulator.log_likelihood(theta, x).sum()
    for name in THETA:
        other = theta.clone()
        other[:, simulator.prior.names.index(name)] *= 3.0
        assert float(at - simulator.log_likelihood(other, x).sum()) > 3, name


@pytest.mark.slow
def test_parameters_and_states_are_calibrated_and_a_blind_filter_is_not(simulator, module):
    """Ranks of 200 truths among 400 weighted draws; false alarms 1e-3. The fault: a judge whose drug never leaves."""

    class Stuck(module.FiniteStates):
        states, start = module.Channel.states, module.Channel.start
        observe, log_observe = module.Channel.observe, module.Channel.log_observe

        def rates(self, theta):
            return module.Channel.rates(self, {**theta, "unblocking": 0.05 * theta["unblocking"]})

    times = [0.0, 0.1, 0.2, 0.3, 0.8, 0.9, 2.0, 2.1, 2.2, 5.0]
    short = few(simulator, times)
    assert worst(ranks(short, short, 200, 400)) > 1e-3
    assert worst(ranks(short, few(simulator, times, Stuck()), 200, 400)) < 1e-3
