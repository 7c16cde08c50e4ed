"""Particles against posteriors, evidences and probabilities of events that are known."""

from __future__ import annotations

import math

import pytest
import torch

from sciinf.diagnostics.distances import sliced_wasserstein
from sciinf.networks.diffusion.events import Event
from sciinf.networks.diffusion.inverse import Measured
from sciinf.networks.diffusion.particles import Twist, particles
from sciinf.networks.diffusion.schedule import NoiseLevel
from sciinf.networks.diffusion.solver import Exponential

PATH, DIM = NoiseLevel(0.01, 20.0), 4
COVARIANCE = torch.tensor([[1.5, 0.6, 0.0, 0.2], [0.6, 1.0, 0.3, 0.0], [0.0, 0.3, 0.7, 0.1], [0.2, 0.0, 0.1, 0.8]])
CENTRES = torch.tensor([[1.2, 0.8, -0.5, 0.0], [-1.0, 0.5, 0.9, 0.3], [-0.2, -1.3, -0.4, -0.3]])
NARROW = 0.35  # sd of each of the mixture's parts


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(y, level):
    """The denoiser of N(0, COVARIANCE)."""
    return y @ torch.linalg.solve(COVARIANCE + level**2 * torch.eye(DIM), COVARIANCE)


def mixture(y, level):
    """The denoiser of three equal parts."""
    variance = NARROW**2 + level**2
    share = (-0.5 * (y[:, None] - CENTRES).square().sum(-1) / variance).softmax(1)
    return share @ CENTRES * (level**2 / variance) + y * (NARROW**2 / variance)


def first_two(x):
    return x[:, :2]


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
def test_measurements_of_a_gaussian(order):
    """Four runs of 500 particles: the mean is within 0.15 sd, evidences within 4 of their own standard errors."""
    seen, sd = torch.tensor([1.4, -0.6]), 0.2
    s = COVARIANCE[:2, :2] + sd**2 * torch.eye(2)
    exact = torch.distributions.MultivariateNormal(torch.zeros(2), s).log_prob(seen)
    gain = torch.linalg.solve(s, COVARIANCE[:2]).mT
    mean, variance = gain @ seen, (COVARIANCE - gain @ COVARIANCE[:2]).diagonal()
    twist = Measured(first_two, seen, sd, order=order)
    runs = [particles(gaussian, twist, 500, torch.empty(DIM), PATH, generator=generator(k)) for k in range(4)]
    drawn = torch.cat([run.resample(500, generator=generator()) for run in runs])
    assert float(((drawn.mean(0) - mean) / variance.sqrt()).abs().max()) < 0.15
    assert torch.allclose(drawn.std(0) / variance.sqrt(), torch.ones(DIM), atol=0.12)
    found = torch.tensor([run.log_evidence for run in runs])
    said = math.sqrt(sum(run.error**2 for run in runs)) / 4
    assert float(found.mean()) == pytest.approx(float(exact), abs=4 * said + 0.02)
    assert all(run.least > 0.3 for run in runs)
    weighed = torch.stack([run.mean() for run in runs]).mean(0)
    assert torch.allclose(weighed, drawn.mean(0), atol=0.05)


def test_the_orders_agree_for_uncorrelated_data_and_for_those_alone():
    """The second sees how numbers go together before they are known, the first does not."""
    y, level = torch.randn(5, DIM, generator=generator()), torch.tensor(0.8)
    seen = torch.tensor([1.4, -0.6])
    for denoise, alike in ((lambda v, s: v / (1 + s**2), True), (gaussian, False)):
        one, two = (Measured(first_two, seen, 0.2, order=order).guess(denoise, y, level) for order in (1, 2))
        assert torch.allclose(one[0], two[0], atol=1e-4) == alike
        assert torch.allclose(one[1], two[1], atol=1e-4) == alike


def exact_mixture(seen, sd, n):
    """Draws of the mixture given its first two numbers, and log p of these."""
    log_share = torch.distributions.Normal(CENTRES[:, :2], math.sqrt(NARROW**2 + sd**2)).log_prob(seen).sum(1)
    part = torch.multinomial(log_share.softmax(0), n, replacement=True, generator=generator(9))
    noise, gain = torch.randn(n, DIM, generator=generator(8)), NARROW**2 / (NARROW**2 + sd**2)
    x = CENTRES[part] + NARROW * noise
    x[:, :2] = CENTRES[part][:, :2] + gain * (seen - CENTRES[part][:, :2]) + sd * math.sqrt(gain) * noise[:, :2]
    return x, float(log_share.logsumexp(0) - math.log(3))


@pytest.mark.slow
def test_measurements_of_a_mixture_that_leave_two_parts():
    """Within 1.8 times what two sets of exact draws are apart; guidance without weights is not."""
    seen, sd = torch.tensor([0.15, 0.6]), 0.3
    true, exact = exact_mixture(seen, sd, 4_000)
    floor = sliced_wasserstein(true[:2_000], true[2_000:])
    twist = Measured(first_two, seen, sd)
    run = particles(mixture, twist, 2_000, torch.empty(DIM), PATH, generator=generator(1))
    found = sliced_wasserstein(run.resample(2_000, generator=generator()), true[:2_000])
    assert float(found) < 1.8 * float(floor)
    assert run.log_evidence == pytest.approx(exact, abs=4 * run.error + 0.05)

    def guided(y, level):
        _, slope, value = twist.guess(mixture, y, level)
        return value + level**2 * slope

    start = PATH.most * torch.randn(2_000, DIM, generator=generator(1))
    plain = Exponential(100).solve(guided, start, PATH, generator=generator())
    assert float(sliced_wasserstein(plain, true[:2_000])) > 2.5 * float(floor)


@pytest.mark.parametrize("probability", [0.3, 1e-2, 1e-5])
def test_how_probable_an_event_is(probability):
    direction = torch.tensor([0.6, -0.3, 0.5, 0.4])
    sd = float((direction @ COVARIANCE @ direction).sqrt())
    level = sd * math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - 2 * probability, dtype=torch.float64)))
    run = particles(
        gaussian, Event(lambda x: x @ direction, level), 1_000, torch.empty(DIM), PATH, generator=generator(3)
    )
    assert run.log_evidence == pytest.approx(math.log(probability), abs=0.12)
    drawn = run.resample(1_000, generator=generator())
    assert bool((drawn @ direction > level).all())
    z = level / sd  # the mean of a normal number above z
    density = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    assert float((drawn @ direction).mean()) / sd == pytest.approx(density / probability, rel=0.05)


class Blind(Twist):
    """Says nothing of what is to come: plain draws that are weighted at the end."""

    def __init__(self, twist):
        self.twist = twist

    def through(self, function):
        return Blind(self.twist.through(function))

    def log_prob(self, x):
        return self.twist.log_prob(x)

    def guess(self, denoise, y, level):
        return torch.zeros(len(y)), torch.zeros_like(y), denoise(y, level)


@pytest.mark.slow
def test_any_guess_leads_to_the_same_evidence_and_a_bad_one_says_so():
    seen, sd = torch.tensor([1.4, -0.6]), 0.2
    twist = Measured(first_two, seen, sd)
    good = particles(gaussian, twist, 4_000, torch.empty(DIM), PATH, generator=generator())
    blind = particles(gaussian, Blind(twist), 4_000, torch.empty(DIM), PATH, generator=generator(1))
    assert blind.log_evidence == pytest.approx(good.log_evidence, abs=5 * blind.error)
    assert blind.error > 3 * good.error
    with pytest.warns(UserWarning, match="not a posterior"):
        particles(
            gaussian,
            Blind(Measured(first_two, torch.tensor([4.0, -4.0]), 0.05)),
            200,
            torch.empty(DIM),
            PATH,
            generator=generator(),
        )


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="is it possible at all"):
        particles(
            gaussian, Event(lambda x: -x.square().sum(1), 1.0), 100, torch.empty(DIM), PATH, generator=generator()
        )
    for make, says in (
        (lambda: Measured(first_two, torch.zeros(2), 0.0), "positive number"),
        (lambda: Measured(first_two, torch.zeros(2), 1.0, order=3), "order"),
        (
            lambda: particles(
                gaussian, Event(lambda x: x[:, 0], 0.0), 0, torch.empty(DIM), PATH, generator=generator()
            ),
            "n",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            make()


def test_the_same_seed_gives_the_same_particles():
    twist, before = Event(lambda x: x[:, 0], 1.0), torch.get_rng_state()
    one, two = (
        particles(gaussian, twist, 50, torch.empty(DIM), PATH, generator=generator(4), steps=20) for _ in range(2)
    )
    assert torch.equal(one.x, two.x)
    assert one.log_evidence == two.log_evidence
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("slope", [-0.3, 0.0, 1e-6])
def test_a_guess_is_never_surer_than_a_tenth_of_the_sd_that_uncorrelated_data_have(slope):
    """A learned denoiser may fall where it should rise; Tweedie's variance is then less than nothing."""
    y, level = torch.randn(50, DIM, generator=generator()), torch.tensor(1.0)
    least = 0.1 * math.sqrt(0.5)  # of sd 1 at level 1

    def denoise(v, s):
        return slope * v - 1.0 + 0 * s

    log_t, pull, _ = Event(lambda x: x[:, 0], 0.0).guess(denoise, y, level)
    z = (slope * y[:, 0] - 1.0) / least
    assert torch.allclose(log_t, torch.special.log_ndtr(z.double()).float(), rtol=1e-3)
    assert bool(pull.isfinite().all())
    log_t, _, _ = Measured(first_two, torch.zeros(2), 1e-6).guess(denoise, y, level)
    exact = torch.distributions.Normal(0.0, least).log_prob(slope * y[:, :2] - 1.0).sum(1)
    assert torch.allclose(log_t, exact, rtol=1e-3)
