"""Composed denoisers against posteriors of many observations that are known."""

from __future__ import annotations

import math

import pytest
import torch
from diffusion.mixtures import Mixture, double
from diffusion.sets import linear, off, scores_of, seeded

from sciinf.networks.diffusion.composition import Composition, MultivariateNormals, remainder_of, shrunk
from sciinf.networks.diffusion.schedule import NoiseLevel
from sciinf.networks.diffusion.solver import Exponential
from sciinf.simulators.samplers.langevin import Langevin


def sampled(composition, n, steps=30):
    moments, dim = composition.moments(), len(composition.h)
    path = NoiseLevel(0.03 * float(torch.linalg.eigvalsh(moments.covariance)[0]) ** 0.5, 10.0)
    spread = torch.linalg.cholesky(moments.covariance + path.most**2 * torch.eye(dim, dtype=torch.float64))
    y = moments.mean + torch.randn(n, dim, generator=seeded(9), dtype=torch.float64) @ spread.T
    return Exponential(steps).solve(composition.denoise, y, path, generator=seeded()), path


@pytest.mark.parametrize("dim", [1, 2, 10])
@pytest.mark.parametrize("n", [1, 10, 30, 100, 1000])
def test_gaussian_posteriors_of_many_observations(dim, n):
    """|mean error| <= 3 sqrt(D/N) + 0.05 sd and sds within 0.93 to 1.07; noise breaks it once in a thousand at most."""
    prior, single, exact = linear(dim, n)
    count = 4_000 if n < 1_000 else 1_000
    error, ratio = off(sampled(Composition(single, prior), count)[0], exact)
    assert error <= 3 * math.sqrt(dim / count) + 0.05
    assert ratio.min() > 0.93
    assert ratio.max() < 1.07


def drawn(single, count=1_000):
    """Draws of each single posterior, (count, n, D)."""
    factor = torch.linalg.cholesky(single.covariance)
    noise = torch.randn(count, *single.mean.shape, generator=seeded(3), dtype=torch.float64)
    return single.mean + torch.einsum("nab,knb->kna", factor, noise)


def estimated(single, *, centred=True):
    """Moments from 1,000 draws of each single posterior, and what scores have beside them."""
    draws = drawn(single)
    moments = shrunk(draws)
    if not centred:
        moments = MultivariateNormals(moments.mean, torch.einsum("kna,knb->nab", draws, draws) / 999)
    return moments, remainder_of(scores_of(single), moments)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 2, 10])
@pytest.mark.parametrize("n", [10, 30, 100])
def test_moments_from_draws_and_the_rest_from_scores(dim, n):
    prior, single, exact = linear(dim, n)
    error, ratio = off(sampled(Composition(*reordered(estimated(single), prior)), 2_000)[0], exact)
    assert error <= 3 * math.sqrt(dim / 2_000) + 0.05
    assert ratio.min() > 0.93
    assert ratio.max() < 1.07


def reordered(pair, prior):
    moments, rest = pair
    return moments, prior, rest


def test_uncentred_covariances_would_be_seen():
    """The planted fault: second moments in place of covariances, which are far too wide off the origin."""
    prior, single, exact = linear(2, 30)
    wrong = estimated(single, centred=False)
    error, ratio = off(sampled(Composition(*reordered(wrong, prior)), 4_000)[0], exact)
    assert error > 0.3 or ratio.min() < 0.9 or ratio.max() > 1.1


def test_composed_denoiser_is_that_of_the_posterior_at_every_level():
    prior, single, exact = linear(2, 20)
    moments, rest = estimated(single)
    noise, eye = torch.randn(50, 2, generator=seeded(4), dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    for level in (0.01, 0.3, 3.0):
        y = exact.mean + noise @ torch.linalg.cholesky(exact.covariance + level**2 * eye).T
        gain = exact.covariance @ torch.linalg.inv(exact.covariance + level**2 * eye)
        found = Composition(single, prior).denoise(y, torch.tensor(level, dtype=torch.float64))
        torch.testing.assert_close(found, exact.mean + (y - exact.mean) @ gain.T)
    y = noise
    score = Composition(moments, prior, rest).score(y, torch.tensor(1e-3, dtype=torch.float64))
    torch.testing.assert_close(score, (exact.mean - y) @ torch.linalg.inv(exact.covariance), rtol=1e-3, atol=1e-2)


def test_some_observations_at_a_time_stand_for_all():
    prior, single, exact = linear(1, 200)
    moments, rest = estimated(single)
    composition, source = Composition(moments, prior, rest), seeded(5)

    def denoised(y, level):
        return composition.denoise(y, level, some=torch.randint(200, (20,), generator=source))

    path = NoiseLevel(0.03 * float(exact.covariance) ** 0.5, 10.0)
    y = 10 * torch.randn(2_000, 1, generator=seeded(9), dtype=torch.float64)
    draws = Exponential(60).solve(denoised, y, path, generator=seeded())
    error, ratio = off(draws, exact)
    assert error < 0.3
    assert abs(float(ratio) - 1) < 0.15


def bent(n):
    """A prior of two modes in one dimension, n observations of N(theta, 0.5^2); grid posterior and exact pieces."""
    prior = Mixture(*(torch.tensor(v, dtype=torch.float64) for v in ([0.6, 0.4], [[-0.8], [1.0]], [[0.4], [0.3]])))
    x = 0.7 + 0.5 * torch.randn(n, generator=seeded(7), dtype=torch.float64)
    noise = torch.tensor(0.25, dtype=torch.float64)
    variance = 1 / (1 / prior.sd[:, 0] ** 2 + 1 / noise)
    means = variance * (prior.mean[:, 0] / prior.sd[:, 0] ** 2 + x[:, None] / noise)
    log = -0.5 * (x[:, None] - prior.mean[:, 0]) ** 2 / (prior.sd[:, 0] ** 2 + noise)
    log = log - 0.5 * (prior.sd[:, 0] ** 2 + noise).log() + prior.weight.log()
    singles = [
        Mixture(w, m[:, None], variance.sqrt()[:, None]) for w, m in zip(torch.softmax(log, 1), means, strict=True)
    ]
    grid = torch.linspace(-3, 3, 20_001, dtype=torch.float64)
    total = prior.log_prob(grid[:, None]) - 0.5 * ((x[:, None] - grid) ** 2).sum(0) / noise
    return prior, singles, grid, torch.softmax(total, 0)


def moments_of(mixtures):
    mean = torch.stack([(m.weight[:, None] * m.mean).sum(0) for m in mixtures])
    second = torch.stack([(m.weight[:, None] * (m.mean**2 + m.sd**2)).sum(0) for m in mixtures])
    return MultivariateNormals(mean, (second - mean**2)[..., None])


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 20])
def test_a_prior_of_two_modes_is_right_after_correction(n):
    """Against a grid; the composition alone is approximate there, and finite."""
    prior, singles, grid, weight = bent(n)
    single, before = moments_of(singles), moments_of([prior])
    before = MultivariateNormals(before.mean[0], before.covariance[0])

    def scores(y, level, some):
        found = torch.stack([singles[int(k)].denoise(y[:, j], level) for j, k in enumerate(some)], dim=1)
        return (found - y) / level**2

    def beside(y, level):
        square, variance = float(level) ** 2, before.covariance
        guess = before.mean + (variance / (variance + square)) * (y - before.mean)
        return (1 / variance + 1 / square) * (prior.denoise(y, level) - guess)

    composition = Composition(single, before, remainder_of(scores, single), beside)
    draws, path = sampled(composition, 2_000, steps=40)
    assert draws.isfinite().all()
    lowest = torch.tensor(path.least, dtype=torch.float64)
    chains = Langevin(warmup=60).draw_from_score(
        lambda value: composition.score(value, lowest), draws[:, None], 1, generator=seeded(2),
        covariance=torch.cov(draws.T).reshape(1, 1, 1),
    )  # fmt: skip
    mean = (weight * grid).sum()
    exact = MultivariateNormals(mean[None], ((weight * (grid - mean) ** 2).sum())[None, None])
    error, ratio = off(chains.draws[-1, :, 0], exact)
    assert error <= 3 * math.sqrt(1 / 2_000) + 0.05
    assert 0.93 < float(ratio) < 1.07


def test_covariances_that_are_alike_share_their_draws():
    """60 draws of each of 200: alike, they come within 3 % of the truth; apart, each stays with its own."""
    source, dim = seeded(1), 3
    base = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 0.5]], dtype=torch.float64)
    alike = base.expand(200, dim, dim)
    apart = base * torch.exp(torch.randn(200, 1, 1, generator=source, dtype=torch.float64))
    error = {}
    for name, covariance in (("alike", alike), ("apart", apart)):
        draws = drawn(MultivariateNormals(torch.zeros(200, dim, dtype=torch.float64), covariance), 60)
        own = torch.stack([torch.cov(draws[:, j].T) for j in range(200)])
        kinds = {"shrunk": shrunk(draws).covariance, "own": own, "pooled": own.mean(0).expand(200, 3, 3)}
        size = covariance.square().sum((1, 2))
        error |= {(name, k): float(((v - covariance).square().sum((1, 2)) / size).mean()) for k, v in kinds.items()}
    assert error["alike", "shrunk"] < 0.03**2
    assert error["alike", "own"] > 10 * error["alike", "shrunk"]
    assert error["apart", "shrunk"] < 1.1 * error["apart", "own"]
    assert error["apart", "pooled"] > 2 * error["apart", "shrunk"]  # the planted fault: one covariance for all
    one = drawn(MultivariateNormals(torch.zeros(1, dim, dtype=torch.float64), alike[:1]), 60)
    torch.testing.assert_close(shrunk(one).covariance[0], torch.cov(one[:, 0].T))


def test_factors_wider_than_the_prior_leave_every_value_finite():
    eye = torch.eye(2, dtype=torch.float64)
    wide = MultivariateNormals(torch.zeros(30, 2, dtype=torch.float64), 1.2 * eye.expand(30, 2, 2))
    composition = Composition(wide, MultivariateNormals(torch.zeros(2, dtype=torch.float64), eye))
    draws, _ = sampled(composition, 100)
    assert draws.isfinite().all()


def test_a_covariance_that_is_none_is_refused():
    zero = torch.zeros(3, 2, 2, dtype=torch.float64)
    prior = MultivariateNormals(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="not positive definite"):
        Composition(MultivariateNormals(zero[..., 0], zero), prior)


def uniform(n, noise=0.3):
    """theta uniform in (0, 1) near its end, z = Phi^{-1}(theta); singles and posterior on a grid of z."""
    x = 0.9 + noise * torch.randn(n, generator=seeded(8), dtype=torch.float64)
    z = torch.linspace(-5, 5, 241, dtype=torch.float64)
    theta = torch.special.ndtr(z)
    log = -0.5 * z**2 - 0.5 * ((x[:, None] - theta) / noise) ** 2
    fine = torch.linspace(-5, 7, 6_001, dtype=torch.float64)
    total = -0.5 * fine**2 - 0.5 * (((x[:, None] - torch.special.ndtr(fine)) / noise) ** 2).sum(0)
    return z, torch.softmax(log, 1), fine, torch.softmax(total, 0)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 6])
def test_a_uniform_prior_is_right_after_correction(n):
    """Against a grid, with scores by quadrature: same bounds as for Gaussians, and no draw outside the prior."""
    z, weights, fine, weight = uniform(n)
    mean = (weights * z).sum(1)
    single = MultivariateNormals(mean[:, None], ((weights * z**2).sum(1) - mean**2)[:, None, None])
    before = MultivariateNormals(torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64))

    def scores(y, level, some):
        near = weights[some].log() - 0.5 * ((y - z) / level) ** 2
        return ((torch.softmax(near, -1) * z).sum(-1, keepdim=True) - y) / level**2

    composition = Composition(single, before, remainder_of(scores, single))
    draws, _ = sampled(composition, 1_000, steps=30)
    lowest = torch.tensor(0.1, dtype=torch.float64)  # the grid's own width is 0.04
    chains = Langevin(warmup=20).draw_from_score(
        lambda value: composition.score(value, lowest), draws[:, None], 1, generator=seeded(2),
        covariance=torch.cov(draws.T).reshape(1, 1, 1),
    )  # fmt: skip
    middle = (weight * fine).sum()
    exact = MultivariateNormals(middle[None], ((weight * (fine - middle) ** 2).sum())[None, None])
    error, ratio = off(chains.draws[-1, :, 0], exact)
    assert chains.draws.isfinite().all()
    assert error <= 3 * math.sqrt(1 / 1_000) + 0.05
    assert 0.93 < float(ratio) < 1.07


def test_factors_of_two_modes_do_not_run_away(monkeypatch):
    """z_1 of either sign, alike, from 40 observations: modes of sd 0.1 / sqrt(40), far narrower than both together."""
    n, sd = 40, 0.1
    prior = MultivariateNormals(torch.zeros(2).double(), torch.eye(2).double())
    mixture = Mixture(double([0.5, 0.5]), double([[1.0, 0.5], [-1.0, 0.5]]), double([[sd, 0.5], [sd, 0.5]]))
    draws = mixture.sample(1_000 * n, seeded(3)).reshape(1_000, n, 2)
    moments = shrunk(draws)

    def scores(y, level, some):
        return (mixture.denoise(y, level) - y) / level**2

    composition = Composition(moments, prior, remainder_of(scores, moments))
    found, _ = sampled(composition, 500)
    assert bool((found.norm(dim=1) < 7).all())
    assert float((found[:, 0].abs() - 1).abs().median()) < 0.3
    # planted fault: D as it comes
    monkeypatch.setattr("sciinf.networks.diffusion.composition.limited", lambda found, *_: found)
    wild, _ = sampled(composition, 500)
    assert not bool((wild.norm(dim=1) < 7).all())
