"""Parameterisations stand for one denoiser; weightings and levels are the integrals they say they are."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from diffusion.mixtures import LINE, PLANE

from sciinf.networks.diffusion.objective import (
    ClippedWeights,
    Diffusion,
    EvenLogs,
    EvenTimes,
    EvenWeights,
    LikelihoodWeights,
    NormalLogs,
    Preconditioned,
    PredictData,
    PredictDrift,
    PredictNoise,
    PredictScore,
    PredictVelocity,
)
from sciinf.networks.diffusion.schedule import (
    Cosine,
    NoiseLevel,
    Straight,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)

PATHS = [VariancePreserving(), SubVariancePreserving(), Cosine(), VarianceExploding(), NoiseLevel(), Straight()]
KINDS = [PredictNoise(), PredictData(), PredictVelocity(), PredictScore(), PredictDrift(), Preconditioned()]
paths = pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)


def targets(path, level, data, noise):
    """What each network approximates, from data and noise, written from the paths' definitions."""
    t = path.time(level)
    alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
    step = 1e-6 * t
    rates = [((of(t + step) - of(t - step)) / (2 * step))[:, None] for of in (path.alpha, path.sigma)]
    length = (alpha**2 + sigma**2).sqrt()
    s = level[:, None]
    return {
        PredictNoise: noise,
        PredictData: data,
        PredictVelocity: (alpha * noise - sigma * data) / length,
        PredictScore: -noise,  # sigma times the score, -e / sigma
        PredictDrift: (rates[0] * data + rates[1] * noise) / ((rates[0] ** 2 + rates[1] ** 2) / 2).sqrt(),
        Preconditioned: (data - (data + s * noise) / (1 + s**2)) * (1 + s**2).sqrt() / s,
    }


@paths
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_targets_have_the_size_of_one_at_every_level(path, kind):
    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(20, 2_000, generator=generator, dtype=torch.float64) for _ in range(2))
    level = torch.linspace(math.log(1.1 * path.least), math.log(0.9 * path.most), 20, dtype=torch.float64).exp()
    size = targets(path, level, data, noise)[type(kind)].square().mean(1).sqrt()
    assert float(size.min()) > 0.9
    assert float(size.max()) < 1.5  # 2 ** 0.5 for drifts


def test_flow_matching_is_asked_for_the_drift_itself():
    path, level = Straight(), torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    skip, scale = PredictDrift().coefficients(path, path.time(level))
    data, noise = torch.tensor([0.3, -1.0, 2.0]).double(), torch.tensor([1.0, 0.5, -0.7]).double()
    noisy = path.alpha(path.time(level)) * data + path.sigma(path.time(level)) * noise
    torch.testing.assert_close(skip * noisy + scale * (noise - data), data)


@paths
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_a_network_that_gives_its_target_gives_the_data(path, kind):
    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(40, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    level = torch.linspace(-4.0, 2.0, 40, dtype=torch.float64).exp()
    target = targets(path, level, data, noise)[type(kind)]
    found = Diffusion(path, kind).denoise(lambda shown, log: target, data + level[:, None] * noise, level)
    torch.testing.assert_close(found, data, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_even_weights_make_the_loss_the_error_of_what_is_approximated(kind):
    """A network that is off by 1 everywhere has a loss of 1, were its target free of noise: data that are one point."""
    diffusion = Diffusion(Cosine(), kind, EvenTimes(), EvenWeights())
    data = torch.zeros(64, 2, dtype=torch.float64)

    def off(shown, log):
        path, level = diffusion.schedule, log.exp()
        noise = shown * (1 + level**2).sqrt()[:, None] / level[:, None]
        return targets(path, level, data, noise)[type(kind)] + 1

    loss = diffusion.loss(off, data, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, torch.ones_like(loss), rtol=1e-4, atol=0)


@paths
@pytest.mark.parametrize("levels", [EvenTimes(), EvenLogs(), NormalLogs()], ids=lambda levels: type(levels).__name__)
def test_densities_of_levels_are_those_they_are_drawn_from(path, levels):
    uniform = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    level, density = levels.draw(path, uniform)
    assert level.min() >= path.least * (1 - 1e-6)
    assert level.max() <= path.most * (1 + 1e-6)
    shares = density[1:-1] * (level[2:].log() - level[:-2].log()) / 2  # of log s between neighbours
    shares = shares[200:-200]  # differences are coarse in the tails
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / 20_000), rtol=2e-2, atol=0)


@pytest.mark.parametrize("levels", [EvenTimes(), EvenLogs(), NormalLogs(0.0, 2.0)])
def test_likelihood_weights_make_the_loss_the_integral_of_the_bound(levels):
    """Up to a constant: of a Gaussian and its exact denoiser int E|D - x_0|^2 / s^3 ds has a closed form."""
    path, sd = NoiseLevel(1e-2, 50.0), 0.7
    with warnings.catch_warnings():  # with even times few levels carry the bound, as the warning says
        warnings.simplefilter("ignore")
        diffusion = Diffusion(path, Preconditioned(), levels, LikelihoodWeights())
    generator = torch.Generator().manual_seed(0)
    data = sd * torch.randn(400_000, 1, generator=generator, dtype=torch.float64)

    def exact(shown, log):
        s = log.exp()[:, None]
        denoised = sd**2 / (sd**2 + s**2) * shown * (1 + s**2).sqrt()
        skip, scale = diffusion.parameterisation.coefficients(path, s)
        return (denoised - skip * shown * (1 + s**2).sqrt()) / scale

    loss = diffusion.loss(exact, data, generator=generator)
    # int sd^2 s^2 / (sd^2 + s^2) / s^3 ds
    closed = 0.5 * (math.log(path.most**2 / (sd**2 + path.most**2)) - math.log(path.least**2 / (sd**2 + path.least**2)))
    assert abs(float(loss.mean()) - closed) < 4 * float(loss.std()) / len(loss) ** 0.5  # false alarms: 6e-5


def test_clipped_weights_are_the_signal_to_noise_ratio_up_to_gamma():
    level = torch.tensor([0.1, 1.0, 2.0])
    torch.testing.assert_close(ClippedWeights(5.0).weight(level, level, level), torch.tensor([5.0, 1.0, 0.25]))


@pytest.mark.parametrize(
    ("path", "kind", "levels"),
    [(NoiseLevel(), Preconditioned(), EvenTimes()), (Straight(), PredictData(), NormalLogs())],
    ids=["rare levels", "data at low levels"],
)
def test_weights_that_hang_on_few_levels_are_told(path, kind, levels):
    with pytest.warns(UserWarning, match="LikelihoodWeights on the path .* of the noise levels drawn carry the loss"):
        Diffusion(path, kind, levels, LikelihoodWeights())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Diffusion(path, kind, levels)
        Diffusion(path, Preconditioned(), EvenLogs(), LikelihoodWeights())


@pytest.mark.parametrize("mixture", [LINE, PLANE], ids=["line", "plane"])
def test_the_exact_denoiser_has_the_smallest_loss(mixture):
    """And one that is a tenth too wide a larger one, by more than 4 standard errors: false alarms 3e-5 each way."""
    diffusion = Diffusion(NoiseLevel(1e-2, 20.0))
    data = mixture.sample(20_000, torch.Generator().manual_seed(0))

    def network(factor):
        def call(shown, log):
            s = log.exp()
            y = shown * (1 + s**2).sqrt()[:, None]
            skip, scale = diffusion.parameterisation.coefficients(diffusion.schedule, s)
            return (factor * mixture.denoise(y, s) - skip[:, None] * y) / scale[:, None]

        return call

    losses = [diffusion.loss(network(f), data, generator=torch.Generator().manual_seed(1)) for f in (1.0, 1.1)]
    more = losses[1] - losses[0]
    assert float(more.mean()) > 4 * float(more.std()) / len(more) ** 0.5


@pytest.mark.parametrize("wrong", [lambda: NormalLogs(0.0, 0.0), lambda: ClippedWeights(0.0)])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="above 0"):
        wrong()
