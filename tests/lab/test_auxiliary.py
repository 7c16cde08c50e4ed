"""Linear diffusions with auxiliaries: transitions against formulas and simulation, scores against joint densities."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from diffusion.mixtures import LINE, PLANE
from lab.linear import DAMPED, DRIFTING, FLIPPED, NOISY, PROCESSES, joint_log_prob
from scipy.integrate import quad_vec
from scipy.linalg import expm

from sciinf.core.component import from_json, to_json
from sciinf.lab.auxiliary import LinearDiffusion, critically_damped, resting
from sciinf.networks.diffusion.schedule import VariancePreserving

processes = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def at(*times):
    return torch.tensor(times, dtype=torch.float64)


@processes
def test_transitions_are_their_integrals(process):
    """int_0^t e^{As} G e^{A's} ds, which loses no digits as van Loan's one exponential does in double precision."""
    drift, gain = process.drift.numpy(), (process.noise @ process.noise.T).numpy()
    for time in (0.03, 0.4, 1.0, 3.0):
        grown, _ = quad_vec(lambda s: expm(s * drift) @ gain @ expm(s * drift).T, 0.0, time, epsabs=1e-13, epsrel=1e-13)
        mean, covariance = process.transition(at(time))
        np.testing.assert_allclose(mean[0], expm(time * drift), rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(covariance[0], grown, rtol=1e-8, atol=1e-10)


def test_small_entries_keep_their_digits():
    """Of integrated Brownian motion, [[t^3 / 3, t^2 / 2], [t^2 / 2, t]], however short or long, in one batch."""
    process = LinearDiffusion([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]], [0.0])
    t = at(1e-7, 1e-3, 1.0, 1e4)
    _, covariance = process.transition(t)
    exact = torch.stack([torch.stack([t**3 / 3, t**2 / 2], -1), torch.stack([t**2 / 2, t], -1)], -2)
    torch.testing.assert_close(covariance, exact, rtol=1e-13, atol=0)


def simulated(process, rows=20_000, steps=500, time=0.5):
    """u at a time by Euler's method, from x_0 = 1 and auxiliaries of sd 0.1."""
    generator = seeded(1)
    u = 0.1 * torch.randn(rows, process.size, generator=generator, dtype=torch.float64)
    u[:, 0] = 1.0
    for _ in range(steps):
        noise = torch.randn(rows, process.noise.shape[1], generator=generator, dtype=torch.float64)
        u = u + time / steps * u @ process.drift.T + math.sqrt(time / steps) * noise @ process.noise.T
    return u


def misses(process, u, time=0.5):
    """The largest error of mean and covariance in standard errors of the simulated rows."""
    kernel = process.kernel(at(time))
    mean, covariance, rows = kernel.mean[0], kernel.covariance[0], len(u)
    variance = covariance.diagonal()
    error = ((u.mean(0) - mean) / (variance / rows).sqrt()).abs().max()
    spread = (torch.outer(variance, variance) + covariance**2) / rows
    return max(float(error), float(((torch.cov(u.T) - covariance) / spread.sqrt()).abs().max()))


def test_brute_force_agrees_and_planted_faults_do_not():
    """Five numbers within 6 standard errors, one for the error of Euler's steps; false alarms below 1e-5.

    The planted faults are a coupling of the wrong sign, and noise on the data too.
    """
    u = simulated(DAMPED)
    assert misses(DAMPED, u) < 6
    assert misses(FLIPPED, u) > 30
    assert misses(NOISY, u) > 30


def test_without_auxiliaries_it_is_the_variance_preserving_path():
    path = VariancePreserving()
    t = torch.linspace(0.01, 1, 20, dtype=torch.float64)
    clock = path.slowest * t + 0.5 * (path.fastest - path.slowest) * t**2
    kernel = PROCESSES["preserving"].kernel(clock)
    torch.testing.assert_close(kernel.mean[:, 0], path.alpha(t))
    torch.testing.assert_close(kernel.covariance[:, 0, 0], path.sigma(t) ** 2)
    torch.testing.assert_close(kernel.level, path.level(t))


@pytest.mark.parametrize("name", ["damped", "both", "three"])
def test_diffusions_rest_where_they_were_built_to(name):
    variances = {"damped": [1.0, 0.25], "both": [1.0, 0.25], "three": [1.0, 1.0, 1.0]}[name]
    kernel = PROCESSES[name].kernel(at(60.0))
    torch.testing.assert_close(kernel.covariance[0], torch.diag(at(*variances)), rtol=0, atol=1e-10)
    assert kernel.mean.abs().max() < 1e-4


def test_critical_damping_is_dockhorns():
    """dx = v/m dt, dv = -x dt - G v/m dt + sqrt(2 G) dW with G^2 = 4 m: a drift with one eigenvalue, -1/sqrt(m)."""
    mass = 0.36
    process = critically_damped(mass)
    damping = 2 * math.sqrt(mass)
    torch.testing.assert_close(process.drift, torch.stack([at(0, 1 / mass), at(-1, -damping / mass)]))
    torch.testing.assert_close(process.noise @ process.noise.T, torch.diag(at(0, 2 * damping)))
    eigenvalues = torch.linalg.eigvals(process.drift)
    assert (eigenvalues + 1 / math.sqrt(mass)).abs().max() < 1e-6


@processes
def test_levels_and_times_are_inverse(process):
    level = torch.logspace(-3, 1.9, 60, dtype=torch.float64).reshape(6, 10)
    level = level if process is not DRIFTING else level.clamp(max=1.0)
    torch.testing.assert_close(process.level(process.time(level)), level, rtol=1e-5, atol=0)


@processes
@pytest.mark.parametrize("mixture", [LINE, PLANE], ids=["line", "plane"])
def test_scores_are_those_of_the_joint_density(process, mixture):
    for time in (0.05, 0.3, 1.5):
        data = mixture.sample(50, seeded())
        kernel = process.kernel(at(time)[0])
        u = kernel.draw(data, seeded(1)).requires_grad_()
        (exact,) = torch.autograd.grad(joint_log_prob(mixture, process, u, at(time)[0]).sum(), u)
        u = u.detach()
        found = kernel.score(u, process.joint(mixture.denoise)(u, at(time)[0]))
        torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-7 * float(exact.abs().max()))


@pytest.mark.parametrize("wrong", [FLIPPED, NOISY], ids=["flipped", "noisy"])
def test_scores_of_a_planted_fault_are_not(wrong):
    time = at(0.3)[0]
    u = DAMPED.kernel(time).draw(PLANE.sample(50, seeded()), seeded(1)).requires_grad_()
    (exact,) = torch.autograd.grad(joint_log_prob(PLANE, DAMPED, u, time).sum(), u)
    found = wrong.kernel(time).score(u.detach(), wrong.joint(PLANE.denoise)(u.detach(), time))
    assert (found - exact).norm() > 0.1 * exact.norm()


@processes
def test_the_noise_where_noise_comes_in_is_all_that_the_score_needs_there(process):
    """Of a Cholesky factor with those coordinates last: score_r = -L_rr^{-T} e_r; e_v / L_vv where it is one."""
    time, receives = at(0.4)[0], (process.noise != 0).any(1)
    kernel, data = process.kernel(time), PLANE.sample(30, seeded())
    u = kernel.draw(data, seeded(1))
    order = [*torch.nonzero(~receives)[:, 0].tolist(), *torch.nonzero(receives)[:, 0].tolist()]
    factor, count = torch.linalg.cholesky(kernel.covariance[order][:, order]), int(receives.sum())

    def noises(data):
        off = (u - kernel.mean[:, None] * data[:, None])[:, order]
        return torch.linalg.solve_triangular(factor, off, upper=False)[:, -count:]

    expected = -torch.linalg.solve_triangular(factor[-count:, -count:].T, noises(data), upper=True)
    torch.testing.assert_close(kernel.score(u, data)[:, receives], expected)
    off = 0.1 * torch.randn(data.shape, generator=seeded(2), dtype=torch.float64)
    error = (noises(data + off) - noises(data)).square().sum(1)
    torch.testing.assert_close(error, kernel.share() * off**2)


@processes
def test_what_is_projected_is_data_and_noise_of_one_level(process):
    """Mean and variance of (y - x_0) / s within 5 standard errors of 20,000 draws; false alarms below 1e-5."""
    kernel, data = process.kernel(at(0.7)[0]), LINE.sample(20_000, seeded())
    noise = (kernel.project(kernel.draw(data, seeded(1))) - data) / kernel.level
    assert abs(float(noise.mean())) < 5 / 20_000**0.5
    assert abs(float(noise.var()) - 1) < 5 * (2 / 20_000) ** 0.5
    assert abs(float((noise * data).mean())) < 5 * float(data.std()) / 20_000**0.5 + 0.005


@processes
def test_what_is_lifted_projects_back_and_has_the_joint_law(process):
    kernel, data = process.kernel(at(0.7)[0]), LINE.sample(20_000, seeded())
    y = data + kernel.level * torch.randn(data.shape, generator=seeded(1), dtype=torch.float64)
    u = kernel.lift(y, seeded(2))
    torch.testing.assert_close(kernel.project(u), y)
    off = (u - kernel.mean[:, None] * data[:, None])[..., 0]
    spread = torch.outer(kernel.covariance.diagonal(), kernel.covariance.diagonal()) + kernel.covariance**2
    assert ((torch.cov(off.T) - kernel.covariance).abs() < 5 * (spread / 20_000).sqrt()).all()


@processes
def test_the_bound_on_the_likelihood_knows_the_level_alone(process):
    """(s^{-2})' = -|B^T S^{-1} a|^2, so that what it weighs errors of D by is s^{-3} ds for every diffusion."""
    t, step = torch.linspace(0.1, 2, 20, dtype=torch.float64), 1e-5
    rate = (process.level(t + step) ** -2 - process.level(t - step) ** -2) / (2 * step)
    pull = process.kernel(t).pull @ process.noise
    torch.testing.assert_close(rate, -pull.square().sum(-1), rtol=1e-6, atol=1e-9)


def test_a_diffusion_is_saved_by_its_numbers():
    again = from_json(json.loads(json.dumps(to_json(DAMPED))))
    assert torch.equal(again.kernel(at(0.3)).covariance, DAMPED.kernel(at(0.3)).covariance)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: LinearDiffusion([[0.0, 1.0]], [[1.0]]), "square drift"),
        (lambda: LinearDiffusion([[0.0]], [[1.0]], [1.0]), "1 auxiliaries"),
        (lambda: LinearDiffusion([[0.0, 1.0], [0.0]], [[1.0], [1.0]], [1.0]), "all of one length"),
        (lambda: LinearDiffusion([[math.nan]], [[1.0]]), "not finite"),
        (lambda: LinearDiffusion([[-1.0, 0.0], [0.0, -1.0]], [[1.0], [0.0]], [-1.0]), "at least 0"),
        (lambda: LinearDiffusion([[-1.0, 0.0], [0.0, -1.0]], [[0.0], [1.0]], [1.0]), "does not get to the data"),
        (lambda: critically_damped(mass=0.0), "mass above 0"),
        (lambda: resting([1.0], [[1.0]], [[1.0]]), "antisymmetric"),
        (lambda: resting([1.0], [[0.0]], [[-1.0]]), "negative eigenvalues"),
        (lambda: resting([0.0], [[0.0]], [[1.0]]), "variances above 0"),
        (lambda: DRIFTING.time(at(1e9)), "choose a path within"),
    ],
    ids=["drift", "start", "ragged", "nan", "variance", "silent data", "mass", "swirl", "damping", "rest", "level"],
)
def test_wrong_settings_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        wrong()
