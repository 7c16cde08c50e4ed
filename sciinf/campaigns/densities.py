r"""Is a simulator's `log_likelihood` the density of its simulated data? A check that needs no known density.

For parameters a and b, data x_a of a and x_b of b, and l the simulator's log-likelihood, let

    s_a = sigmoid(l(a, x_a) - l(b, x_a)),    s_b = sigmoid(l(b, x_b) - l(a, x_b)),

which are, if l is right, the probabilities that x_a comes from a rather than b, and that x_b comes from b rather than
a. Then, whatever the densities p and their supports,

    E[(1 - s)(2 s - 1)] = 0 over both,    E[s_a] = E[s_b],

since both sides of the second equation are int p_a p_b / (p_a + p_b), and the terms of a and b in the first equation,
+- int p_a p_b (p_a - p_b) / (p_a + p_b)^2, cancel. The first expectation is negative if l is too sure (noise
too small), and positive if l is not sure enough. The second equation fails if a term that depends on the parameters is
missing. A constant factor changes neither equation. Such a factor changes only the evidence. The two parameters of a
pair are near each other, so that the data of a pair overlap.

A likelihood that is itself estimated is not checked. For a simulator with hidden states, the density of the data given
the state is checked instead. The check uses pairs of states that were reached at the same time and have similar data.

Reference: On proper scoring rules and their decompositions: Gneiting, Raftery (2007), section 2,
https://doi.org/10.1198/016214506000001437

**Fitted density.** `FittedDensity` is a normalised density of simulated data that can be sampled.
`campaigns.normalisation` compares a likelihood with it.

The numbers x_1, ..., x_d of a simulation are modelled one after the other, given g (parameters, controls, times):

    x_i = a_i + b_i . g + sum_{j<i} c_ij e_j + e_i,     e_i ~ k_i,

by least squares on n simulations. A c_ij whose correlation is below 3 / sqrt(n) is left out. k_i is a kernel density of
the residuals with logistic kernels. It is cut off at the range of the simulated values of x_i, so that no sample leaves
the support. A number that is always an integer has the probability of [x - 1/2, x + 1/2] instead of a density.

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

_WIDE = (2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # Sizes of the step between the parameters of a pair, in z.
_APART = 1.5  # Largest median of the log-likelihood ratio of pairs, in nats.
# A mean counts as different from 0 beyond both _T standard errors and _FAR: by chance with probability 6e-7 per test.
_T, _FAR = 5.0, 0.02
_LEAST, _STATES = 30, 128  # Fewest pairs for a test, and rows whose states are tested.


def density_finding(simulator: Simulator, rows: int, seed: int) -> str:
    """Describe the fault of a simulator's log-likelihood, in a sentence; "" if there is no fault or nothing to check.

    Args:
        simulator: The simulator with the log-likelihood.
        rows: Number of pairs to simulate.
        seed: Seed of all random numbers.
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
    """Check a log-likelihood near an answer, on pairs of posterior draws and the data simulated from each draw.

    Args:
        simulator: The simulator with the log-likelihood.
        theta: Posterior draws, (n, D), without weights.
        x: Data simulated from each draw, name -> (n, *event).
        seed: Seed of the random numbers, used if hidden states are simulated.

    Returns:
        The fault of the log-likelihood, in a sentence; "" if there is no fault or nothing to check.
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
    """Log-likelihood ratios of simulated pairs, for the first and the second of each pair, and the signs of the steps.

    The sign says for each parameter whether the second of a pair is above the first. None if no step size fits.
    """
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
    """Describe the results of the tests of both identities, in words; "" if no identity fails.

    Args:
        own: l(a, x_a) - l(b, x_a), in nats, (n,): how much likelier the first of each pair makes its own data.
        other: l(b, x_b) - l(a, x_b), in nats, (n,): the same for the second of each pair.
        order: Sign, (n, k): 1 if the second of a pair is above the first along coordinate k, and -1 if it is below.
        what: Name of the checked density, in words.
        drawn: Source of the data, in words.
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
    """(1 - s)(2 s - 1) of pairs, (n,), with mean 0 if own and other are log-ratios of the right densities."""
    s, t = own.sigmoid(), other.sigmoid()
    return 0.5 * ((1 - s) * (2 * s - 1) + (1 - t) * (2 * t - 1))


def is_seen(value: Tensor) -> bool:
    """Whether the mean of some values, (n,), differs significantly from 0.

    A true mean of 0 is rejected with probability 6e-7.
    """
    mean, error = float(value.mean()), float(value.std()) / math.sqrt(len(value))
    return abs(mean) > max(_T * error, _FAR)


_CORRELATED = 3.0  # Divided by sqrt(n): smaller correlations may be chance.
# Largest share of equal values of a number that is no integer. Above this share the number has no density.
_MOST_EQUAL = 0.02
# A number has no density if the sd of its residual, given other numbers and squares, is a smaller share of its sd.
_DETERMINED = 1e-5
# If a larger share of draws has two numbers in an order that no simulation has, the support forbids this order.
_SEPARATE = 0.05
_TINY = 1e-300


class FittedDensity:
    """A density q(x | g) of simulated numbers x given conditioning values g, fitted to simulations.

    Args:
        x: Simulated numbers, (n, d), float64; each number must vary.
        given: Conditioning values of each simulation, (n, g), float64.

    Raises:
        ValueError: If q cannot fit a joint density: values that are no integers recur, or a number follows from the
            other numbers, linearly or from their squares.
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
        self.width = width * math.sqrt(3) / math.pi  # A logistic distribution of scale 1 has an sd of pi / sqrt(3).

    def log_prob(self, x: Float[Tensor, "m d"], given: Float[Tensor, "m g"]) -> Float[Tensor, " m"]:
        """log q(x | given); -inf outside the range of the simulations to which q was fitted."""
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
        """Sample x once for each row of conditioning values.

        Raises:
            ValueError: If samples have two numbers in an order that no simulation has, because the simulated numbers
                are sorted.
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
        """Distribution function of each kernel of number i at some residuals, (m, n)."""
        return ((residual[:, None] - self.residuals[:, i]) / self.width[i]).sigmoid()


def _check_determined(design: Tensor, x: Tensor) -> None:
    """Refuse numbers if one follows from the others, as the parts of a whole do, or a cosine from a sine.

    Raises:
        ValueError: If a number follows from the others.
    """
    scaled = (x - x.mean(0)) / x.std(0)
    squares = scaled[:, [len(column.unique()) > 2 for column in x.unbind(1)]].square()
    left = torch.linalg.qr(torch.cat([design, scaled, squares], dim=1)).R.diagonal()[design.shape[1] :]
    if bool((left.abs() < _DETERMINED * math.sqrt(len(x))).any()):
        raise ValueError("a number follows from the others")
