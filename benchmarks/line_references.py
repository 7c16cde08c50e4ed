r"""How many lines a spectrum has, known without a network: tempered particles, and dynesty's nested sampling.

The posterior of `simulators/spectral_lines.py` for one number of lines n has 1 + 2 n parameters. Particles go from the
prior to it through the laws p(theta) p(x | theta)^b, b from 0 to 1. Each next b is that at which the weights leave 0.9
of the particles effective; particles are resampled, and each is moved by steps that lie between pairs of others
(differential evolution), and by drawing one of its lines anew. The logarithm of the evidence is the sum of those of
the mean weights.

dynesty's logarithm has an error near sqrt(H / live points), 0.3 here, for H nats that are learned, and takes minutes a
record for errors below 0.1, since it calls the likelihood once a point; with its usual 25 steps of each walk it missed
modes of three lines (log Z too low by 3.6 with an error of 0.32, and right with 100 steps). The particles call the
likelihood for all at once. Both are compared on a record, within their errors.

References:
    | Sequential Monte Carlo samplers (Del Moral, Doucet, Jasra, 2006), https://doi.org/10.1111/j.1467-9868.2006.00553.x
    | A Markov Chain Monte Carlo version of the genetic algorithm Differential Evolution (ter Braak, 2006),
      https://doi.org/10.1007/s11222-006-8769-1
    | dynesty (Speagle, 2020), https://arxiv.org/abs/1904.02180
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from dynesty_peer import log_evidence

Array = Any  # of numpy
LOW, HIGH, CHANNELS, BLUR, MOST = 2.0, 8.0, 60, 0.15, 4
KEPT, STEPS = 0.9, 15


def log_likelihood(counts: Array, n: int) -> Callable[[Array], Array]:
    """log p(x | u), up to prod 1 / x!, of unit cubes u (..., 1 + 2 n) that become a background, energies, strengths."""
    from scipy.special import ndtr

    fine = np.linspace(LOW - 1.0, HIGH + 1.0, 8_001)  # channels of a line at each energy, so that a call is a look-up
    edges = np.linspace(LOW, HIGH, CHANNELS + 1)
    profile = np.diff(ndtr((edges - fine[:, None]) / BLUR), axis=1)

    def function(u: Array) -> Array:
        mean = np.repeat(2.0 * 10.0 ** u[..., :1], CHANNELS, -1)
        energy, strength = in_order(u[..., 1 : 1 + n]), 10.0 * 20.0 ** u[..., 1 + n :]
        for i in range(n):
            place = np.rint((energy[..., i] - fine[0]) / (fine[1] - fine[0])).astype(int)
            mean = mean + strength[..., i, None] * profile[place]
        return np.log(mean) @ counts - mean.sum(-1)

    return function


def in_order(u: Array) -> Array:
    """Independent uniform numbers (..., n) -> energies in increasing order: the largest is that of n, and so on."""
    n = u.shape[-1]
    largest = np.cumprod(u ** (1.0 / np.arange(n, 0, -1)), axis=-1)
    return LOW + (HIGH - LOW) * largest[..., ::-1]


def tempered(counts: Array, n: int, particles: int, rng: np.random.Generator) -> float:
    """log p(x | n), up to prod 1 / x!, of counts (60,)."""
    function, size = log_likelihood(counts, n), 1 + 2 * n
    u = rng.random((particles, size))
    value, power, total = function(u), 0.0, 0.0
    while power < 1.0:
        step = _step(value, 1.0 - power)
        weight = np.exp(step * (value - value.max()))
        total += math.log(weight.mean()) + step * float(value.max())
        power += step
        places = (np.arange(particles) + rng.random()) / particles
        chosen = np.searchsorted(np.cumsum(weight / weight.sum()), places).clip(0, particles - 1)
        u, value = _moved(function, u[chosen], value[chosen], power, rng)
    return total


def _step(value: Array, most: float) -> float:
    """The largest step of the power, up to `most`, that keeps a share of the particles effective."""

    def kept(step: float) -> float:
        weight = np.exp(step * (value - value.max()))
        return float(weight.sum() ** 2 / (weight**2).sum() / len(value))

    if kept(most) >= KEPT:
        return most
    low, high = 0.0, most
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) >= KEPT else (low, middle)
    return low


def _moved(
    function: Callable[[Array], Array], u: Array, value: Array, power: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Particles after some steps of a chain whose law they have."""
    count, n = len(u), (u.shape[1] - 1) // 2
    for _ in range(STEPS):
        order = rng.permutation(count)
        for mine, others in ((order[: count // 2], order[count // 2 :]), (order[count // 2 :], order[: count // 2])):
            _accept(function, u, value, power, mine, _between(u, mine, others, rng), rng)
        if n:
            _accept(function, u, value, power, order, _a_line_anew(u[order], n, rng), rng)
    return u, value


def _accept(
    function: Callable[[Array], Array],
    u: Array,
    value: Array,
    power: float,
    mine: Array,
    tried: Array,
    rng: np.random.Generator,
) -> None:
    """Take what was tried with the probability of Metropolis."""
    inside = ((tried > 0) & (tried < 1)).all(1)
    found = np.full(len(mine), -np.inf)
    found[inside] = function(tried[inside])
    taken = np.log(rng.random(len(mine))) < power * (found - value[mine])
    u[mine[taken]], value[mine[taken]] = tried[taken], found[taken]


def _between(u: Array, mine: Array, others: Array, rng: np.random.Generator) -> Array:
    """Steps of one half of the particles by differences of the other."""
    size, count = u.shape[1], len(mine)
    pair = rng.integers(0, len(others), (2, count))
    scale = rng.choice([1.19 / math.sqrt(size), 0.3, 1.0], count)[:, None]
    along = rng.random((count, size)) < rng.choice([0.3, 1.0], count)[:, None]
    return u[mine] + along * (scale * (u[others[pair[0]]] - u[others[pair[1]]]) + 1e-4 * rng.normal(size=(count, size)))


def _a_line_anew(u: Array, n: int, rng: np.random.Generator) -> Array:
    """One line of each drawn from the prior, or moved a little; lines are put in order again."""
    count = len(u)
    energy, strength = in_order(u[:, 1 : 1 + n]), u[:, 1 + n :].copy()
    rows, line = np.arange(count), rng.integers(0, n, count)
    near = rng.random(count) < 0.5
    moved = energy[rows, line] + 0.2 * rng.normal(size=count)
    energy[rows, line] = np.where(near, moved, rng.uniform(LOW, HIGH, count))
    strength[rows, line] = np.where(rng.random(count) < 0.5, strength[rows, line], rng.random(count))
    order = energy.argsort(axis=1)
    energy, strength = np.take_along_axis(energy, order, 1), np.take_along_axis(strength, order, 1)
    share = ((energy - LOW) / (HIGH - LOW))[:, ::-1]
    before = np.concatenate([np.ones((count, 1)), share[:, :-1]], axis=1)
    outside: Array = (share <= 0).any(1) | (share >= 1).any(1)
    ratio = np.where(outside[:, None], 2.0, share / np.where(outside[:, None], 1.0, before))
    return np.concatenate([u[:, :1], ratio ** np.arange(n, 0, -1), strength], axis=1)


def nested(counts: Array, n: int, live: int, seed: int) -> tuple[float, float]:
    """log p(x | n), up to prod 1 / x!, and its error, by dynesty."""
    function = log_likelihood(counts, n)
    return log_evidence(lambda u: float(function(u)), lambda u: u, 1 + 2 * n, live=live, seed=seed, walks=100)


def probabilities(logs: Array) -> Array:
    """Of each number of lines, equally likely before the data."""
    p = np.exp(logs - logs.max())
    return p / p.sum()
