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

A normalised density of simulated data that can be sampled: a likelihood is compared with it
(`campaigns.densities`).

The numbers x_1, ..., x_d of a simulation are modelled one after the other, given g (parameters, controls, times):

    x_i = a_i + b_i . g + sum_{j<i} c_ij e_j + e_i,     e_i ~ k_i,

by least squares on n simulations. A c_ij whose correlation is below 3 / sqrt(n) is left out. k_i is a kernel density of
the residuals with logistic kernels, cut off where x_i would leave the range of its simulated values, so that no support
is left. A number that is always an integer has the probability of [x - 1/2, x + 1/2] instead of a density.

Reference: Density Estimation for Statistics and Data Analysis (Silverman, 1986), section 3.4,
https://doi.org/10.1201/9781315140919
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
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


_CORRELATED = 3.0  # over sqrt(n): smaller correlations may be chance
_MOST_EQUAL = 0.02  # share of equal values of a number that is no integer, from which on it has no density
_DETERMINED = 1e-5  # sd of what the others and squares leave of a number, over its own: data have no density
_SEPARATE = 0.05  # share of draws in which two numbers are ordered as in no simulation: their order is a support's
_TINY = 1e-300


class FittedDensity:
    """q(x | g), fitted to simulations.

    Args:
        x: Simulated numbers, (n, d), float64; each must vary.
        given: What they are conditioned on, (n, g), float64.

    Raises:
        ValueError: If the numbers have no joint density that it can fit: values that are no integers recur, or a number
            follows from the others, linearly or from their squares.
    """

    def __init__(self, x: Float[Tensor, "n d"], given: Float[Tensor, "n g"]) -> None:
        n, d = x.shape
        self.whole = (x == x.round()).all(0)
        for column in x[:, ~self.whole].unbind(1):
            if int(column.unique(return_counts=True)[1].max()) > max(2, _MOST_EQUAL * n):
                raise ValueError("values that are no integers recur")
        self.ordered = (x[:, :, None] <= x[:, None]).all(0)
        half = torch.where(self.whole, 0.5, 0.0)
        self.low, self.high = x.min(0).values - half, x.max(0).values + half
        self.centre, self.spread = given.mean(0), given.std(0).clamp_min(_TINY)
        self.slopes = torch.linalg.pinv(self._design(given)) @ x
        _check_determined(self._design(given), x)
        left = x - self._design(given) @ self.slopes
        self.residuals, self.links = torch.zeros_like(x), torch.zeros(d, d, dtype=torch.float64)
        for i in range(d):
            along, scale = self.residuals[:, :i].T @ left[:, i], self.residuals[:, :i].square().sum(0).clamp_min(_TINY)
            correlated = along.abs() > _CORRELATED / math.sqrt(n) * (scale * left[:, i].square().sum()).sqrt()
            self.links[i, :i] = torch.where(correlated, along / scale, 0.0)
            self.residuals[:, i] = left[:, i] - self.residuals[:, :i] @ self.links[i, :i]
        sd = self.residuals.std(0)
        quartiles = self.residuals.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64), dim=0)
        robust = torch.minimum(sd, (quartiles[1] - quartiles[0]) / 1.34)
        width = 0.9 * torch.where(robust > 0, robust, sd) * n**-0.2
        self.width = width * math.sqrt(3) / math.pi  # a logistic law of scale 1 has an sd of pi / sqrt(3)

    def log_prob(self, x: Float[Tensor, "m d"], given: Float[Tensor, "m g"]) -> Float[Tensor, " m"]:
        """log q(x | given); -inf outside the range of the simulations that it was fitted to."""
        middle, residuals, total = self._design(given) @ self.slopes, torch.zeros_like(x), torch.zeros(len(x)).double()
        for i, column in enumerate(x.unbind(1)):
            mean = middle[:, i] + residuals[:, :i] @ self.links[i, :i]
            residuals[:, i] = column - mean
            low, high = self._cdfs(i, self.low[i] - mean), self._cdfs(i, self.high[i] - mean)
            if self.whole[i]:
                here = self._cdfs(i, residuals[:, i] + 0.5) - self._cdfs(i, residuals[:, i] - 0.5)
            else:
                cdf = self._cdfs(i, residuals[:, i])
                here = cdf * (1 - cdf) / self.width[i]
            inside = (column >= self.low[i]) & (column <= self.high[i])
            inside &= (column == column.round()) | ~self.whole[i]
            found = here.sum(1).clamp_min(_TINY).log() - (high - low).sum(1).clamp_min(_TINY).log()
            total = total + torch.where(inside, found, -math.inf)
        return total

    def sample(self, given: Float[Tensor, "m g"], *, generator: torch.Generator) -> Float[Tensor, "m d"]:
        """A draw of x for each row of conditioning values.

        Raises:
            ValueError: If two numbers come in an order in which none of the simulations has them: these are sorted.
        """
        middle = self._design(given) @ self.slopes
        x, residuals = torch.zeros_like(middle), torch.zeros_like(middle)
        for i in range(middle.shape[1]):
            mean = middle[:, i] + residuals[:, :i] @ self.links[i, :i]
            low, high = self._cdfs(i, self.low[i] - mean), self._cdfs(i, self.high[i] - mean)
            kernel = torch.multinomial((high - low).clamp_min(_TINY), 1, generator=generator)
            low, high = low.gather(1, kernel)[:, 0], high.gather(1, kernel)[:, 0]
            u = low + (high - low) * torch.rand(len(mean), generator=generator, dtype=torch.float64)
            value = mean + self.residuals[kernel[:, 0], i] + self.width[i] * u.logit(1e-15)
            value = value.round() if self.whole[i] else value
            half = 0.5 if self.whole[i] else 0.0
            x[:, i] = value.clamp(float(self.low[i]) + half, float(self.high[i]) - half)
            residuals[:, i] = x[:, i] - mean
        otherwise = (x[:, :, None] > x[:, None]) & self.ordered
        if float(otherwise.double().mean(0).max()) > _SEPARATE:
            raise ValueError("the numbers are sorted")
        return x

    def _design(self, given: Tensor) -> Tensor:
        return torch.cat([torch.ones(len(given), 1, dtype=torch.float64), (given - self.centre) / self.spread], dim=1)

    def _cdfs(self, i: int, residual: Tensor) -> Tensor:
        """That of each kernel of a number at some residuals, (m, n)."""
        return ((residual[:, None] - self.residuals[:, i]) / self.width[i]).sigmoid()


def _check_determined(design: Tensor, x: Tensor) -> None:
    """Refuse numbers of which one follows from the others, as parts of a whole do, or a cosine from a sine.

    Raises:
        ValueError: If one does.
    """
    scaled = (x - x.mean(0)) / x.std(0)
    squares = scaled[:, [len(column.unique()) > 2 for column in x.unbind(1)]].square()
    left = torch.linalg.qr(torch.cat([design, scaled, squares], dim=1)).R.diagonal()[design.shape[1] :]
    if bool((left.abs() < _DETERMINED * math.sqrt(len(x))).any()):
        raise ValueError("a number follows from the others")
