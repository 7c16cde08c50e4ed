"""Several things seen of one vector, against the exact posterior of a normal law."""

from __future__ import annotations

import math

import pytest
import torch

from sciinf.networks.diffusion.events import Event
from sciinf.networks.diffusion.inverse import Measured
from sciinf.networks.diffusion.particles import particles
from sciinf.networks.diffusion.product import Product
from sciinf.networks.diffusion.schedule import NoiseLevel

PATH, DIM = NoiseLevel(0.01, 20.0), 4
COVARIANCE = torch.tensor([[1.5, 0.6, 0.0, 0.2], [0.6, 1.0, 0.3, 0.0], [0.0, 0.3, 0.7, 0.1], [0.2, 0.0, 0.1, 0.8]])
LOOK = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
SEEN, SDS = torch.tensor([1.4, -0.6, 0.3]), torch.tensor([0.2, 0.2, 0.05])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(y, level):
    """The denoiser of N(0, COVARIANCE)."""
    return y @ torch.linalg.solve(COVARIANCE + level**2 * torch.eye(DIM), COVARIANCE)


def posterior(count=3):
    """Mean and covariance given the first numbers of what is seen, and their log evidence."""
    look, noise = LOOK[:count], torch.diag(SDS[:count].square())
    s = look @ COVARIANCE @ look.mT + noise
    gain = torch.linalg.solve(s, look @ COVARIANCE).mT
    evidence = torch.distributions.MultivariateNormal(torch.zeros(count), s).log_prob(SEEN[:count])
    return gain @ SEEN[:count], COVARIANCE - gain @ look @ COVARIANCE, float(evidence)


SENSORS = Measured(lambda x: x @ LOOK[:2].mT, SEEN[:2], 0.2)
MEAN = Measured(lambda x: x @ LOOK[2:].mT, SEEN[2:], 0.05)


def ran(twist, count=2):
    runs = [particles(gaussian, twist, 1_000, torch.empty(DIM), PATH, generator=generator(k)) for k in range(count)]
    drawn = torch.cat([run.resample(1_000, generator=generator()) for run in runs])
    return drawn, torch.tensor([run.log_evidence for run in runs]), math.sqrt(sum(r.error**2 for r in runs)) / count


@pytest.mark.slow
def test_sensors_and_a_mean():
    """Two runs of 1,000 particles: the mean is within .15 sd, the evidence within 4 of its standard errors."""
    mean, covariance, evidence = posterior()
    drawn, found, said = ran(Product(SENSORS, MEAN))
    assert float(((drawn.mean(0) - mean) / covariance.diagonal().sqrt()).abs().max()) < 0.15
    assert torch.allclose(drawn.std(0) / covariance.diagonal().sqrt(), torch.ones(DIM), atol=0.12)
    assert float(found.mean()) == pytest.approx(evidence, abs=4 * said + 0.02)
    alone, *_ = ran(SENSORS, 1)
    assert float(((alone.mean(0) - mean) / covariance.diagonal().sqrt()).abs().max()) > 0.4


def test_measurements_are_guessed_together():
    """Of a normal law the guess of all is exact at every level; guesses of each, added up, are not."""
    y, level = torch.randn(6, DIM, generator=generator(2)), torch.tensor(0.7)
    both = Measured(lambda x: x @ LOOK.mT, SEEN, SDS)
    joint, added = Product(SENSORS, MEAN), [one.guess(gaussian, y, level) for one in (SENSORS, MEAN)]
    for k in range(3):
        assert torch.allclose(joint.guess(gaussian, y, level)[k], both.guess(gaussian, y, level)[k], atol=1e-5)
    given = COVARIANCE - COVARIANCE @ torch.linalg.solve(COVARIANCE + level**2 * torch.eye(DIM), COVARIANCE)
    spread = LOOK @ given @ LOOK.mT + torch.diag(SDS.square())
    exact = torch.distributions.MultivariateNormal(gaussian(y, level) @ LOOK.mT, spread).log_prob(SEEN)
    assert torch.allclose(joint.guess(gaussian, y, level)[0], exact, atol=1e-3)
    assert float((added[0][0] + added[1][0] - exact).abs().max()) > 0.1
    assert torch.allclose(joint.log_prob(y), both.log_prob(y), atol=1e-5)


@pytest.mark.slow
def test_an_event_beside_measurements():
    """p(E and o) = p(E | o) p(o): that the third number is high, where the first two are measured."""
    mean, covariance, evidence = posterior(2)
    edge = float(mean[2] + 1.5 * covariance[2, 2].sqrt())
    drawn, found, said = ran(Product(Event(lambda x: x[:, 2], edge), SENSORS))
    assert bool((drawn[:, 2] > edge).all())
    exact = evidence + math.log(0.5 * math.erfc(1.5 / math.sqrt(2)))
    assert float(found.mean()) == pytest.approx(exact, abs=4 * said + 0.05)


def test_of_functions_and_what_is_refused():
    double = Product(SENSORS, MEAN).through(lambda z: 2 * z)
    z = torch.randn(3, DIM, generator=generator())
    assert torch.allclose(double.log_prob(z), Product(SENSORS, MEAN).log_prob(2 * z))
    nested, y = Product(Product(SENSORS), MEAN), torch.randn(6, DIM, generator=generator(2))
    guesses = [one.guess(gaussian, y, torch.tensor(0.7)) for one in (nested, Product(SENSORS, MEAN))]
    assert all(torch.equal(*pair) for pair in zip(*guesses, strict=True))
    for of in (lambda x: x[:, 0], lambda x: x[:, :1]):
        with pytest.raises(ValueError, match=r"3 numbers were seen: .* shape \(6, 3\), and has"):
            Measured(of, SEEN, SDS).log_prob(y)
    for bad in (SEEN[None], SEEN / 0):
        with pytest.raises(ValueError, match="a row of finite numbers"):
            Measured(lambda x: x, bad, 0.1)
    with pytest.raises(ValueError, match="one thing seen at least"):
        Product()
    with pytest.raises(ValueError, match="3 measurements and 2 sds"):
        Measured(lambda x: x, SEEN, SDS[:2])
    with pytest.raises(ValueError, match="positive"):
        Measured(lambda x: x, SEEN, torch.tensor([0.1, 0.0, 0.1]))
