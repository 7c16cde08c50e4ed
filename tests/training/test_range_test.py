"""The search for a learning rate and a batch: known curves, a known noise scale, and the same answer every time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td
from torch import nn

from sciinf.core import Batch, Estimator, Observable, Prior
from sciinf.training.range_test import HIGHEST, LOWEST, SAFETY, STEPS, batch_of, divergence, noise_scale, searched
from sciinf.training.recipe import Recipe
from sciinf.training.source import Source


class Bowl(Estimator):
    """|w - theta|^2 / 2 times a curvature; theta ~ N(0, 1) per dimension."""

    def __init__(self, curvature=1.0, start=3.0):
        super().__init__()
        self.prior, self.observables = Prior(a=td.Normal(0.0, 1.0), b=td.Normal(0.0, 1.0)), {"x": Observable((1,))}
        self.curvature = curvature
        self.w = nn.Parameter(torch.full((2,), start))

    def standardise(self, batches): ...

    def loss(self, batch, *, generator):
        return 0.5 * self.curvature * (self.w - batch.theta).square().sum(-1)

    def condition(self, x): ...

    def features(self, x): ...


class Normals(Source):
    """Standard normal parameters."""

    def __init__(self, rows):
        self.train, self.held_out = rows, 2
        self.theta = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))

    def epoch(self, number, size, generator):
        order = torch.randperm(self.train, generator=generator)
        for start in range(0, self.train - size + 1, size):
            theta = self.theta[order[start : start + size]]
            yield Batch(theta, {"x": theta[:, :1]})

    def ordered(self, size, *, validation):
        yield Batch(self.theta[:2], {"x": self.theta[:2, :1]})

    def record(self):
        return {}


def test_divergence_of_a_known_curve():
    losses = [5.0] * 20 + [4.0] * 20 + [1.0] * 30 + [100.0] * 30
    at, smooth = divergence(losses)
    # the smoothed loss is close to 1 at step 69, and one step of 0.1 x 100 lifts it over 1 + (5 - 1) / 2
    assert at == 70
    assert smooth[0] == 5.0
    assert smooth[69] == pytest.approx(1.0, abs=0.15)
    assert divergence([2.0, 3.0, 4.0])[0] is None
    assert divergence([5.0, 4.0, 3.0])[0] == 2  # it never diverges: the last rate
    assert divergence([5.0] * 10 + [1.0] * 20 + [math.nan] * 5)[0] == 30


def test_noise_scale_is_unbiased():
    # G = (3, 4, 0, ...), Sigma = 4 I in 10 dimensions: tr Sigma = 40, |G|^2 = 25. Over 10,000 repetitions the mean is
    # within 5 standard errors (false alarm 6e-7 each).
    g = torch.Generator().manual_seed(1)
    mean = torch.zeros(10, dtype=torch.float64)
    mean[:2] = torch.tensor([3.0, 4.0])
    found = []
    for _ in range(10_000):
        noise = torch.randn(16, 10, generator=g, dtype=torch.float64)
        found.append(noise_scale(mean + 2.0 / math.sqrt(50) * noise, 50))
    trace, squared = torch.tensor(found, dtype=torch.float64).unbind(1)
    for values, exact in ((trace, 40.0), (squared, 25.0)):
        assert abs(float(values.mean()) - exact) < 5 * float(values.std()) / math.sqrt(10_000)
    # planted fault: without the correction |g|^2 is too large by tr Sigma / (16 x 50)
    assert abs(float(squared.mean()) + 0.05 - 25.0) > 5 * float(squared.std()) / math.sqrt(10_000)


def test_the_rate_is_found_on_the_recipes_optimiser_and_recorded():
    recipe, told = searched(Bowl(), Normals(2_000), Recipe(learning_rate="auto", batch=200), seed=3)
    found = told["search"]["learning_rate"]
    assert recipe.learning_rate == found["learning_rate"] == found["divergence"] / SAFETY
    assert recipe.batch == 200
    assert LOWEST < recipe.learning_rate <= HIGHEST / SAFETY
    assert len(found["rates"]) == len(found["smoothed_losses"]) == STEPS
    assert min(found["smoothed_losses"]) < found["smoothed_losses"][0]


def test_nothing_to_find_is_nothing_done():
    recipe = Recipe(batch=100)
    assert searched(Bowl(), Normals(500), recipe, seed=0) == (recipe.resolved(500), {})


def test_the_number_of_parameters_is_told_to_the_recipe():
    bowl = Bowl()
    bowl.prior = Prior(**{f"p{k}": td.Normal(0.0, 1.0) for k in range(20)})
    assert (
        searched(bowl, Normals(500), Recipe(), 0)[0] == Recipe().resolved(500, parameters=20) != Recipe().resolved(500)
    )


def test_where_the_loss_cannot_fall_the_default_is_kept():
    rows = Normals(2_000)
    rows.theta.zero_()
    recipe, told = searched(Bowl(start=0.0), rows, Recipe(learning_rate="auto", batch=2_000), seed=0)
    assert told["search"]["learning_rate"]["divergence"] is None
    assert recipe.learning_rate == Recipe(batch=2_000).resolved(2_000).learning_rate


def test_the_same_answer_every_time_and_the_estimator_stays():
    estimator = Bowl()
    answers = [searched(estimator, Normals(2_000), Recipe(learning_rate="auto", batch="auto"), 7) for _ in range(2)]
    assert answers[0] == answers[1]
    assert torch.equal(estimator.w.detach(), torch.full((2,), 3.0))
    assert answers[0] != searched(estimator, Normals(2_000), Recipe(learning_rate="auto", batch="auto"), 8)


def check_batches(rule):
    """A power of two within the range, close to the scale where that fits, and nine steps in an epoch."""
    for rows in (288, 1_000, 6_000, 9_000, 10**6):
        for scale in (0.1, 40.0, 200.0, 700.0, math.inf):
            batch = rule(scale, rows)
            assert batch & (batch - 1) == 0
            assert 32 <= batch <= 8_192
            assert rows // batch >= 9
            if 32 <= scale <= rows / 18:
                assert 2**-0.5 <= batch / scale <= 2**0.5
    assert [rule(math.inf, rows) for rows in (287, 100, 32, 20)] == [32, 32, 32, 20]


def rounded(scale, rows):
    """The planted fault: the largest batch is rounded to the nearest power of two, which may be above it."""
    return min(rows, 2 ** round(math.log2(min(max(scale, 32), 8_192, max(32, rows // 9)))))


def test_a_batch_leaves_nine_steps_in_an_epoch():
    check_batches(batch_of)
    with pytest.raises(AssertionError):
        check_batches(rounded)


def test_noisy_gradients_want_larger_batches():
    # Rows of a bowl far from its minimum agree on the way down; near the minimum they do not
    far, near = (searched(Bowl(start=s), Normals(9_000), Recipe(batch="auto"), 0)[0].batch for s in (100.0, 0.01))
    assert far == 32
    assert near > 100
    assert near & (near - 1) == 0
    assert near <= 512
