"""Noise: covariances of Brownian and fractional motions, and the Markov processes that stand for the latter.

False-alarm rates: an empirical covariance of n draws lies within 5 standard errors of each of its numbers (4e-5 for
the 64 looked at together). Seeds are fixed.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from sciinf.core.simulator import load_module
from sciinf.simulators.dynamics.noise import MarkovFractional, brownian, fractional
from sciinf.simulators.dynamics.sde import SDE

ROWS, STEPS, LENGTH = 20_000, 8, 0.5
INDICES = (0.1, 0.3, 0.5, 0.7, 0.9)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def full(value, rows=ROWS):
    return torch.full((rows,), value, dtype=torch.float64)


def worst(draws, covariance):
    """The largest distance of an empirical covariance (step, row) from the true one, in standard errors."""
    seen = draws @ draws.T / draws.shape[1]
    error = ((covariance.square() + covariance.diagonal()[:, None] * covariance.diagonal()) / draws.shape[1]).sqrt()
    return float(((seen - covariance) / error).abs().max())


def paths(increments):
    return increments[..., 0].cumsum(0)


def of_motion(times, hurst):
    """Covariance of fractional Brownian motion."""
    s, t = times[:, None], times
    return (s ** (2 * hurst) + t ** (2 * hurst) - (s - t).abs() ** (2 * hurst)) / 2


def of_riemann_liouville(times, hurst):
    """Covariance of B_H, by quadrature of int_0^s ((s - u)(t - u))^(H - 1/2) du / Gamma(H + 1/2)^2."""
    from scipy.integrate import quad

    a, found = hurst - 0.5, torch.zeros(len(times), len(times), dtype=torch.float64)
    for i, s in enumerate(times.tolist()):
        for j, t in enumerate(times.tolist()[i:], i):
            # v^a dv near v = 0 is tamed by v = y^(1 / (2H)) where s = t, and by the weight of quad where not
            if i == j:
                value = s ** (2 * hurst) / (2 * hurst)
            else:
                value = quad(lambda v, gap=t - s: (v + gap) ** a, 0, s, weight="alg", wvar=(a, 0))[0]
            found[i, j] = found[j, i] = value / math.gamma(hurst + 0.5) ** 2
    return found


@pytest.mark.parametrize("hurst", INDICES)
def test_fractional_motion_has_its_covariance_exactly(hurst):
    times = LENGTH * torch.arange(1, STEPS + 1, dtype=torch.float64)
    draws = paths(fractional(full(hurst), full(LENGTH), STEPS, generator=generator()))
    assert worst(draws, of_motion(times, hurst)) < 5
    assert worst(draws, of_motion(times, hurst - 0.05)) > 5  # another index is told apart


def test_the_circulant_matrix_holds_the_covariance_to_rounding():
    # white noise that is 1 at one place and 0 elsewhere gives a row of the matrix's root, so that no draw is needed
    for hurst in INDICES:
        lag = torch.arange(STEPS + 1, dtype=torch.float64)
        c = ((lag + 1) ** (2 * hurst) - 2 * lag ** (2 * hurst) + (lag - 1).abs() ** (2 * hurst)) / 2
        around = torch.cat([c, c[1:-1].flip(0)])
        values = torch.fft.rfft(around).real
        assert float(values.min()) > -1e-12
        root = torch.fft.irfft(torch.fft.rfft(torch.eye(2 * STEPS, dtype=torch.float64)) * values.clamp_min(0).sqrt())
        made = (root.T @ root)[:STEPS, :STEPS]
        toeplitz = c[(lag[:STEPS, None] - lag[:STEPS]).abs().long()]
        assert torch.allclose(made, toeplitz, atol=1e-12)


def test_rows_have_their_own_index_and_length_and_motions_are_independent():
    hurst, length = torch.tensor([0.3, 0.7]).repeat(4_000), torch.tensor([1.0, 2.0]).repeat_interleave(4_000)
    draws = fractional(hurst, length, 4, motions=2, generator=generator())
    assert draws.shape == (4, 8_000, 2)
    assert draws.dtype == torch.float32
    for h, part in ((0.3, draws[:, ::2]), (0.7, draws[:, 1::2])):
        for size, some in ((1.0, part[:, :2_000]), (2.0, part[:, 2_000:])):
            assert float(some[0].var()) == pytest.approx(size ** (2 * h), rel=5 * math.sqrt(2 / 4_000))
    assert abs(float((draws[..., 0] * draws[..., 1]).sum(0).mean())) < 5 * 4 * 2**1.4 / math.sqrt(8_000)
    assert torch.equal(draws, fractional(hurst, length, 4, motions=2, generator=generator()))


def test_brownian_increments_and_an_index_of_one_half_are_one_law():
    times = LENGTH * torch.arange(1, STEPS + 1, dtype=torch.float64)
    covariance = torch.minimum(times[:, None], times)
    assert worst(paths(brownian(full(LENGTH), STEPS, generator=generator())), covariance) < 5
    assert worst(paths(fractional(full(0.5), full(LENGTH), STEPS, generator=generator())), covariance) < 5


def test_what_the_markov_processes_miss_is_as_known():
    known = {0.1: 0.13, 0.3: 1.5e-3, 0.7: 1.6e-5}
    five = MarkovFractional(torch.tensor(list(known)), 3.0, terms=5, fastest=400.0)
    error = dict(zip(known, five.error.tolist(), strict=True))
    for hurst, most in known.items():
        assert error[hurst] < 1.05 * most
    assert error[0.1] > 0.1
    assert float(MarkovFractional(torch.tensor([0.1]), 1.0, terms=6, fastest=1e5).error) < 0.5 * error[0.1]


@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_what_they_miss_is_the_distance_of_kernels_and_no_other_weights_miss_less(hurst):
    from scipy.integrate import quad

    horizon, a = 3.0, hurst + 0.5
    motion = MarkovFractional(full(hurst, 1), horizon)
    speeds = motion.speeds.tolist()

    def missing(weights):
        def apart(y):  # u = y^5 takes the singularity away
            u = y**5
            kernel = u ** (a - 1) / math.gamma(a)
            near = sum(w * math.exp(-s * u) for w, s in zip(weights, speeds, strict=True))
            return 5 * y**4 * (horizon - u) * (kernel - near) ** 2

        variance = horizon ** (2 * a) / (2 * a * (2 * a - 1) * math.gamma(a) ** 2)
        return quad(apart, 1e-9, horizon**0.2, limit=400)[0] / variance

    best = motion.weights[0].tolist()
    assert missing(best) == pytest.approx(float(motion.error), rel=1e-4)
    for k in range(6):
        assert missing([w * (1 + 0.02 * (i == k)) for i, w in enumerate(best)]) > missing(best)
    assert float(motion.weights.abs().max()) < 10  # they do not cancel


@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.7, 0.9])
def test_the_markov_processes_have_the_covariance_of_riemann_and_liouville(hurst):
    times = LENGTH * torch.arange(1, STEPS + 1, dtype=torch.float64)
    motion = MarkovFractional(full(hurst, 1), LENGTH * STEPS)
    decay, covariance = motion.step(full(LENGTH, 1))
    state, found = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(STEPS, STEPS, dtype=torch.float64)
    weights = motion.weights[0]
    for i in range(STEPS):
        state = state * decay[0][:, None] * decay[0] + covariance[0]
        later = state
        for j in range(i, STEPS):
            found[i, j] = found[j, i] = weights @ later @ weights
            later = later * decay[0]  # its second place moves on
    truth = of_riemann_liouville(times, hurst)
    scale = truth.diagonal().sqrt()
    assert float(((found - truth) / scale[:, None] / scale).abs().max()) < (0.03 if hurst < 0.5 else 0.01)
    draws = paths(MarkovFractional(full(hurst), LENGTH * STEPS).increments(full(LENGTH), STEPS, generator=generator()))
    assert worst(draws, found) < 5


def test_an_equation_is_driven_by_fractional_noise():
    hurst, rows = 0.7, 5_000
    noise = fractional(full(hurst, rows), full(0.1, rows), 10, generator=generator())
    still = SDE(lambda theta, z, t: 0 * z, lambda theta, z, t: 2 * torch.ones_like(z))
    found = still.solve({}, torch.zeros(rows, 1, dtype=torch.float64), 0.0, 1.0, steps=10, noise=noise)
    assert float(found.var()) == pytest.approx(4.0, rel=5 * math.sqrt(2 / rows))


def test_fractional_noise_multiplied_by_the_state_has_no_ito_sense():
    """The guide says so: 400 paths, all of one seed, so that there is no false alarm on one kind of machine."""
    theta, source = {"mu": full(0.1, 400), "sigma": full(0.3, 400)}, generator()
    price = SDE(lambda theta, z, t: theta["mu"][:, None] * z, lambda theta, z, t: theta["sigma"][:, None] * z)
    medians = []
    for steps in (50, 5_000):
        rough = fractional(full(0.3, 400), full(1 / steps, 400), steps, generator=source)
        start = torch.ones(400, 1, dtype=torch.float64)
        medians.append(float(price.solve(theta, start, 0.0, 1.0, steps=steps, noise=rough).median()))
        assert float((0.1 + 0.3 * rough.sum(0)).exp().median()) == pytest.approx(1.1, abs=0.06)
    assert medians == pytest.approx([0.88, 0.28], abs=0.03)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1, got 1.5"):
        fractional(full(1.5, 2), full(1.0, 2), 3, generator=generator())
    with pytest.raises(ValueError, match="not negative"):
        brownian(full(-1.0, 2), 3, generator=generator())
    with pytest.raises(ValueError, match="steps is 0"):
        fractional(full(0.5, 2), full(1.0, 2), 0, generator=generator())
    with pytest.raises(ValueError, match="12 terms, expected 1 to 6"):
        MarkovFractional(full(0.5, 2), 1.0, terms=12)
    with pytest.raises(ValueError, match="horizon of 0"):
        MarkovFractional(full(0.5, 2), 0.0)
    with pytest.raises(ValueError, match="beyond the horizon"):
        MarkovFractional(full(0.5, 2), 1.0).increments(full(0.5, 2), 3, generator=generator())


def test_a_filter_finds_how_rough_a_motion_is_and_one_too_rough_is_known():
    posteriors = load_module(Path(__file__).parents[2] / "benchmarks" / "dynamics_hurst.py").posteriors
    for hurst in (0.3, 0.7):
        found = posteriors(hurst, 0)
        (mean, sd), (true, spread) = found["filter"], found["exact"]
        assert abs(mean - true) < 0.1 * spread
        assert sd == pytest.approx(spread, rel=0.07)
    found = posteriors(0.1, 0)
    assert abs(found["filter"][0] - found["exact"][0]) > 0.5 * found["exact"][1]  # six processes are too slow for it


def test_a_step_beyond_the_horizon_is_refused():
    motion = MarkovFractional(torch.tensor([0.3, 0.7]), 2.0)
    decay, _ = motion.step(torch.tensor([2.0, 0.0]))
    assert decay.shape == (2, 6)
    with pytest.raises(ValueError, match=r"a step of 2.5 goes beyond the horizon, 2, .* the whole span of time"):
        motion.step(torch.tensor([1.0, 2.5]))
    with pytest.raises(ValueError, match="not negative"):
        motion.step(torch.tensor([-1.0, 1.0]))
