"""A parameter that the data say nothing of is named, and one that they tell of with another is not."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from sciinf.core import Draws, Prior
from sciinf.diagnostics.bounds import Bounds
from sciinf.diagnostics.information import check_information

PRIOR = Prior(a=td.Normal(1.0, 2.0), b=td.LogNormal(0.0, 2.0), c=td.Uniform(-1.0, 3.0))
BOUNDS = Bounds(PRIOR)


def told(sd: float, seed: int = 0, n: int = 10_000, law=None) -> str:
    """Words about draws of the prior, of which a is told with some sd, with weights or without."""
    generator = torch.Generator().manual_seed(seed)
    theta = PRIOR.sample(n, generator=generator)
    log = torch.zeros(n, dtype=torch.float64)
    if sd:
        theta[:, 0] = 1.5 + sd * torch.randn(n, generator=generator)
    if law:
        log = law(theta).double()
    return "".join(one.words for one in check_information(BOUNDS, Draws(PRIOR.names, PRIOR.units, theta, log)))


def test_what_the_data_say_nothing_of_is_named():
    assert (
        told(0.1)
        == "the data tell nothing of b, c, or the network has not learned them: their posteriors are their priors"
    )
    assert told(0.1, n=1_000) == ""  # too few draws to tell
    only = told(0.0, law=lambda theta: -0.5 * (theta[:, 1].log() - theta[:, 0]).square())
    assert only == "the data tell nothing of c, or the network has not learned it: its posterior is its prior"


@pytest.mark.parametrize("seed", range(10))
def test_what_is_told_is_not_named(seed):
    """An sd that is a tenth less than the prior's, of 10,000 draws."""
    assert " a," not in told(1.8, seed)


def test_a_parameter_that_is_told_with_another_alone_is_not_named():
    """By itself each is as in the prior; given the other, p or its size is known to a fifth of the prior."""
    wide, generator = Prior(p=td.Normal(0.0, 1.0), q=td.Uniform(0.0, 1.0)), torch.Generator().manual_seed(0)
    q, near, sign = torch.rand(3, 10_000, generator=generator).clamp(1e-4, 1 - 1e-4)
    near = (q + 0.2 * near) % 1.0
    for p in (torch.special.ndtri(near), (sign - 0.5).sign() * torch.special.ndtri(0.5 + near / 2)):
        draws = Draws(wide.names, wide.units, torch.stack([p, q], 1), torch.zeros(10_000).double())
        assert check_information(Bounds(wide), draws) == ()
