"""What is left of draws and priors where discrete parameters are given."""

from __future__ import annotations

import torch

from sciinf.core import Choice, Counts, Draws, Normal, Only, Prior
from sciinf.core.categories import categories_of


def test_given_a_number_that_one_model_has_it_is_that_model():
    """No Bayes factor is left between models of which one has no such number, nor their parameters in the prior."""
    prior = Prior(m=Choice("a", "b"), n=Only(Counts(0, 2), m="b"), s=Only(Normal(0, 1), m="a"), t=Normal(0, 1))
    theta = prior.sample(300, generator=torch.Generator().manual_seed(0))
    draws = Draws(prior.names, prior.units, theta, torch.zeros(300), categories=categories_of(prior))
    given = draws.given(n=1)
    assert given.names == ("t",)
    assert len(given) == int((theta[:, 1] == 1).sum())
    assert not given.categories
    assert set(draws.given(m="b").names) == {"n", "t"}
