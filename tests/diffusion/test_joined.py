"""Three ways to join exact scores of single observations, against the posterior of all of them."""

from __future__ import annotations

import math

import pytest
import torch
from diffusion.sets import linear, off, scores_of, seeded

from sciinf.networks.diffusion.joined import Bridging, Gauss, Jacobian, JoinedParts
from sciinf.networks.diffusion.solver import Exponential


def parts_of(dim, n, *, some=None):
    prior, single, exact = linear(dim, n)
    least = 0.03 * float(torch.linalg.eigvalsh(exact.covariance)[0]) ** 0.5
    like = torch.empty(0, dtype=torch.float64)
    return JoinedParts(scores_of(single), single, prior, least, 10.0, some, like), exact


@pytest.mark.slow
@pytest.mark.parametrize("method", [Gauss(), Jacobian(Exponential(25))], ids=["gauss", "jacobian"])
@pytest.mark.parametrize(("dim", "n"), [(1, 30), (2, 100), (3, 10)])
def test_exact_scores_give_the_exact_posterior(method, dim, n):
    """|mean error| <= 3 sqrt(D/N) + 0.05 sd, sds 0.93 to 1.07; noise breaks it once in a thousand at most."""
    parts, exact = parts_of(dim, n)
    error, ratio = off(method.draw(parts, 1_000, seeded()), exact)
    assert error <= 3 * math.sqrt(dim / 1_000) + 0.05
    assert ratio.min() > 0.93
    assert ratio.max() < 1.07


@pytest.mark.parametrize(("n", "damping"), [(10, True), (100, False)])
def test_bridging_follows_its_densities_to_the_posterior(n, damping):
    """Steps of Langevin without acceptance leave some per cent in the sds, and n = 100 does not diverge."""
    parts, exact = parts_of(2, n)
    error, ratio = off(Bridging(60, 5, size=0.2, damping=damping).draw(parts, 600, seeded()), exact)
    assert error < 0.25
    assert ratio.min() > 0.85
    assert ratio.max() < 1.15


def test_a_prior_counted_once_per_observation_would_be_seen():
    """The planted fault: scores added up without taking n - 1 priors out."""
    parts, exact = parts_of(2, 10)
    flat = JoinedParts(
        parts.scores, parts.single, type(parts.prior)(parts.prior.mean, 1e6 * parts.prior.covariance), parts.least,
        parts.most, None, parts.like,
    )  # fmt: skip
    for method in (Gauss(), Jacobian(), Bridging(40, 4, size=0.2)):
        error, ratio = off(method.draw(flat, 300, seeded()), exact)
        assert error > 0.3 or ratio.min() < 0.85


def test_some_observations_stand_for_all():
    parts, exact = parts_of(1, 200, some=40)
    error, ratio = off(Gauss().draw(parts, 1_000, seeded()), exact)
    assert error < 0.3
    assert 0.75 < float(ratio) < 1.3


def test_steps_that_would_diverge_are_refused():
    with pytest.raises(ValueError, match="steps of 0 to 1 are stable"):
        Bridging(size=1.5)
    with pytest.raises(ValueError, match="levels"):
        Bridging(levels=1)
