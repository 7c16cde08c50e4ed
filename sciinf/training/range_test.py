r"""Search for a learning rate and a batch size by a few hundred steps on a copy of the estimator, without any timing.

Learning rate. Over S = 100 steps the rate grows from 1e-5 to 1 by the same factor each time. The losses l_s are
smoothed, m_s = 0.9 m_{s-1} + 0.1 l_s over 1 - 0.9^{s+1}. Training is called divergent at the first step after the
minimum of m where

    m_s > min m + (m_0 - min m) / 2.

The result is a sixteenth of the rate at that step. The smoothed loss lags behind, so its minimum lies at four times the
rate of a stable run. The loss has come back up at two to four times the rate of the minimum. This choice agrees, within
a factor of two, with the best rates found by training to the end. It depends less on chance than the point of steepest
descent does.

Batch. With per-row gradients of mean G and covariance Sigma, the gradient of B rows has mean G and covariance
Sigma / B. Steps on more rows than the noise scale tr(Sigma) / |G|^2 are hardly better than steps on as many rows as
that. Steps on fewer rows are mostly noise. The noise scale is estimated without bias from M = 16 gradients g_i of b
rows each,

    tr(Sigma) / b ~ sum_i |g_i - g|^2 / (M - 1),    |G|^2 ~ |g|^2 - tr(Sigma) / (b M),    g = mean g_i,

after a short schedule that ends at a learning rate of zero. Before the schedule has ended, the weights swing across
narrow valleys, and their gradients do not point along the valleys. The noise scale grows with training, so the batch
that training could use is bounded from above by it. The batch is a power of two, and leaves at least nine steps in an
epoch. With fewer than 288 rows the batch is 32, or all rows if there are fewer than 32.

References:
    | Cyclical Learning Rates for Training Neural Networks (Smith, 2017), https://arxiv.org/abs/1506.01186
    | An Empirical Model of Large-Batch Training (McCandlish et al., 2018), https://arxiv.org/abs/1812.06162
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from sciinf.core import Batch, Learned
from sciinf.training.learner import Single, stream, stream_seed
from sciinf.training.recipe import Recipe
from sciinf.training.schedule import Schedule, scaled_rate
from sciinf.training.source import Source
from sciinf.training.step import Step, step_settings

STEPS = 100
LOWEST, HIGHEST = 1e-5, 1.0
SAFETY = 16.0
GRADIENTS, SMALL = 16, 50
FEWEST, MOST = 32, 8192
STEPS_LEFT = 9  # An epoch has at least this many steps.


def searched(estimator: Learned, source: Source, recipe: Recipe, seed: int) -> tuple[Recipe, dict[str, Any]]:
    """The resolved recipe (`Recipe.resolved`), its "auto" entries replaced by searched values, and a record of the
    search.

    Args:
        estimator: Estimator, standardised and on the training device. It is not changed.
        source: The training rows.
        recipe: Recipe whose batch or learning rate may be "auto".
        seed: Seeds the batches of the search, which differ from the batches of the training.

    Returns:
        The recipe, and a record of the measurements as plain JSON values under "search". The record is empty if nothing
        was "auto".
    """
    found: dict[str, Any] = {}
    about: dict[str, Any] = {"learns": estimator.learns, "parameters": len(estimator.prior)}
    start = recipe.resolved(source.train, source.held_out, **about)
    batch, rate = int(start.batch or 1), float(start.learning_rate or 0.0)
    if recipe.learning_rate == "auto":
        rate, found["learning_rate"] = _rate(estimator, source, start, seed)
    if recipe.batch == "auto":
        short = replace(start, learning_rate=rate)
        chosen, found["batch"] = _batch(estimator, source, short, seed)
        if recipe.learning_rate == "auto":
            rate = scaled_rate(rate, batch, chosen)
        recipe = replace(recipe, batch=chosen)
    if recipe.learning_rate == "auto":
        recipe = replace(recipe, learning_rate=rate)
    return recipe.resolved(source.train, source.held_out, **about), {"search": found} if found else {}


def divergence(losses: Sequence[float]) -> tuple[int | None, list[float]]:
    """The step at which training on a rising learning rate diverges, and the smoothed losses.

    Returns:
        The step and the smoothed losses. The step is None if the loss has not fallen at all before it rises.
    """
    smooth, total, weight = [], 0.0, 0.0
    for loss in losses:
        total, weight = 0.9 * total + 0.1 * loss, 0.9 * weight + 0.1
        smooth.append(total / weight)
    finite = [value if math.isfinite(value) else math.inf for value in smooth]
    lowest = min(range(len(finite)), key=finite.__getitem__)
    if not finite[lowest] < finite[0]:
        return None, smooth
    limit = finite[lowest] + 0.5 * (finite[0] - finite[lowest])
    after = (step for step in range(lowest, len(finite)) if finite[step] > limit)
    return next(after, len(finite) - 1), smooth


def noise_scale(gradients: torch.Tensor, rows: int) -> tuple[float, float]:
    """Estimates of tr(Sigma) and |G|^2 from gradients (M, P) of `rows` rows each; the second may be negative."""
    mean = gradients.mean(0)
    spread = (gradients - mean).square().sum() / (len(gradients) - 1)
    return float(spread * rows), float(mean.square().sum() - spread / len(gradients))


def batch_of(scale: float, rows: int) -> int:
    """The batch size: the power of two nearest to a noise scale that leaves nine steps in an epoch of `rows` rows.

    With fewer than 288 rows the batch is 32, or all rows if there are fewer than 32.
    """
    most = max(FEWEST, min(MOST, rows // STEPS_LEFT))
    nearest = 2 ** round(math.log2(min(max(scale, FEWEST), most)))
    return min(nearest, 2 ** math.floor(math.log2(most)), rows)


def _rate(estimator: Learned, source: Source, recipe: Recipe, seed: int) -> tuple[float, dict[str, Any]]:
    rates = [LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)) for step in range(STEPS)]
    step = _step(estimator, recipe, seed)
    sums = []
    with closing(_batches(step, source, int(recipe.batch or 1), seed)) as batches:
        for batch, rate in zip(batches, rates, strict=False):
            step(batch, rate)
            sums.append(step.total.clone())
            step.total.zero_()
    at, smooth = divergence(torch.stack(sums)[:, 0].tolist())
    rate = float(recipe.learning_rate or 0.0) if at is None else rates[at] / SAFETY
    about = {"learning_rate": rate, "rates": rates, "smoothed_losses": smooth, "batch": recipe.batch}
    return rate, {**about, "divergence": None if at is None else rates[at]}


def _batch(estimator: Learned, source: Source, recipe: Recipe, seed: int) -> tuple[int, dict[str, Any]]:
    schedule = Schedule("one-cycle", float(recipe.learning_rate or 0.0), STEPS, 0.1)
    step = _step(estimator, recipe, seed)
    with closing(_batches(step, source, int(recipe.batch or 1), seed)) as batches:
        for number, batch in zip(range(STEPS), batches, strict=False):
            step(batch, schedule(number))
    rows, gradients, weights = min(SMALL, source.train), [], step.learner.weights
    with closing(_batches(step, source, rows, stream_seed(seed, -3))) as batches:
        for _, batch in zip(range(GRADIENTS), batches, strict=False):
            weights.grad = torch.zeros_like(weights) if weights.grad is None else weights.grad.zero_()
            step.losses(batch).sum().backward()
            gradients.append(weights.grad[0].clone())
    # The sums are taken on the CPU, because not every device has float64.
    trace, squared = noise_scale(torch.stack(gradients).cpu().double(), rows)
    scale = trace / squared if squared > 0 else math.inf
    batch = batch_of(scale, source.train)
    return batch, {"batch": batch, "noise_scale": scale, "trace": trace, "gradient_squared": squared}


def _step(estimator: Learned, recipe: Recipe, seed: int) -> Step:
    learner = Single(copy.deepcopy(estimator))
    learner.mode(training=True)
    settings = replace(step_settings(recipe), graph=False)
    return Step(learner, settings, stream(seed, -2, recipe.device))


def _batches(step: Step, source: Source, size: int, seed: int) -> Generator[Batch, None, None]:
    """Yield training batches, epoch after epoch, without end."""
    for number in itertools.count():
        with closing(step.learner.epoch(source, number, size, [stream_seed(seed, -2)])) as batches:
            yield from batches
