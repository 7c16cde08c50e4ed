"""The benchmark tasks against the benchmark's own observations, true parameters and reference posteriors."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from sciinf.core import load_simulator

FOLDER = Path(__file__).parents[2] / "simulators" / "benchmarks"
TASKS = sorted(path.stem for path in FOLDER.glob("*.py"))
SOLVED = ("lotka_volterra", "sir")  # differential equations: slower than the rest
SMOOTH = [task for task in TASKS if task != "two_moons"]  # whose likelihood has no edges
NUMBERS = [1, 2, *(pytest.param(n, marks=pytest.mark.long) for n in (3, 4, 5))]
PAIRS = [(task, number) for task in TASKS for number in range(1, 6)]


@functools.cache
def load(task):
    return load_simulator(FOLDER / f"{task}.py")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def table(path):
    return torch.from_numpy(np.atleast_2d(np.loadtxt(path, delimiter=",", skiprows=1)))


@functools.cache
def reference(folder):
    """Reference posterior draws, (10000, D), float64."""
    return table(folder / "reference_posterior_samples.csv.bz2")


def walked(simulator, x, start, archive, log_likelihood, steps):
    """Metropolis chains from `start` (chains, D), each for some steps along differences of draws of the archive.

    Whatever the chains' mixing, draws of the posterior that the likelihood defines stay draws of it.
    """
    moves = generator(5)

    def log_posterior(theta):
        value = simulator.prior.log_prob(theta)
        inside = value.isfinite()
        value[inside] += log_likelihood(theta[inside].float(), x).double()
        return value

    theta, current = start, log_posterior(start)
    for step in range(steps):
        pick = torch.randint(len(archive), (2, len(theta)), generator=moves)
        length = 1.0 if step % 10 == 0 else 1.2 / start.shape[1] ** 0.5
        proposed = theta + length * (archive[pick[0]] - archive[pick[1]])
        value = log_posterior(proposed)
        accept = torch.rand(len(theta), generator=moves).log() < value - current
        theta = torch.where(accept[:, None], proposed, theta)
        current = torch.where(accept, value, current)
    return theta


def posterior_agrees(task, folder, log_likelihood):
    """Whether reference draws stay where they are under Metropolis moves with a likelihood.

    Kolmogorov-Smirnov on each marginal, p >= 1e-5: false alarm 3e-4 for all tasks and observations.
    """
    simulator, draws = load(task), reference(folder)
    x = {k: v[None] for k, v in simulator.observe(folder / "observation.csv").items()}
    chains, steps = {"lotka_volterra": (1000, 40), "sir": (1000, 50)}.get(task, (2000, 130))
    order = torch.randperm(len(draws), generator=generator(4))
    start, rest = draws[order[:chains]], draws[order[chains:]]
    theta = walked(simulator, x, start, rest, log_likelihood, steps)
    p_values = [float(stats.ks_2samp(theta[:, i], rest[:, i]).pvalue) for i in range(theta.shape[1])]
    return bool(((theta != start).all(-1)).double().mean() > 0.9) and min(p_values) >= 1e-5


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("task", TASKS)
def test_observation_comes_from_the_true_parameters(task, number, reference_data):
    # Two-sided p-value of each number among 20,000 simulations (ties split) at least 1e-4; with the 360 numbers there
    # are, false alarm 4 %, and the seed is fixed.
    simulator, folder = load(task), reference_data / "sbibm" / task / str(number)
    x_o = simulator.observe(folder / "observation.csv")["x"]
    theta = table(folder / "true_parameters.csv").float().expand(20_000, -1)
    x = simulator(theta, generator=generator())["x"]
    below = ((x < x_o).double() + 0.5 * (x == x_o).double()).mean(0)
    assert float(torch.minimum(below, 1 - below).min()) >= 0.5e-4


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("task", TASKS)
def test_reference_draws_and_true_parameters_lie_in_the_prior(task, number, reference_data):
    simulator, folder = load(task), reference_data / "sbibm" / task / str(number)
    truth = table(folder / "true_parameters.csv")
    assert truth.shape == (1, len(simulator.prior))
    assert bool(simulator.prior.log_prob(torch.cat([truth, reference(folder)])).isfinite().all())


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("task", [task for task in TASKS if load(task).reference is not None])
def test_exact_posterior_has_the_reference_marginals(task, number, reference_data):
    # Kolmogorov-Smirnov, each marginal, p >= 1e-5: false alarm 1.2e-3 for all.
    simulator, folder = load(task), reference_data / "sbibm" / task / str(number)
    x_o = simulator.observe(folder / "observation.csv")
    draws = simulator.reference({"x": x_o["x"][None]}, 10_000, generator(7))
    truth = reference(folder)
    p_values = [float(stats.ks_2samp(draws[:, i], truth[:, i]).pvalue) for i in range(truth.shape[1])]
    assert min(p_values) >= 1e-5
    assert bool((simulator.prior.log_prob(draws)).isfinite().all())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "number"),
    [
        pytest.param(task, number, marks=pytest.mark.long if number > (1 if task in SOLVED else 2) else ())
        for task, number in PAIRS
        if load(task).reference is None
    ],
)
def test_likelihood_gives_the_reference_posterior(task, number, reference_data):
    assert posterior_agrees(task, reference_data / "sbibm" / task / str(number), load(task).log_likelihood)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sir", "bernoulli_glm", "slcp"])
def test_a_wrong_likelihood_is_noticed(task, reference_data):
    def tempered(theta, x):  # planted fault: data that count one and a half times
        return 1.5 * load(task).log_likelihood(theta, x)

    assert not posterior_agrees(task, reference_data / "sbibm" / task / "1", tempered)


def mean_ratio(simulator, log_likelihood, n):
    """Mean of p(x | theta') / p(x | theta) over x ~ p(x | theta), which is one, in standard errors from one.

    For ten theta in the middle of the prior and theta' so near that the log ratio has standard deviation 0.6 or so.
    """
    forward, inverse = simulator.prior.bijection.forward, simulator.prior.bijection.inverse
    z = 0.5 * forward(simulator.prior.sample(10, generator=generator(11)).double())
    theta = inverse(z).repeat_interleave(n, dim=0).float()
    x = {k: v.double() for k, v in simulator(theta, generator=generator(13)).items()}
    here = simulator.log_likelihood(theta.double(), x).reshape(10, n)
    direction = torch.randn(z.shape, generator=generator(12), dtype=z.dtype)
    base = forward(theta.double())

    def log_ratio(log_density, at, step):
        moved = inverse(base + (step * direction).repeat_interleave(n, dim=0))
        return log_density(moved, x).reshape(10, n) - at

    slope = log_ratio(simulator.log_likelihood, here, 1e-5).std(1, keepdim=True) / 1e-5
    factor = log_likelihood(theta.double(), x).reshape(10, n)
    ratio = log_ratio(log_likelihood, factor, 0.6 / slope).exp()
    return float(((ratio.mean(1) - 1) / (ratio.std(1) / n**0.5)).abs().max())


@pytest.mark.parametrize("task", SMOOTH)
def test_likelihood_belongs_to_the_simulator(task):
    # Ten parameters, each within 5 standard errors: false alarm 1e-5 a task.
    simulator = load(task)
    assert mean_ratio(simulator, simulator.log_likelihood, 400 if task in SOLVED else 4_000) < 5


def test_a_likelihood_of_another_simulator_is_noticed():
    # planted fault: the logarithm is one and a half times too large
    for task in ("gaussian_linear", "gaussian_mixture", "slcp", "bernoulli_glm"):
        simulator = load(task)
        assert mean_ratio(simulator, lambda t, x, s=simulator: 1.5 * s.log_likelihood(t, x), 4_000) > 5


def test_two_moons_likelihood_is_the_density_of_the_simulations():
    simulator = load("two_moons")
    theta = torch.tensor([[0.3, -0.6]], dtype=torch.float64)
    side = torch.linspace(-0.2, 0.2, 1201, dtype=torch.float64)
    centre = simulator(theta.expand(20_000, -1), generator=generator())["x"]
    grid = torch.cartesian_prod(side, side) + (centre.amin(0) + centre.amax(0)) / 2
    density = simulator.log_likelihood(theta.expand(len(grid), -1), {"x": grid}).exp() * float(side[1] - side[0]) ** 2
    assert float(density.sum()) == pytest.approx(1, abs=3e-3)
    # mean and variance of 20,000 simulations within 5 standard errors, and the rule's own error
    mean = density @ grid / density.sum()
    error = centre.std(0) / 20_000**0.5
    assert bool(((centre.mean(0) - mean).abs() < 5 * error + 3e-4).all())
    spread = (density @ (grid - mean) ** 2 / density.sum()).sqrt()
    assert bool(((centre.std(0) / spread - 1).abs() < 0.03).all())
    flat = (density > 0).double()  # planted fault: the support alone
    assert abs(float((flat @ (grid - mean) ** 2 / flat.sum()).sqrt()[1] / centre.std(0)[1]) - 1) > 0.03


def test_two_moons_says_when_an_observation_is_impossible():
    with pytest.raises(ValueError, match="cannot come from"):
        load("two_moons").reference({"x": torch.tensor([[5.0, 5.0]])}, 10, generator())


def test_bernoulli_design_is_the_benchmarks(reference_data):
    design = np.loadtxt(reference_data / "sbibm" / "bernoulli_glm" / "design_matrix.csv", delimiter=",")
    assert torch.allclose(load("bernoulli_glm").design, torch.from_numpy(design).float(), atol=1e-6)


def test_sir_conserves_people_and_ends_where_theory_says():
    # final size: log S(inf)/N = -R0 (1 - S(inf)/N), and I follows from S at all times by the phase-plane relation
    # I + S - log(S) gamma/beta = constant; the peak of I is then 1 - (1 + log R0) / R0
    from sciinf.core.simulator import load_module

    module = load_module(FOLDER / "sir.py")
    theta = torch.tensor([[0.5, 0.125], [0.3, 0.1]], dtype=torch.float64)
    fine = module.rk4
    times = [float(t) for t in range(161)]
    start = torch.tensor([math.log1p(-1e-6), math.log(1e-6)], dtype=torch.float64)[:, None].expand(2, 2)

    def field(_, logs):
        s, i = logs.exp().unbind()
        return torch.stack([-theta[:, 0] * i, theta[:, 0] * s - theta[:, 1]])

    solved = fine(field, start, times, steps_per_interval=8)
    peak = solved[:, 1].exp().amax(0)
    ratio = theta[:, 0] / theta[:, 1]
    assert torch.allclose(peak, 1 - (1 + ratio.log()) / ratio, rtol=5e-3)
    assert torch.allclose(module.log_infected(theta), solved[::17, 1].T, atol=1e-4)


@pytest.mark.parametrize("task", ["sir", "lotka_volterra"])
def test_steps_are_fine_enough(task):
    # relative error of the solution under the prior: 1e-4 but for a few of the sharpest peaks of Lotka-Volterra
    from sciinf.core.simulator import load_module

    coarse, fine = load_module(FOLDER / f"{task}.py"), load_module(FOLDER / f"{task}.py")
    theta = coarse.simulator.prior.sample(1500, generator=generator()).double()
    solve = "log_infected" if task == "sir" else "log_populations"
    found = getattr(coarse, solve)(theta)
    fine.STEPS = 4 * coarse.STEPS
    error = (found - getattr(fine, solve)(theta)).abs().amax(-1)
    assert float((error < 1e-4).double().mean()) >= 0.995
    assert float(error.max()) < 2e-2


def test_slcp_covariance():
    simulator = load("slcp")
    theta = torch.tensor([[0.5, -1.0, 1.2, -0.9, 0.8]], dtype=torch.float64)
    s1, s2, rho = 1.2**2, 0.9**2, math.tanh(0.8)
    covariance = torch.tensor([[s1**2 + 1e-6, rho * s1 * s2], [rho * s1 * s2, s2**2 + 1e-6]], dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(theta[0, :2], covariance)
    x = torch.randn(6, 8, generator=generator(), dtype=torch.float64)
    truth = law.log_prob(x.unflatten(-1, (4, 2))).sum(-1)
    assert torch.allclose(simulator.log_likelihood(theta, {"x": x}), truth)
