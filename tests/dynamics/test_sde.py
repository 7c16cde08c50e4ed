"""Equations that noise drives: strong orders, laws, the sense of g dW, and what is refused.

False-alarm rates: means and variances alarm at 4 standard errors (6e-5), KS tests at p < 1e-4. Seeds are fixed. Orders
are means of three halvings of the step on 4,000 paths, whose scatter over seeds is below .02.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from sciinf.simulators.dynamics.sde import SDE, EulerMaruyama, Milstein, StochasticHeun

PATHS, FINE = 4_000, 256
MU, SIGMA = 0.5, 0.8


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def growth(scheme=None):
    """Geometric Brownian motion, whose solution is known path by path."""
    return SDE(
        lambda theta, z, time: theta["mu"][:, None] * z, lambda theta, z, time: theta["sigma"][:, None] * z, scheme
    )


def constant(rows=PATHS, **values):
    return {name: torch.full((rows,), value, dtype=torch.float64) for name, value in values.items()}


def strong_order(scheme, ito):
    """Slope of log mean absolute error against log step; both of the same noise."""
    noise = torch.randn(FINE, PATHS, 1, generator=generator(), dtype=torch.float64) / math.sqrt(FINE)
    truth = ((MU - SIGMA**2 / 2 * ito) + SIGMA * noise.sum(0)).exp()
    errors = []
    for steps in (16, 32, 64, 128):
        coarse = noise.view(steps, FINE // steps, PATHS, 1).sum(1)
        start = torch.ones(PATHS, 1, dtype=torch.float64)
        found = growth(scheme).solve(constant(mu=MU, sigma=SIGMA), start, 0.0, 1.0, steps=steps, noise=coarse)
        errors.append(float((found - truth).abs().mean()))
    return math.log2(errors[0] / errors[-1]) / 3


def test_strong_orders_are_a_half_and_one():
    assert strong_order(EulerMaruyama(), ito=True) == pytest.approx(0.5, abs=0.1)
    assert strong_order(Milstein(), ito=True) == pytest.approx(1.0, abs=0.1)
    assert strong_order(StochasticHeun(), ito=False) == pytest.approx(1.0, abs=0.1)


def test_one_sense_taken_for_the_other_is_another_equation():
    assert strong_order(StochasticHeun(), ito=True) < 0.1
    assert strong_order(Milstein(), ito=False) < 0.1
    # where g is constant there is one sense
    theta, start = constant(rate=1.0), torch.ones(PATHS, 1, dtype=torch.float64)
    found = [
        SDE(lambda theta, z, t: -theta["rate"][:, None] * z, lambda theta, z, t: torch.full_like(z, 0.3), scheme).solve(
            theta, start, 0.0, 1.0, steps=200, generator=generator()
        )
        for scheme in (EulerMaruyama(), Milstein(), StochasticHeun())
    ]
    assert torch.equal(found[0], found[1])
    assert float((found[0] - found[2]).abs().max()) < 0.01


@pytest.mark.parametrize("scheme", [EulerMaruyama(), Milstein(), StochasticHeun()])
def test_a_relaxing_process_has_its_moments_at_each_row_s_own_times(scheme):
    rows = 9_000
    rate, sigma = 1.3, 0.6
    theta = constant(rows, rate=rate, sigma=sigma)
    theta["sigma"][1::3] = wide = 1.5
    equation = SDE(
        lambda theta, z, time: -theta["rate"][:, None] * z,
        lambda theta, z, time: theta["sigma"][:, None] * torch.ones_like(z),
        scheme,
    )
    start = torch.full((rows,), 3.0, dtype=torch.float64)
    stop = start + 0.5 * (1 + torch.arange(rows) % 3)
    found = equation.solve(
        theta, torch.full((rows, 1), 2.0, dtype=torch.float64), start, stop, steps=400, generator=generator()
    )
    for k in range(3):
        span, part = 0.5 * (1 + k), found[k::3, 0]
        own = wide if k == 1 else sigma
        mean, variance = 2 * math.exp(-rate * span), own**2 / (2 * rate) * (1 - math.exp(-2 * rate * span))
        bias = 0.005  # of 400 steps
        assert abs(float(part.mean()) - mean) < bias + 4 * math.sqrt(variance / len(part))
        assert abs(float(part.var()) / variance - 1) < bias + 4 * math.sqrt(2 / len(part))


def test_noise_of_several_motions_has_its_covariance_and_heun_takes_it():
    rows = 8_000
    factor = torch.tensor([[1.0, 0.0, 0.5], [0.7, 0.2, 0.0]], dtype=torch.float64)
    for scheme in (EulerMaruyama(), StochasticHeun()):
        equation = SDE(lambda theta, z, t: 0 * z, lambda theta, z, t: factor.expand(len(z), 2, 3), scheme)
        found = equation.solve({}, torch.zeros(rows, 2, dtype=torch.float64), 0.0, 2.0, steps=5, generator=generator())
        assert torch.allclose(found.T.cov(), 2 * factor @ factor.T, atol=4 * 2 * 1.25 * math.sqrt(2 / rows))


def test_time_reaches_the_fields():
    times = []

    def drift(theta, z, time):
        times.append(time)
        return (2 * time)[:, None].to(z)

    start = torch.tensor([0.0, 1.0], dtype=torch.float64)
    equation = SDE(drift, lambda theta, z, time: 0 * z, StochasticHeun())
    found = equation.solve(
        {}, torch.zeros(2, 1, dtype=torch.float64), start, start + 1, steps=10, generator=generator()
    )
    assert torch.allclose(found[:, 0], torch.tensor([1.0, 3.0], dtype=torch.float64))  # the trapezoidal rule of 2 t
    assert all(time.shape == (2,) for time in times)


def test_a_path_has_the_law_of_one_solution_and_gradients_flow():
    theta, start = constant(2_000, mu=MU, sigma=SIGMA), torch.ones(2_000, 1, dtype=torch.float64)
    path = growth(Milstein()).at(theta, start, [0.0, 0.2, 1.0], steps=40, generator=generator(1))
    assert path.shape == (2_000, 3, 1)
    assert not path.requires_grad
    with torch.no_grad():
        assert torch.equal(path, growth(Milstein()).at(theta, start, [0.0, 0.2, 1.0], steps=40, generator=generator(1)))
    law = stats.lognorm(s=SIGMA, scale=math.exp(MU - SIGMA**2 / 2))
    assert stats.kstest(path[:, -1, 0].numpy(), law.cdf).pvalue > 1e-4
    theta["mu"].requires_grad_()
    for scheme in (EulerMaruyama(), Milstein(), StochasticHeun()):
        found = growth(scheme).solve(theta, start, 0.0, 1.0, steps=20, generator=generator())
        (slope,) = torch.autograd.grad(found.sum(), theta["mu"])
        assert float(slope.mean()) == pytest.approx(float(found.detach().mean()), rel=0.05)


def test_what_does_not_fit_is_refused():
    theta, start = constant(4, mu=MU, sigma=SIGMA), torch.ones(4, 2, dtype=torch.float64)
    crossed = SDE(lambda theta, z, t: 0 * z, lambda theta, z, t: z.flip(-1), Milstein())
    with pytest.raises(ValueError, match="depends on that number alone"):
        crossed.solve(theta, start * torch.tensor([1.0, 2.0]), 0.0, 1.0, steps=2, generator=generator())
    several = SDE(lambda theta, z, t: 0 * z, lambda theta, z, t: torch.ones(len(z), 2, 3).to(z), Milstein())
    with pytest.raises(ValueError, match="for diagonal noise"):
        several.solve(theta, start, 0.0, 1.0, steps=2, generator=generator())
    wrong = SDE(lambda theta, z, t: theta["mu"] * z[:, 0], lambda theta, z, t: z)
    with pytest.raises(ValueError, match="the drift is"):
        wrong.solve(theta, start, 0.0, 1.0, steps=2, generator=generator())
    with pytest.raises(ValueError, match="either a generator or the noise"):
        growth().solve(theta, start, 0.0, 1.0, steps=2)
    with pytest.raises(ValueError, match="expected \\(step, row, motion\\)"):
        growth().solve(theta, start, 0.0, 1.0, steps=2, noise=torch.zeros(2, 4, 1))
    with pytest.raises(ValueError, match="steps is 0"):
        growth().solve(theta, start, 0.0, 1.0, steps=0, generator=generator())
    with pytest.raises(ValueError, match="run backwards"):
        growth().solve(theta, start, 1.0, 0.0, steps=2, generator=generator())
    with pytest.raises(TypeError, match="floating point"):
        growth().solve(theta, start.long(), 0.0, 1.0, steps=2, generator=generator())
