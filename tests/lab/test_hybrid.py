"""Hybrid score matching: what it weighs, what minimises it, and draws of a network that was trained on it."""

from __future__ import annotations

import math

import pytest
import torch
from diffusion.mixtures import LINE, PLANE
from diffusion.training import Net, distance_to_line, trained
from lab.linear import DAMPED, FLIPPED, PROCESSES

from sciinf.lab.hybrid import HybridMatching
from sciinf.lab.joint_solver import JointExponential
from sciinf.networks.diffusion.objective import EvenLogs, LikelihoodWeights
from sciinf.networks.diffusion.schedule import NoiseLevel

pytestmark = pytest.mark.slow

PATH = NoiseLevel(1e-2, 20.0)
processes = pytest.mark.parametrize(
    "process", [PROCESSES[name] for name in ("preserving", "damped", "both", "three")], ids=lambda p: f"K={p.size}"
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def exact_network(dim, denoise):
    """F of a denoiser, from what it is shown: y, scaled, comes first."""

    def call(shown, log):
        s = log.exp()[:, None]
        y = shown[:, :dim] * (1 + s**2).sqrt()
        return (denoise(y, log.exp()) - y / (1 + s**2)) * (1 + s**2).sqrt() / s

    return call


@processes
@pytest.mark.parametrize("mixture", [LINE, PLANE], ids=["line", "plane"])
def test_the_exact_denoiser_has_the_smallest_loss(process, mixture):
    """And one that is a tenth too wide a larger one, by more than 4 standard errors: false alarms 3e-5 each way."""
    matching = HybridMatching(process, PATH.least, PATH.most)
    data = mixture.sample(10_000, seeded())
    losses = []
    for factor in (1.0, 1.1):
        network = exact_network(data.shape[1], lambda y, s: factor * mixture.denoise(y, s))
        losses.append(matching.loss(network, data, generator=seeded(1)))
    more = losses[1] - losses[0]
    assert float(more.mean()) > 4 * float(more.std()) / len(more) ** 0.5


def test_errors_count_as_those_of_the_noise_that_the_velocity_received():
    """A network of 0, in closed form for a Gaussian of unit sd: E|e_v - e_v(D)|^2 = E[share s^2 / (1 + s^2)]."""
    matching = HybridMatching(DAMPED, PATH.least, PATH.most)
    data = torch.randn(40_000, 1, generator=seeded(), dtype=torch.float64)
    loss = matching.loss(lambda shown, log: torch.zeros_like(shown[..., :1]), data, generator=seeded(1))
    level, _ = EvenLogs().draw(PATH, (torch.arange(2_000, dtype=torch.float64) + 0.5) / 2_000)
    kernel = DAMPED.kernel(DAMPED.time(level))
    exact = (kernel.share() * kernel.level**2 / (1 + kernel.level**2)).mean()
    assert abs(float(loss.mean() - exact)) < 5 * float(loss.std()) / len(loss) ** 0.5


@processes
def test_likelihood_weights_give_every_diffusion_the_same_bound(process):
    """int sd^2 / (sd^2 + s^2) / s ds of a Gaussian and its exact denoiser; 5 standard errors: false alarms 6e-7."""
    matching = HybridMatching(process, PATH.least, PATH.most, EvenLogs(), LikelihoodWeights())
    sd = 0.7
    data = sd * torch.randn(40_000, 1, generator=seeded(), dtype=torch.float64)

    network = exact_network(1, lambda y, s: y * (sd**2 / (sd**2 + s**2))[:, None])
    loss = matching.loss(network, data, generator=seeded(1))
    ends = [math.log(level**2 / (sd**2 + level**2)) for level in (PATH.least, PATH.most)]
    assert abs(float(loss.mean()) - 0.5 * (ends[1] - ends[0])) < 5 * float(loss.std()) / len(loss) ** 0.5


@processes
def test_the_network_is_shown_numbers_of_unit_sd_at_every_level(process):
    """Of 8,000 data of unit sd, in bins of 1,000 levels; 7 standard errors of an sd are 0.16."""
    matching, seen = HybridMatching(process, PATH.least, PATH.most), []

    def network(shown, log):
        seen.append(shown[log[:, 0].argsort() if log.ndim > 1 else log.argsort()])
        return torch.zeros_like(shown[..., :1])

    matching.loss(network, torch.randn(8_000, 1, generator=seeded(), dtype=torch.float64), generator=seeded(1))
    assert torch.allclose(seen[0].unflatten(0, (8, 1_000)).std(1), torch.ones(8, process.size).double(), atol=0.16)


@pytest.fixture(scope="module")
def matched():
    matching = HybridMatching(DAMPED, PATH.least, PATH.most)
    return matching, trained(Net(2, 1), matching.loss, LINE, steps=600, rows=400, rate=2e-2)


def distance(matching, net, process):
    """Wasserstein-1 between 20,000 draws of a network and the line's law, walking back along a process."""
    solver = JointExponential(process, 30)
    times = DAMPED.time(solver.grid.levels(PATH, solver.steps))
    y = math.sqrt(PATH.most**2 + 1) * torch.randn(20_000, 1, generator=seeded(1))
    u = DAMPED.kernel(times[0]).lift(y, seeded(2))
    with torch.no_grad():
        u = solver.walk(lambda v, t: matching.denoise(net, v, t), u, times, generator=seeded(3))
    return distance_to_line(DAMPED.kernel(times[-1]).project(u), PATH.least)


def test_a_trained_network_draws_from_the_mixture(matched):
    """Wasserstein-1 of a mixture of sd 0.9; the standard normal, a network of 0, is off by 0.22."""
    assert distance(*matched, DAMPED) < 0.08
    assert distance(matched[0], lambda shown, log: torch.zeros_like(shown[..., :1]), DAMPED) > 0.2


def test_a_coupling_of_the_wrong_sign_would_be_seen(matched):
    assert distance(*matched, FLIPPED) > 0.2


def test_levels_that_a_diffusion_does_not_get_to_are_refused():
    matching = HybridMatching(PROCESSES["drifting"], 1e-2, 20.0)
    with pytest.raises(ValueError, match="choose a path within"):
        matching.loss(Net(2, 1), torch.zeros(10, 1), generator=seeded())
