"""Messages of a Gaussian chain against one large Gaussian, and against Kalman's filter and smoother, step by step."""

from __future__ import annotations

import pytest
import torch

from sciinf.emulators.processes.messages import GaussianChain, smoothed
from sciinf.simulators.dynamics.linear_states import Affine, LinearStates
from sciinf.simulators.dynamics.state_space import Record
from sciinf.simulators.samplers import kalman

S = 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, draw):
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def chain_of(length, *, rows=4, draw):
    spread = random(rows, length - 1, S, S, draw=draw)
    noise = spread @ spread.mT + 0.1 * torch.eye(S)
    matrix, shift = 0.5 * random(rows, length - 1, S, S, draw=draw), random(rows, length - 1, S, draw=draw)
    return GaussianChain(
        random(rows, S, draw=draw), 0.7 * torch.eye(S, dtype=torch.float64)[None], matrix, shift, noise
    )


def evidence_of(length, *, rows=4, draw):
    root = random(rows, length, S, 2, draw=draw) * (torch.rand(rows, length, 1, 1, generator=draw) < 0.6)
    pull = (root @ random(rows, length, 2, 1, draw=draw))[..., 0]
    return pull, root @ root.mT


def joint(chain, length, rows=4):
    """Mean and covariance of the whole path, forwards: nothing is inverted."""
    mean, noise = [chain.mean], chain.covariance.expand(rows, -1, -1)
    covariance = torch.zeros(rows, length * S, length * S, dtype=torch.float64)
    covariance[:, :S, :S] = noise
    for k in range(1, length):
        matrix, past, here = chain.matrix[:, k - 1], slice(0, k * S), slice(k * S, (k + 1) * S)
        mean.append((matrix @ mean[-1][..., None])[..., 0] + chain.shift[:, k - 1])
        across = matrix @ covariance[:, (k - 1) * S : k * S, past]
        covariance[:, here, past], covariance[:, past, here] = across, across.mT
        covariance[:, here, here] = across[..., -S:] @ matrix.mT + chain.noise[:, k - 1]
    return torch.cat(mean, 1), covariance


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 16])
def test_they_are_those_of_one_large_gaussian(length):
    draw = generator(length)
    chain, (pull, precision) = chain_of(length, draw=draw), evidence_of(length, draw=draw)
    found = smoothed(chain, pull, precision, generator=draw)
    mean, covariance = joint(chain, length)
    prior = torch.distributions.MultivariateNormal(mean, covariance)
    both = torch.linalg.inv(covariance)
    due = (both @ mean[..., None])[..., 0] + pull.flatten(1)
    for k in range(length):
        both[:, k * S : (k + 1) * S, k * S : (k + 1) * S] += precision[:, k]
    after = torch.linalg.inv(both)
    posterior = torch.distributions.MultivariateNormal((after @ due[..., None])[..., 0], 0.5 * (after + after.mT))
    blocks = [after[:, k * S : (k + 1) * S, k * S : (k + 1) * S] for k in range(length)]
    assert torch.allclose(chain.path(length).flatten(1), mean, atol=1e-10)
    assert torch.allclose(found.mean.flatten(1), posterior.mean, atol=1e-8)
    assert torch.allclose(found.covariance, torch.stack(blocks, 1), atol=1e-8)
    assert torch.allclose(found.kl, torch.distributions.kl_divergence(posterior, prior), atol=1e-8)
    path = found.draw.flatten(1)
    assert torch.allclose(found.log_ratio, posterior.log_prob(path) - prior.log_prob(path), atol=1e-8)


def test_draws_are_of_that_law():
    """20,000 paths of one row. False alarms: 4.5 standard errors, 42 numbers, below 1 in 1,000."""
    draw, count, length = generator(2), 20_000, 4
    chain = chain_of(length, rows=1, draw=draw)
    pull, precision = (part.expand(count, *part.shape[1:]) for part in evidence_of(length, rows=1, draw=draw))
    found = smoothed(chain, pull, precision, generator=draw)
    mean, covariance = found.mean[0], found.covariance[0]
    for paths, middle, spread in (
        (found.draw, mean, covariance),
        (chain.drawn(count, length, generator=draw), *_moments(chain, length)),
    ):
        sd = spread.diagonal(dim1=-2, dim2=-1).sqrt()
        assert bool(((paths.mean(0) - middle).abs() < 4.5 * sd / count**0.5).all())
        off = torch.einsum("nti,ntj->tij", paths - middle, paths - middle) / count - spread
        size = (sd[:, :, None] * sd[:, None, :]).square() + spread.square()
        assert bool((off.abs() < 4.5 * (size / count).sqrt()).all())
    assert not torch.allclose(mean, chain.path(length)[0], atol=0.1)  # the fault: draws without evidence


def _moments(chain, length):
    mean, covariance = joint(chain, length, rows=1)
    blocks = [covariance[0, k * S : (k + 1) * S, k * S : (k + 1) * S] for k in range(length)]
    return mean[0].unflatten(0, (length, S)), torch.stack(blocks)


class Matrices(LinearStates):
    """A chain, as Kalman's filter reads it."""

    latent = {"a": "", "b": "", "c": ""}

    def __init__(self, chain, view):
        self.chain, self.seen = chain, view

    def start(self, theta):
        return self.chain.mean, self.chain.covariance

    def step(self, theta, start, stop):
        k = int(start)
        return Affine(self.chain.matrix[:, k], self.chain.shift[:, k], self.chain.noise[:, k])

    def view(self, theta):
        return {"x": self.seen}


def test_they_are_those_of_kalman_step_by_step():
    draw, length = generator(5), 33
    chain = chain_of(length, draw=draw)
    view = random(1, 2, S, draw=draw)
    noise = torch.tensor([[[0.5, 0.1], [0.1, 0.3]]], dtype=torch.float64)
    x, there = random(4, length, 2, draw=draw), torch.rand(4, length, generator=draw) < 0.5
    times = torch.arange(length, dtype=torch.float64)[None]
    filtered = kalman.filtered(Matrices(chain, Affine(view, 0.0, noise)), {}, Record(times, {"x": x}, {"x": there}))
    mean, covariance = kalman.smoothed(filtered)
    seen = there[..., None].double()
    pull = seen * (view.mT @ torch.linalg.solve(noise, x[..., None]))[..., 0]
    precision = seen[..., None] * (view.mT @ torch.linalg.solve(noise, view))
    found = smoothed(chain, pull, precision, generator=draw)
    assert torch.allclose(found.mean, mean, atol=1e-8)
    assert torch.allclose(found.covariance, covariance, atol=1e-8)
    law = torch.distributions.MultivariateNormal((view @ found.draw[..., None])[..., 0], noise)
    log = torch.where(there, law.log_prob(x), 0.0).sum(1) - found.log_ratio
    assert torch.allclose(log, filtered.log_likelihood, atol=1e-6)  # of any path: q is the posterior
    assert not torch.allclose(smoothed(chain, pull.flip(1), precision, generator=draw).mean, mean, atol=0.1)
