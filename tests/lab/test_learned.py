"""The bound on the likelihood and a diffusion that is learned by it: exact answers, slopes, what learning is for."""

from __future__ import annotations

import json
import math

import pytest
import torch
from diffusion.mixtures import LINE
from lab.linear import DAMPED, DRIFTING, PROCESSES
from torch import distributions as td

from sciinf import Observable, Prior, Recipe, Simulator, simulate, train, train_ensemble
from sciinf.core import DensityUnavailable, load_fit
from sciinf.core.component import from_json, to_json
from sciinf.lab import AuxiliaryScore, bound
from sciinf.lab.auxiliary import Kernel, LinearDiffusion
from sciinf.lab.bound import log_bound
from sciinf.lab.joint_solver import JointAncestral
from sciinf.lab.learned import FreeDiffusion, LearnedDiffusion
from sciinf.networks.diffusion.objective import EvenLogs
from sciinf.networks.diffusion.schedule import NoiseLevel

pytestmark = pytest.mark.slow

PATH = NoiseLevel(1e-2, 20.0)
SHORT = NoiseLevel(1e-2, 2.0)  # where u has not come to rest


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def free(size=2, seed=0, spread=0.5, path=PATH):
    """A diffusion whose numbers are somewhere."""
    made = LearnedDiffusion(size - 1).build(path).double()
    made.free.data += spread * torch.randn(len(made.free), generator=seeded(seed), dtype=torch.float64)
    return made


NOISINGS = {"preserving": PROCESSES["preserving"], "damped": DAMPED, "three": PROCESSES["three"], "free": free()}
noisings = pytest.mark.parametrize("noising", NOISINGS.values(), ids=NOISINGS)


def network_of(dim, denoise, lean=0.0):
    """F of a denoiser, and some of how the first auxiliary differs from y, which tells nothing."""

    def call(shown, log):
        s, first, more = log.exp()[..., None], shown[..., :dim], shown[..., dim : 2 * dim]
        y = first * (1 + s**2).sqrt()
        left = (denoise(y, s[..., 0]) - y / (1 + s**2)) * (1 + s**2).sqrt() / s
        return left + lean * (more - first) if lean else left

    return call


def of_gaussian(mean, sd):
    return network_of(1, lambda y, s: (sd**2 * y + s[..., None] ** 2 * mean) / (sd**2 + s[..., None] ** 2))


def misses(noising, path=PATH, mean=0.5, sd=0.7, network=None):
    """How far the bound of N(mean, sd^2) lies above its log density, in nats, and the standard error; 16 levels."""
    data = mean + sd * torch.randn(2_000, 1, generator=seeded(), dtype=torch.float64)
    exact = -0.5 * ((data[:, 0] - mean) / sd) ** 2 - math.log(sd) - 0.5 * math.log(2 * math.pi)
    with torch.no_grad():
        each = log_bound(network or of_gaussian(mean, sd), data.expand(16, -1, -1), noising, path, generator=seeded(1))
    off = each.mean(0) - exact
    return float(off.mean()), float(off.std()) / len(off) ** 0.5


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_its_moments_are_those_of_the_diffusion_as_it_is(size, seed):
    made, level = free(size, seed), torch.logspace(-2, 1.3, 50, dtype=torch.float64)
    mean, covariance = made.moments(level)
    exact, spread = made.fixed().moments(level)
    torch.testing.assert_close(mean, exact, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(covariance, spread, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(Kernel(mean, covariance, torch.ones(size)).level, level, rtol=1e-5, atol=0)
    torch.testing.assert_close(made.fixed().rest(), made.rest())


def test_any_diffusion_at_rest_stays_there():
    torch.testing.assert_close(DAMPED.rest(), torch.diag(torch.tensor([1.0, 0.25], dtype=torch.float64)))
    for never in (DRIFTING, LinearDiffusion([[0.1]], [[1.0]])):
        with pytest.raises(ValueError, match="does not come to rest"):
            never.rest()


@noisings
def test_of_a_standard_normal_the_bound_is_the_density_at_each_datum(noising):
    """No noise is left where F is 0: half a millionth of a nat of the lowest level's square, 1e-4, per number."""
    data = torch.randn(500, 3, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        found = log_bound(lambda v, log: torch.zeros_like(v[..., :3]), data, noising, PATH, generator=seeded(1))
    exact = -0.5 * data.square().sum(-1) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found, exact, rtol=0, atol=2e-3)


@noisings
@pytest.mark.parametrize(("mean", "sd"), [(0.5, 0.7), (1.5, 0.3)])
def test_of_a_gaussian_and_its_denoiser_the_bound_is_the_density_and_never_above(noising, mean, sd):
    """Within 4 standard errors, and 3e-3 below for the ends: false alarms 6e-5."""
    off, error = misses(noising, PATH, mean, sd)
    assert -3e-3 - 4 * error < off < 4 * error
    assert error < 0.03


@noisings
def test_where_nothing_has_come_to_rest_the_bound_lies_below(noising):
    off, error = misses(noising, SHORT, 1.5, 0.3)
    assert off < -4 * error


@noisings
def test_a_wrong_denoiser_costs_nats(noising):
    off, error = misses(noising, network=of_gaussian(0.2, 0.7))
    assert off < -4 * error


class Crooked:
    """Levels whose density is said to be a tenth higher than it is."""

    def draw(self, path, uniform):
        level, density = EvenLogs().draw(path, uniform)
        return level, 1.1 * density


@pytest.mark.parametrize(
    ("term", "wrong", "least"),
    [
        ("_divergence", lambda mean, covariance, rest, square, dim: 0.0 * square, 0.1),  # above the density
        ("_spent", lambda square: 0.5 * math.log(square / (1 + square)), -0.6),
        ("EvenLogs", Crooked, -0.6),
    ],
    ids=["end", "known", "weights"],
)
def test_a_wrong_term_of_the_bound_would_be_seen(monkeypatch, term, wrong, least):
    """As more than the density, or far less than it, by a law much wider than that at rest, where u is not at rest."""
    path, law = (SHORT, (0.5, 1.5)) if term == "_divergence" else (PATH, (1.5, 0.3))
    noising = free(path=path)
    right, error = misses(noising, path, *law)
    assert right < 4 * error
    monkeypatch.setattr(bound, term, wrong)
    off, error = misses(noising, path, *law)
    assert off > least
    assert abs(off - right) > 0.1
    assert not -3e-3 - 4 * error < off < 4 * error  # what is asked of the right one


@pytest.mark.parametrize("size", [2, 3])
def test_slopes_of_the_bound_are_those_of_differences(size):
    """At a path so short that the end matters, by a network that leans on the auxiliaries."""
    made, data = free(size, path=SHORT), LINE.sample(400, seeded())
    network = network_of(1, lambda y, s: LINE.denoise(y, s), lean=0.3)

    def value():
        return log_bound(network, data, made, SHORT, generator=seeded(2)).mean()

    (found,) = torch.autograd.grad(value(), made.free)
    exact, step = torch.zeros_like(found), 1e-4
    for index in range(len(found)):
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                made.free[index] += sign * step
                sides.append(value())
                made.free[index] -= sign * step
        exact[index] = (sides[0] - sides[1]) / (2 * step)
    assert float(exact.abs().max()) > 0.01
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))


def climbed(made):
    """Nats that the bound gains when the diffusion alone is trained, the network leaning on an auxiliary."""
    network, held_out = network_of(1, lambda y, s: LINE.denoise(y, s), lean=0.5), LINE.sample(4_000, seeded(9))
    generator = seeded(3)
    before = log_bound(network, held_out, made, PATH, generator=seeded(4)).mean()
    optimiser = torch.optim.Adam(made.parameters(), lr=0.05)
    for _ in range(40 if made.free.requires_grad else 0):
        loss = -log_bound(network, LINE.sample(200, generator), made, PATH, generator=generator).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float((log_bound(network, held_out, made, PATH, generator=seeded(4)).mean() - before).detach())


def test_learning_the_diffusion_raises_the_bound_on_fresh_data_and_frozen_numbers_do_not():
    assert climbed(LearnedDiffusion().build(PATH).double()) > 0.2
    assert climbed(LearnedDiffusion().build(PATH).double().requires_grad_(False)) == 0.0


class Mean(Simulator):
    """x = theta + noise of sd 0.75 in two columns: posteriors N(0.64 x, 0.36)."""

    name = "mean"
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.Normal(0.0, 1.0))
    observables = {"x": Observable((2,))}

    def __call__(self, theta, *, generator):
        return {"x": theta + 0.75 * torch.randn(theta.shape, generator=generator)}

    def log_posterior(self, theta, x):
        return td.Normal(0.64 * x, 0.6).log_prob(theta).sum(-1)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mean")
    store = simulate(Mean(), folder / "store", 3_000, progress=False)
    score = AuxiliaryScore(Mean.prior, Mean.observables, hidden=32, blocks=1)
    train(score, store, folder / "fit", recipe=Recipe(epochs=8, batch=100, learning_rate=3e-3), progress=False)
    return load_fit(folder / "fit").estimator.eval()


def test_numbers_of_the_diffusion_move_in_training(fitted):
    moved = fitted.noising.free.detach().abs()
    assert float(moved.max()) > 0.02
    assert bool((moved > 0).all())


def test_members_of_an_ensemble_learn_each_its_own(tmp_path):
    store = simulate(Mean(), tmp_path / "store", 300, progress=False)
    members = [AuxiliaryScore(Mean.prior, Mean.observables, hidden=8, blocks=1, seed=seed) for seed in (0, 1)]
    fits = train_ensemble(members, store, tmp_path / "fits", recipe=Recipe(epochs=2, batch=100), progress=False)
    first, second = (dict(fit.estimator.named_parameters())["noising.free"].detach() for fit in fits)
    assert bool((first != 0).all())
    assert not torch.equal(first, second)


def test_the_bound_of_a_trained_posterior_is_all_but_the_exact_density_and_not_above(fitted):
    """By 3,000 fresh rows: mean within 4 standard errors above, and 0.1 nats below."""
    theta = Mean.prior.sample(3_000, generator=seeded(5))
    x = Mean()(theta, generator=seeded(6))
    found = fitted.condition(x).bound(theta[None], generator=seeded(7))[0]
    off = found - Mean().log_posterior(theta, x["x"])
    error = float(off.std()) / len(off) ** 0.5
    assert -0.1 < float(off.mean()) < 4 * error
    assert float(fitted.condition({"x": x["x"].flip(0)}).bound(theta[None], generator=seeded(7)).mean()) < -3


@pytest.mark.parametrize("solver", [None, JointAncestral(steps=80)], ids=["flow", "random"])
def test_draws_follow_the_analytic_posterior(fitted, solver, monkeypatch):
    """Means and variances of 4,000 draws within 5 standard errors and the 0.08 of a short training."""
    if solver:
        monkeypatch.setattr(fitted, "solver", solver)
    x = torch.tensor([[1.0, -0.5], [0.0, 2.0]])
    draws = fitted.condition({"x": x}).sample(4_000, generator=seeded(8))
    assert ((draws.mean(0) - 0.64 * x).abs() < 0.08 + 5 * 0.6 / 4_000**0.5).all()
    assert ((draws.std(0) / 0.6 - 1).abs() < 0.08 + 5 / 8_000**0.5).all()


def test_there_is_no_density_and_the_bound_is_refused_nowhere_within_the_prior(fitted):
    law = fitted.condition({"x": torch.zeros(1, 2)})
    with pytest.raises(DensityUnavailable, match="lower"):
        law.log_prob(torch.zeros(1, 1, 2))
    assert law.bound(torch.zeros(3, 1, 2), generator=seeded(), levels=2).shape == (3, 1)


def test_wrong_settings_are_refused_and_right_ones_saved():
    again = from_json(json.loads(json.dumps(to_json(LearnedDiffusion(2, 0.1)))))
    assert (again.auxiliaries, again.start) == (2, 0.1)
    assert isinstance(again.build(PATH), FreeDiffusion)
    with pytest.raises(ValueError, match="auxiliaries"):
        LearnedDiffusion(0)
    with pytest.raises(ValueError, match="variance above 0"):
        LearnedDiffusion(start=0.0)
    with pytest.raises(TypeError, match="process must be an object"):
        AuxiliaryScore(Mean.prior, Mean.observables, process=LearnedDiffusion)
    with pytest.raises(ValueError, match="come to rest"):
        AuxiliaryScore(Mean.prior, Mean.observables, process=LinearDiffusion([[0.1]], [[1.0]]))
