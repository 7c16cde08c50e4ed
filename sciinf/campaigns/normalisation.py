r"""Is a log-likelihood the normalised density of all the data? The evidence depends on it, the posterior does not.

**Normalisation.** Let q(x | theta) be a known density near that of the data (`campaigns.densities.FittedDensity`),
fitted to half of some simulations. Let x be the other half, y ~ q(. | theta), and r = l - log q. If l is the log
density of x,

    E[sigmoid(r(x))] = E[sigmoid(-r(y))],    E[(1 - s)(2 s - 1)] = 0,   s = sigmoid(r(x)), sigmoid(-r(y)),

as in `campaigns.densities`, whatever q is. The shift of r that makes the first equation true is the logarithm of the
integral of exp(l) over the data (Bennett's acceptance ratio). The error of the shift is small if q overlaps with the
data. With this shift, the second equation distinguishes two faults: a missing constant factor, and a wrong or missing
term of the data. A correct l is rejected with probability 1e-6.

**Unused numbers.** A number of the data counts as unused if no other value in its place ever changes l. Two kinds of
values are tried: that of another simulation, and a value far from all simulations.

References:
    | Efficient estimation of free energy differences from Monte Carlo data (Bennett, 1976), section 2,
      https://doi.org/10.1016/0021-9991(76)90078-4
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.campaigns.block import generator_for, simulate_from
from sciinf.campaigns.densities import FittedDensity, is_seen, surplus
from sciinf.core import Simulator, X
from sciinf.core.findings import CONFIRMED, Cause, Finding, Level
from sciinf.core.summary import expand_mask
from sciinf.networks.summaries.timed import set_names

NAME = "evidence"
_ROWS, _LEAST = 400, 200  # Simulations wanted, and the fewest; the density is fitted to half of them.
_MOST = 64  # Most numbers of the data: with more, a fitted density overlaps too little with them.
_SHARE = 4  # Fewest rows of the fit for each number, and for each conditioning value.
_PRECISE = 0.1  # The logarithm of the integral counts as known if its standard error is below this.
_NEAR = 3  # A confirmed logarithm is within this many standard errors of 0.
# Rows in which numbers are exchanged, rows of the first test, and fewest rows in which the numbers must differ.
_PRIOR_ROWS, _FIRST, _DIFFER = 32, 2, 8
_PARTS, _SIZE = 128, 2**24  # Most groups of numbers that are tried, and most numbers in all their copies.
_BEYOND = 10  # A number is placed this many ranges of its simulated values above the largest one.
_TOGETHER = 1_024  # Rows for which a log-likelihood is evaluated at once.
_SAME = 1e-6  # A smaller relative change of a log-likelihood is rounding.
NORMALISED_BY = _ROWS + _PRIOR_ROWS
"""Number of simulations that `normalisation_findings` makes."""
# Errors that a user's function may raise for unusual data.
_FAILURES = (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError)


class Constant(StrEnum):
    """Result of the normalisation check of a likelihood: confirmed, unconfirmed, constant missing, or term wrong."""

    CONFIRMED = CONFIRMED
    UNCONFIRMED = "unconfirmed"
    CONSTANT = "constant"
    TERM = "term"


@dataclass(frozen=True)
class Normalisation:
    """Whether exp(l) integrates to 1 over the data.

    Args:
        kind: Result of the check.
        log_integral: Logarithm of the integral; NaN if it is not known.
        error: Standard error of the logarithm.
    """

    kind: Constant
    log_integral: float = math.nan
    error: float = math.inf

    @property
    def finding(self) -> Finding:
        """The result as a finding in words.

        A wrong evidence has the level "caution"; an evidence that is not confirmed does not.
        """
        figures = {} if math.isnan(self.log_integral) else {"log_integral": self.log_integral, "error": self.error}
        integral = f"exp({self.log_integral:.2f} +- {self.error:.2f})"
        words = {
            Constant.CONFIRMED: (
                f"simulations confirm its constant: the likelihood integrates to {integral} over its data"
            ),
            Constant.UNCONFIRMED: (
                "its constant was not confirmed by simulations; compare evidences only where you know that the "
                "likelihood is a normalised density of the data"
            ),
            Constant.CONSTANT: (
                f"log_likelihood lacks a constant: it integrates to {integral} over the data, and log evidences are "
                f"off by {self.log_integral:.2f}; parameters depend on it only where it differs between models"
            ),
            Constant.TERM: (
                "log_likelihood is not the normalised density of the data, so its evidence is wrong; a term of the "
                "data is missing or another one, such as log k! of counts or the distribution of the noise"
            ),
        }[self.kind]
        wrong = self.kind in (Constant.CONSTANT, Constant.TERM)
        level, cause = (Level.CAUTION, Cause.LIKELIHOOD) if wrong else (Level.GOOD, None)
        return Finding(NAME, level, words, self.kind, figures, cause)


def normalisation_findings(simulator: Simulator, seed: int) -> list[Finding]:
    """Findings against a log-likelihood as the density of all data, at one draw of the prior; empty if there are none.

    Args:
        simulator: The simulator with the log-likelihood.
        seed: Seed of all random numbers.
    """
    if simulator.log_likelihood is None or simulator.random_likelihood:
        return []
    found, without, generator = [], unused(simulator, seed), generator_for(seed, _ROWS, 12)
    if left_out := unused_words(unused_numbers(simulator, without)):
        words = (
            f"log_likelihood does not use {left_out}: other values there do not change it. Where they tell of the "
            "parameters, an answer that it corrects is wider than the data allow. Its evidence is of the other numbers"
        )
        found.append(Finding("unused data", Level.CAUTION, words, "unused", cause=Cause.LIKELIHOOD))
    theta = simulator.prior.sample(1, generator=generator).expand(_ROWS, -1)
    x, good = simulate_from(simulator, theta, generator=generator)
    about = normalisation(simulator, theta[good], x, without, seed).finding
    return [*found, about] if about.level != Level.GOOD else found


def normalisation(
    simulator: Simulator, theta: Float[Tensor, "n theta"], x: X, without: Bool[Tensor, " numbers"], seed: int
) -> Normalisation:
    """Whether a log-likelihood is normalised over the data that it uses.

    Args:
        simulator: The simulator with the log-likelihood.
        theta: Parameters, (n, D), near each other.
        x: Data simulated from each row of theta, name -> (n, *event).
        without: Mask of the numbers that the log-likelihood does not use (`unused`).
        seed: Seed of the samples from the fitted density.
    """
    half, unknown = len(theta) // 2, Normalisation(Constant.UNCONFIRMED)
    if simulator.log_likelihood is None or simulator.random_likelihood or len(theta) < _LEAST:
        return unknown
    asked, numbers = _asked(simulator, x) & ~without, _flat(x)
    conditions = numbers[:, _conditions(simulator, x)]
    masks = [value for name, value in x.items() if name.endswith("_mask")]
    given = torch.cat([theta.double().nan_to_num(), conditions[:, (conditions != conditions[:1]).any(0)]], dim=1)
    most, count = half // _SHARE, int(asked.sum())
    if (
        any(bool((mask != mask[:1]).any()) for mask in masks)
        or not 0 < count <= min(_MOST, most)
        or len(given.T) > most
    ):
        return unknown
    generator, rows = generator_for(seed, half, 13), slice(half, None)
    mine, drawn = {name: value[rows] for name, value in x.items()}, numbers[rows].clone()
    sides = []
    try:
        q = FittedDensity(numbers[:half][:, asked], given[:half])
        drawn[:, asked] = q.sample(given[rows], generator=generator)
        for data in (mine, _filled(drawn, mine)):
            found = simulator.log_likelihood(theta[rows], data).double().nan_to_num(nan=-math.inf, posinf=math.inf)
            sides.append(found - q.log_prob(_flat(data)[:, asked], given[rows]))
    except _FAILURES:
        return unknown
    return _judged(sides[0], -sides[1])


def _judged(own: Tensor, other: Tensor) -> Normalisation:
    """Judge the normalisation by log-ratios, (n,): l - log q of simulated data, and log q - l of samples from q."""
    known = ~(own.isnan() | other.isnan())
    own, other = own[known], other[known]
    if len(own) < _LEAST // 2:
        return Normalisation(Constant.UNCONFIRMED)
    low, high = -1e6, 1e6
    while high - low > 1e-6 * max(1.0, abs(low)):
        middle = (low + high) / 2
        above = float((own - middle).sigmoid().mean()) > float((other + middle).sigmoid().mean())
        low, high = (middle, high) if above else (low, middle)
    s, t = (own - low).sigmoid(), (other + low).sigmoid()
    slope = float((s * (1 - s)).mean() + (t * (1 - t)).mean())
    error = math.sqrt(float(s.var() + t.var()) / len(s)) / max(slope, 1e-300)
    if not is_seen(own.sigmoid() - other.sigmoid()) and not is_seen(surplus(own, other)):
        sure = error < _PRECISE and abs(low) < _NEAR * error
        return Normalisation(Constant.CONFIRMED, low, error) if sure else Normalisation(Constant.UNCONFIRMED)
    constant = error < _PRECISE and not is_seen(surplus(own - low, other + low))
    return Normalisation(Constant.CONSTANT, low, error) if constant else Normalisation(Constant.TERM)


def unused_numbers(simulator: Simulator, without: Bool[Tensor, " numbers"]) -> dict[str, tuple[int, int]]:
    """Observables that a log-likelihood does not use fully: name -> (count of unused numbers, count of all numbers).

    Args:
        simulator: The simulator with the log-likelihood.
        without: Mask of the numbers that the log-likelihood does not use (`unused`).
    """
    found, start = {}, 0
    for name, spec in simulator.observables.items():
        size = math.prod(spec.shape)
        if count := int(without[start : start + size].sum()):
            found[name] = (count, size)
        start += size
    return found


def unused_words(numbers: Mapping[str, tuple[int, int]]) -> str:
    """The result of `unused_numbers` in words: "7 of the 10 numbers of 'v'"."""
    return " and ".join(f"{count} of the {size} numbers of {name!r}" for name, (count, size) in numbers.items())


def unused(simulator: Simulator, seed: int) -> Bool[Tensor, " numbers"]:
    """Mask of the numbers of the data that never change a log-likelihood.

    The mask covers all observables in their order, flattened. Large data are tried in groups of neighbours. A group is
    unused only if all its numbers are unused.

    Args:
        simulator: The simulator with the log-likelihood.
        seed: Seed of the simulations, whose parameters are draws of the prior.
    """
    likelihood: Any = simulator.log_likelihood
    generator = generator_for(seed, _PRIOR_ROWS, 14)
    theta = simulator.prior.sample(_PRIOR_ROWS, generator=generator)
    x, good = simulate_from(simulator, theta, generator=generator)
    theta, numbers, asked = theta[good], _flat(x), _asked(simulator, x)
    found = torch.zeros(numbers.shape[1], dtype=torch.bool)
    if likelihood is None or simulator.random_likelihood or len(theta) < _DIFFER or not bool(asked.any()):
        return found
    parts = max(1, min(_PARTS, _SIZE // (_FIRST * numbers.shape[1])))
    groups = list(asked.nonzero()[:, 0].tensor_split(min(parts, int(asked.sum()))))
    others, high, low = numbers.roll(1, 0), numbers.max(0).values, numbers.min(0).values
    beyond = (high + _BEYOND * (high - low)).ceil().expand_as(numbers)  # A uniform density changes only there.
    for rows, values in ((_FIRST, others), (len(theta), others), (_FIRST, beyond)):
        changed = _changed(likelihood, theta[:rows], x, numbers, values, groups)
        groups = [group for group, used in zip(groups, changed, strict=True) if not used]
    for group in groups:
        differ = (numbers[:, group] != others[:, group]).any(1)
        found[group] = int(differ.sum()) >= _DIFFER
    return found


def _changed(likelihood: Any, theta: Tensor, x: X, numbers: Tensor, values: Tensor, groups: list[Tensor]) -> list[bool]:
    """Whether other values in place of each group of numbers change a log-likelihood, or make it fail."""
    rows, found = len(theta), []
    mine = {name: value[:rows] for name, value in x.items()}
    for start in range(0, len(groups), _TOGETHER // rows):
        some = groups[start : start + _TOGETHER // rows]
        other = numbers[:rows].repeat(len(some), 1)
        for k, group in enumerate(some):
            other[k * rows : (k + 1) * rows, group] = values[:rows, group]
        wide = {name: value.repeat(len(some), *(1,) * (value.ndim - 1)) for name, value in mine.items()}
        try:
            before = likelihood(theta, mine).double().repeat(len(some))
            after = likelihood(theta.repeat(len(some), 1), _filled(other, wide)).double()
        except _FAILURES:  # Unusual data make the function fail, so it uses these numbers.
            found += [True] * len(some)
            continue
        same = (after - before).abs() <= _SAME * before.abs().clamp_min(1.0)
        found += (~same & before.isfinite()).view(len(some), rows).any(1).tolist()
    return found


def _flat(x: X) -> Float[Tensor, "n numbers"]:
    return torch.cat([value.double().reshape(len(value), -1).nan_to_num() for value in x.values()], dim=1)


def _filled(numbers: Tensor, like: X) -> X:
    """Data made from a matrix of numbers, with the shapes and dtypes of other data."""
    sizes = [value[0].numel() for value in like.values()]
    parts = numbers.split(sizes, dim=1)
    return {n: part.reshape(v.shape).to(v.dtype) for (n, v), part in zip(like.items(), parts, strict=True)}


def _conditions(simulator: Simulator, x: X) -> Bool[Tensor, " numbers"]:
    """Mask of the numbers that were set rather than observed: controls, and the times of observation."""
    names = set_names(simulator.observables)
    return torch.cat([torch.full((x[name][0].numel(),), name in names) for name in simulator.observables])


def _asked(simulator: Simulator, x: X) -> Bool[Tensor, " numbers"]:
    """Mask of the numbers that are varying data: no controls, times, masks, or numbers that a mask calls missing."""
    found = []
    for name, value in x.items():
        there = torch.ones(value.shape, dtype=torch.bool)
        if name.endswith("_mask"):
            there[:] = False
        elif (mask := x.get(f"{name}_mask")) is not None:
            there = expand_mask(mask, value.shape)
        varies = value != value[:1]
        found.append(there.reshape(len(value), -1).all(0) & varies.reshape(len(value), -1).any(0))
    return torch.cat(found) & ~_conditions(simulator, x)
