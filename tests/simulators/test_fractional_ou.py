"""The fractional Ornstein-Uhlenbeck process: its covariance and likelihood, each computed in another way.

False-alarm rates: covariances of simulations alarm at 5 standard errors, 55 of them at once (4e-5). Seeds are fixed.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, special

from sciinf.core import load_simulator
from sciinf.simulators.dynamics.noise import MarkovFractional

FILE = Path(__file__).parents[2] / "simulators" / "fractional_ou.py"
K, S, NOISE = 0.8, 1.3, 0.05
AT = range(4, 50, 5)  # ten of the times


@pytest.fixture(scope="module")
def simulator():
    return load_simulator(FILE)


@pytest.fixture(scope="module")
def module(simulator):
    return sys.modules[type(simulator.model).__module__]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def theta_of(hurst, k=K, rows=1):
    return torch.tensor([[hurst, k, S, NOISE]], dtype=torch.float64).expand(rows, 4)


def of_the_sum(times, hurst, k=K, horizon=10.0):
    """Covariance of x where B_H is the sum of six processes, by the exponential of the whole equation.

    One matrix for (Y_1 ... Y_6, x), its exponential and the integral of what comes in (Van Loan), in steps so short
    that no digit is lost; x has the row -s w gamma and -k, and s sum w of the noise.
    """
    motion = MarkovFractional(torch.tensor([hurst], dtype=torch.float64), horizon)
    gamma, w = motion.speeds.numpy(), motion.weights[0].numpy()
    drift = np.zeros((7, 7))
    drift[:6, :6] = -np.diag(gamma)
    drift[6] = [*(-S * w * gamma), -k]
    inflow = np.array([*np.ones(6), S * w.sum()])
    values = []
    for stop in times:  # of the state at 0 nothing is left, so that each time stands by itself
        values.append(_grown(drift, inflow, float(stop)))
    found = np.empty((len(times), len(times)))
    for i, covariance in enumerate(values):
        for j in range(i, len(times)):
            move = _moved(drift, float(times[j] - times[i]))
            found[i, j] = found[j, i] = (move @ covariance)[6, 6]
    return found


def _moved(drift, time):
    halvings = max(0, math.ceil(math.log2(max(np.abs(drift).max() * time, 1e-9))) + 4)
    move = _series(drift * (time / 2**halvings))
    for _ in range(halvings):
        move = move @ move
    return move


def _series(small):
    term, total = np.eye(len(small)), np.eye(len(small))
    for n in range(1, 20):
        term = term @ small / n
        total = total + term
    return total


def _grown(drift, inflow, time):
    """int_0^time e^{A u} b b^T e^{A^T u} du, by doubling."""
    size, halvings = len(drift), max(0, math.ceil(math.log2(np.abs(drift).max() * time)) + 4)
    h = time / 2**halvings
    block = np.block([[-drift, np.outer(inflow, inflow)], [np.zeros((size, size)), drift.T]]) * h
    whole = _series(block)
    move = whole[size:, size:].T
    grown = move @ whole[:size, size:]
    for _ in range(halvings):
        grown = grown + move @ grown @ move.T
        move = move @ move
    return grown


def exactly(times, hurst):
    """Covariance of x where B_H is Riemann and Liouville's motion itself, by quadrature.

    x(t) = s int_0^t K(t - u) dW(u) with K(v) = v^{a-1} / Gamma(a) - k int_0^v e^{-k(v-r)} r^{a-1} dr / Gamma(a),
    a = H + 1/2, of which the integral is v^a M(1, a + 1, -k v) / Gamma(a + 1), with Kummer's M.
    """
    a = hurst + 0.5

    def kernel(v):
        return v ** (a - 1) / special.gamma(a) - K * v**a * special.hyp1f1(1, a + 1, -K * v) / special.gamma(a + 1)

    found = np.empty((len(times), len(times)))
    for i, s in enumerate(times):
        for j in range(i, len(times)):
            gap = float(times[j] - s)
            # v = r^p, so that v^{2(a-1)} dv has no pole
            p = 1 / (2 * hurst)
            value, _ = integrate.quad(
                lambda r, gap=gap, p=p: kernel(r**p) * kernel(r**p + gap) * p * r ** (p - 1),
                0,
                float(s) ** (2 * hurst),
                limit=400,
            )
            found[i, j] = found[j, i] = S**2 * value
    return found


def missing(times, hurst, sd):
    """How far covariances may be from the exact ones, (time, time), for what the sum lacks of B_H.

    x differs from its sum by s (e - k int e^{-k(t-u)} e du), e what is missing of B_H, which is twice s times the sd of
    e at most; and a covariance by that sd times those of both.
    """
    motion = MarkovFractional(torch.tensor([hurst], dtype=torch.float64), 10.0)
    variance = 10.0 ** (2 * hurst) / ((2 * hurst + 1) * 2 * hurst * special.gamma(hurst + 0.5) ** 2)
    return 2 * S * math.sqrt(float(motion.error) * variance) * (sd[:, None] + sd)


@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.75])
def test_the_sum_is_near_the_motion(simulator, hurst):
    times = simulator.times[list(AT)].numpy()
    truth, found = exactly(times, hurst), of_the_sum(times, hurst)
    bound = missing(times, hurst, np.sqrt(truth.diagonal()))
    assert (np.abs(found - truth) < bound).all()
    assert not (np.abs(of_the_sum(times, hurst + 0.2) - truth) < bound).all()  # the fault: another H
    if hurst == 0.5:  # a plain Ornstein-Uhlenbeck process
        plain = S**2 / (2 * K) * (np.exp(-K * np.abs(times[:, None] - times)) - np.exp(-K * (times[:, None] + times)))
        np.testing.assert_allclose(truth, plain, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("hurst", [0.3, 0.75])
def test_simulations_have_the_covariance_of_the_motion(simulator, hurst):
    """4,000 of them, against the exact one within the error of the sum and of chance; and not that of another H."""
    times, count = simulator.times[list(AT)].numpy(), 4_000
    x = simulator(theta_of(hurst, rows=count), generator=generator(1))["seen"][:, list(AT)].double().numpy()
    found = x.T @ x / count

    def off(h):
        truth = exactly(times, h) + NOISE**2 * np.eye(len(times))
        size = np.outer(truth.diagonal(), truth.diagonal())
        chance = np.sqrt((size + truth**2) / count)  # of a product of two normal numbers
        bound = 5 * chance + missing(times, h, np.sqrt(truth.diagonal()))
        return float((np.abs(found - truth) / bound).max())

    assert off(hurst) < 1
    assert off(hurst + 0.2) > 1


@pytest.mark.parametrize(("hurst", "k"), [(0.25, 0.8), (0.5, 2.0), (0.7, 0.1), (0.85, 5.0)])
def test_the_likelihood_is_that_of_a_dense_gaussian(simulator, hurst, k):
    theta = theta_of(hurst, k)
    x = simulator(theta, generator=generator(2))
    found = float(simulator.log_likelihood(theta, x))
    dense = of_the_sum(simulator.times.numpy(), hurst, k) + NOISE**2 * np.eye(50)
    law = torch.distributions.MultivariateNormal(torch.zeros(50, dtype=torch.float64), torch.as_tensor(dense))
    truth = float(law.log_prob(x["seen"][0].double()))
    assert found == pytest.approx(truth, rel=1e-8)
    assert not simulator.random_likelihood


def test_a_k_beside_a_speed_makes_no_jump(simulator, module):
    speeds = MarkovFractional(torch.tensor([0.4], dtype=torch.float64), 10.0).speeds
    x = simulator(theta_of(0.4), generator=generator(2))
    k = speeds[2] * torch.tensor([0.99, 1 - 5e-4, 1.0, 1 + 5e-4, 1.01], dtype=torch.float64)
    moved = module.apart(k, speeds) / speeds[2] - 1
    torch.testing.assert_close(moved, torch.tensor([-0.01, -1e-3, 1e-3, 1e-3, 0.01], dtype=torch.float64))
    theta = theta_of(0.4).repeat(5, 1)
    theta[:, 1] = k
    log = simulator.log_likelihood(theta, x)
    assert float((log - log.mean()).abs().max()) < 0.5
    assert abs(float(log[1] - log[3])) < 0.05


def test_everything_in_the_prior_has_a_likelihood(simulator):
    theta = simulator.prior.sample(500, generator=generator(4))
    x = simulator(theta, generator=generator(5))
    log = simulator.log_likelihood(theta, x)
    assert log.dtype == torch.float64
    assert bool(log.isfinite().all())


def test_paths_go_through_the_data(simulator):
    """At 400 parameters of the prior: the mean square of 20,000 residuals by their noise is 1 within 5 errors."""
    theta = simulator.prior.sample(400, generator=generator(4)).double()
    x = simulator(theta, generator=generator(5))
    paths = simulator.smooth(theta, x, generator=generator(7))
    place = paths[..., list(simulator.model.latent).index("x")]
    off = (x["seen"].double() - place) / theta[:, 3:]
    assert abs(float(off.square().mean()) - 1) < 5 * math.sqrt(2 / off.numel())
