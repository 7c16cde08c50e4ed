"""Jump processes that are learned, beside the exact law of a chain, and the master equation solved in small steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sciinf import Observable, Prior
from sciinf.emulators import LatentDynamics
from sciinf.emulators.processes import MarkovJump, Series, Sizes
from sciinf.simulators.dynamics.finite_states import FiniteStates
from sciinf.simulators.dynamics.state_space import Record
from sciinf.simulators.samplers.forward import forward, smoothed

RATES = torch.tensor([[0.0, 0.7, 0.1], [0.3, 0.0, 0.5], [0.2, 0.9, 0.0]], dtype=torch.float64)
START = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
TIMES = torch.tensor([[0.0, 0.4, 1.0, 3.0, 3.5, 6.0]])
VALUES = torch.tensor([[0.2, 0.9, -0.4, 1.8, 1.1, 0.3]])
NOISE = 0.6


class Chain(FiniteStates):
    states = ("a", "b", "c")

    def start(self, theta):
        return START[None]

    def rates(self, theta):
        return RATES[None]

    def observe(self, theta, state, *, generator):
        raise NotImplementedError

    def log_observe(self, theta, state, x):
        return {"x": torch.distributions.Normal(state[:, 0], NOISE).log_prob(x["x"])}


class Read(nn.Module):
    """What was seen, as it is: log likelihoods of the states."""

    def forward(self, x):
        return x[..., :3]


@pytest.fixture(scope="module")
def known():
    """A process with known rates and start, that is told log likelihoods."""
    process = MarkovJump(3, hidden=0).build(Sizes(3, 0, 0), seed=0)
    with torch.no_grad():
        log = RATES.clamp_min(1e-30).log() - math.log(0.3 / 2)
        process.rate.direct.bias.copy_(log.flatten())
        process.start.direct.bias.copy_(START.log())
    process.told = Read()
    return process


def told(there=None):
    """The record, as the process is told it."""
    log = torch.distributions.Normal(torch.arange(3.0), NOISE).log_prob(VALUES[..., None])
    there = torch.ones_like(VALUES, dtype=torch.bool) if there is None else there
    return Series(torch.where(there[..., None], log, 0.0), there, torch.zeros(1, 0), TIMES)


def draw(process, series):
    with torch.no_grad():
        return process.posterior(series, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("missing", [(), (1, 2), (0, 5)])
def test_told_likelihoods_it_is_the_exact_law_and_likelihood(known, missing):
    there = torch.tensor([[k not in missing for k in range(6)]])
    series = told(there)
    exact = forward(Chain(), {}, Record(TIMES.double(), {"x": VALUES.double()}, {"x": there}))
    found = draw(known, series)
    assert torch.allclose(found.marginals.double(), smoothed(exact), atol=1e-5)
    expected = (series.seen * found.marginals).sum((1, 2))
    assert float(expected - found.kl) == pytest.approx(float(exact.log_likelihood), abs=1e-4)
    assert float(expected) > float(exact.log_likelihood) + 0.3  # the fault: no bound, where the KL is left out


def test_told_anything_else_its_bound_is_below_the_likelihood(known):
    series = told()
    exact = float(forward(Chain(), {}, Record(TIMES.double(), {"x": VALUES.double()}, {})).log_likelihood)
    for scale in (0.0, 0.5, 2.0):
        said = Series(scale * series.seen, series.there, series.context, series.times)
        found = draw(known, said)
        assert float((series.seen * found.marginals).sum() - found.kl) < exact - 0.01


@pytest.mark.slow
def test_it_solves_the_master_equation_and_its_kl_is_the_integral(known):
    """Rates r_ij b_j(t) / b_i(t), in 2,000 steps between two times, by the rule of the middle."""
    series = told()
    found = draw(known, series)
    said, matrix = series.seen[0].double(), RATES - torch.diag(RATES.sum(-1))
    back = [said[-1].exp()]
    for k in range(4, -1, -1):
        back.append(said[k].exp() * (torch.linalg.matrix_exp(matrix * float(TIMES[0, k + 1] - TIMES[0, k])) @ back[-1]))
    back = back[::-1]
    law = START * back[0] / (START * back[0]).sum()
    kl = (law * (law / START).log()).sum()
    for k in range(5):
        span = float(TIMES[0, k + 1] - TIMES[0, k])
        h = span / 2_000
        forth, half = (torch.linalg.matrix_exp(-matrix * t) for t in (h, h / 2))
        b = half @ torch.linalg.matrix_exp(matrix * span) @ back[k + 1]  # h / 2 after the time, and then on
        for _ in range(2_000):
            rates = RATES * b / b[:, None]
            flow = rates - torch.diag(rates.sum(-1))
            middle = law + h / 2 * law @ flow
            apart = rates * torch.where(RATES > 0, rates / RATES.clamp_min(1e-9), 1.0).log() - rates + RATES
            kl = kl + h * (middle @ apart.sum(-1))
            law, b = law + h * middle @ flow, forth @ b
        assert torch.allclose(law, found.marginals[0, k + 1].double(), atol=1e-4)
    assert float(kl) == pytest.approx(float(found.kl), abs=1e-3)


@pytest.mark.slow
def test_expectations_over_states_are_exact_and_have_slopes():
    observables = {"x": Observable((6, 1), dims=("time", "channel"))}
    made = LatentDynamics(Prior.none(), observables, MarkovJump(3, hidden=0), width=4)
    rows, x = torch.zeros(1, 0), {"x": VALUES[..., None]}
    bounds = [made.bound(rows, x, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    assert torch.equal(*bounds)  # no noise of draws
    (slope,) = torch.autograd.grad(bounds[0].sum(), made.process.told.direct.weight)
    assert float(slope.abs().max()) > 1e-6
    many = torch.stack([made.bound(rows, x, generator=torch.Generator().manual_seed(k), draws=300) for k in range(3)])
    assert float(many.min()) > float(bounds[0]) - 1e-3


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="states"):
        MarkovJump(1)
    with pytest.raises(ValueError, match="hidden"):
        MarkovJump(3, hidden=-1)
