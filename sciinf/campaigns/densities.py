r"""Is a simulator's `log_likelihood` the density of what it simulates? Told without knowing the density.

For parameters a and b, data x_a of a and x_b of b, and l the simulator's log-likelihood, let

    s_a = sigmoid(l(a, x_a) - l(b, x_a)),    s_b = sigmoid(l(b, x_b) - l(a, x_b)),

the probability that each comes from where it does, were l right. Then, whatever the densities p and their supports,

    E[(1 - s)(2 s - 1)] = 0 over both,    E[s_a] = E[s_b],

since int p_a p_b / (p_a + p_b) is either side of the second, and int p_a p_b (p_a - p_b) / (p_a + p_b)^2 vanishes over
both. The first is negative where l is too sure (noise too small), positive where it is not sure enough; the second
fails where a term that depends on the parameters is missing. A factor that depends on nothing changes neither: it
shifts the evidence alone. Pairs are chosen near each other, so that l tells them apart now and then.

A likelihood that is estimated is not asked: of a hidden state, the density of the data given the state is, of states
that were reached at the same time, and whose data are alike.

Reference: On proper scoring rules and their decompositions: Gneiting, Raftery (2007), section 2,
https://doi.org/10.1198/016214506000001437
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sciinf.campaigns.block import generator_for
from sciinf.core import Outcome, Simulator, X
from sciinf.simulators.wrappers.hidden_states import HiddenStates

_WIDE = (2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # of steps between pairs, in z
_APART = 1.5  # median nats by which pairs are told apart
_T, _FAR = 5.0, 0.02  # standard errors, and differences, from which on it is no chance: 6e-7 for each test
_LEAST, _STATES = 30, 128  # pairs, and rows of which states are tried


def density_finding(simulator: Simulator, rows: int, seed: int) -> str:
    """What is wrong with the log-likelihood, in a sentence; "" where nothing is seen, or there is none to look at.

    Args:
        simulator: Whose.
        rows: Pairs to simulate.
        seed: Of all noise.
    """
    if simulator.log_likelihood is None or simulator.prior.mixed or not len(simulator.prior):
        return ""
    if isinstance(simulator, HiddenStates) and simulator.random_likelihood:
        own, other, order = simulator.data_of_pairs(rows, generator=generator_for(seed, rows, 9))
        return _said(own, other, order, "log_observe of the model", "observe draws")
    if simulator.random_likelihood:
        return ""
    found = _pairs(simulator, rows, seed)
    return "" if found is None else _said(*found, "log_likelihood", "the simulator draws")


def density_of_draws(simulator: Simulator, theta: Tensor, x: X, seed: int) -> str:
    """The same where an answer lies: of pairs of its draws, with the data that were simulated from each.

    Args:
        simulator: Whose log-likelihood.
        theta: Draws, (n, D), without weights.
        x: Data of each, name -> (n, *event).
        seed: Of noise, where states are simulated.
    """
    if simulator.log_likelihood is None or simulator.prior.mixed:
        return ""
    if simulator.random_likelihood:
        return density_finding(simulator, _STATES, seed)
    (one, other), (mine, theirs) = (theta[0::2], theta[1::2]), ({n: v[k::2] for n, v in x.items()} for k in (0, 1))
    count = len(other)
    one, mine = one[:count], {n: v[:count] for n, v in mine.items()}
    order = (other.double() - one.double()).sign()
    own, others = _apart(simulator, one, other, mine), _apart(simulator, other, one, theirs)
    return _said(own, others, order, "log_likelihood", "the simulator draws")


def _pairs(simulator: Simulator, rows: int, seed: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """By how many nats each side of pairs is likelier where it comes from; which is first along each parameter."""
    bijection, generator = simulator.prior.bijection, generator_for(seed, rows, 9)
    one = simulator.prior.sample(rows, generator=generator)
    z = bijection.forward(one.double())
    step, x = torch.randn(z.shape, generator=generator, dtype=torch.float64), _data(simulator, one, seed, 10)
    for wide in _WIDE:
        other = bijection.inverse(z + wide * step).to(one)
        own = _apart(simulator, one, other, x)
        if float(own.nan_to_num(math.inf).abs().median()) <= _APART:
            return own, _apart(simulator, other, one, _data(simulator, other, seed, 11)), step.sign()
    return None


def _data(simulator: Simulator, theta: Tensor, seed: int, stream: int) -> X:
    found = simulator(theta.clone(), generator=generator_for(seed, len(theta), stream))
    return found.x if isinstance(found, Outcome) else found


def _apart(simulator: Simulator, theta: Tensor, other: Tensor, x: X) -> Tensor:
    likelihood: Any = simulator.log_likelihood
    return likelihood(theta, x).double() - likelihood(other, x).double()


def _said(own: Tensor, other: Tensor, order: Tensor, what: str, drawn: str) -> str:
    """The tests of both identities, in words.

    Args:
        own: (n,): of the first of each pair, by how many nats its data are likelier by it than by the second.
        other: (n,): of the second.
        order: (n, k): 1 where the second is above the first along something, -1 where it is below.
        what: Whose density.
        drawn: Of what.
    """
    there = ~(own.isnan() | other.isnan())
    if int(there.sum()) < _LEAST:
        return ""
    s, t, sure = own[there].sigmoid(), other[there].sigmoid(), surplus(own[there], other[there])
    if is_seen(sure):
        kind = "too sure" if float(sure.mean()) < 0 else "not sure enough"
        return (
            f"{what} is not the density of what {drawn}: it is {kind} of which parameters or states data come from (a "
            "noise of another size or law?). Answers that are corrected by it would be wrong without a word"
        )
    for k in range(order.shape[1]):
        if is_seen((s - t) * order[there, k]):
            return (
                f"{what} is not the density of what {drawn}: it prefers one side, as where a term that depends on the "
                "parameters is missing (the normalisation?). Answers that are corrected by it would be wrong without "
                "a word"
            )
    return ""


def surplus(own: Tensor, other: Tensor) -> Tensor:
    """(1 - s)(2 s - 1) of pairs, (n,), whose mean is 0 where own and other are the log-ratios of right densities."""
    s, t = own.sigmoid(), other.sigmoid()
    return 0.5 * ((1 - s) * (2 * s - 1) + (1 - t) * (2 * t - 1))


def is_seen(value: Tensor) -> bool:
    """Whether the mean of some values, (n,), is no chance: a mean of 0 is blamed with probability 6e-7."""
    mean, error = float(value.mean()), float(value.std()) / math.sqrt(len(value))
    return abs(mean) > max(_T * error, _FAR)
