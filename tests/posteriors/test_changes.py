"""By how much two answers differ: what is planted, and nothing where they are the same."""

from __future__ import annotations

import math

import pytest
import torch
from narrow import Wrong, X
from torch import distributions as td

from sciinf.core import Draws, Prior
from sciinf.posteriors.changes import agree, changes


@pytest.mark.parametrize(("shift", "width"), [(0.0, 1.0), (0.3, 1.0), (0.0, 1.2)])
def test_answers_differ_by_what_is_planted(shift, width):
    moved, wider = changes(Wrong(shift, width), Wrong(0.0, 1.0), X)
    assert moved == pytest.approx(shift, abs=0.04)
    assert wider == pytest.approx(math.log(width), abs=0.04)


class Far(Wrong):
    """One draw in a hundred lies eight times as far out."""

    def draw_batched(self, x, n, *, generator):
        theta = super().draw_batched(x, n, generator=generator)
        middle = theta.mean(0, keepdim=True)
        return torch.where((torch.arange(n) % 100 == 0)[:, None, None], middle + 8 * (theta - middle), theta)


def test_an_sd_that_few_draws_make_counts():
    """A first answer had an sd 1.13 times too large, and the width of its middle 68 % was right."""
    assert changes(Far(0.0, 1.0), Wrong(0.0, 1.0), X)[1] > 0.1


class Skewed(Wrong):
    """Four LogNormal parameters, log sd 1, of a seed of its own: their sds have a chance error of a tenth and more."""

    prior = Prior(**{name: td.LogNormal(0.0, 1.0) for name in "abcd"})

    def __init__(self, seed, weighted=False):
        self.seed, self.weighted = seed, weighted

    def draw(self, x, n, *, generator):
        noise = torch.randn(n, 4, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        weight = torch.zeros(n, dtype=torch.float64)
        if self.weighted:  # drawn one sd higher
            noise, weight = noise + 1.0, (0.5 - (noise + 1.0)).sum(1)
        return Draws(self.prior.names, self.prior.units, noise.exp(), weight)


def test_the_same_answer_agrees_with_itself_however_skewed_it_is():
    """At least eight of ten; by raw sds one in five."""
    found = [changes(Skewed(2 * seed), Skewed(2 * seed + 1), {}) for seed in range(10)]
    assert sum(map(agree, found)) >= 8


def test_weights_count():
    moved, _ = changes(Skewed(0, weighted=True), Skewed(1), {})
    assert moved < 0.3, "without weights 1.0"
