"""Does the observation have numbers that no simulation has: beyond a limit of the simulated data, or between counts?

An instrument reads nothing below its detection limit, or above saturation. A simulator that does the same gives the
limit itself, again and again. Then a number beyond the limit is impossible, however near it is. For example, some
write half of the limit for "not detected". And a limit that a file has rounded to the inside counts as measured.
Distances show neither of these faults.

The smallest value of a number in n simulations, or the largest, counts as a limit under two conditions: four
simulations have it, and at least 20 have other values, of which nearly all differ. So whole numbers, rounded
numbers, and numbers that hardly vary have no limit. Where there is no limit, the observation and the simulations are
alike, and a number is beyond all n with probability 1 / (n + 1). With L limits (limits of equal value count once), p
is at most L / (n + 1).

Where all simulated numbers of an observable are whole, as counts are, no number of its observation may be a
fraction. If the observation is like the simulations, it is the only one of n + 1 with a fraction with probability at
most 1 / (n + 1). Observed counts may have a common divisor above one only if simulated counts have such divisors,
too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sciinf.core import Case, Cause, Diagnostic, Finding, Level, Need, Observable, X
from sciinf.diagnostics.around import Around
from sciinf.diagnostics.prior_predictive import place_of
from sciinf.networks.summaries.timed import seen_only

NAME = "limits"
_ALARM = 0.01
# A value counts as a limit only if at least `_LEAST` simulations have other values,
# and if at least the share `_DIFFER` of the other values are distinct.
_LEAST, _DIFFER = 20, 0.9
_FEW = 3  # Number of simulations that may have an equal value by chance.
_SAME = 3e-7  # Relative precision of a limit: single precision.
_DIGITS = range(4, 8)  # Significant digits to which a limit may have been rounded.
_NAMED = 3
_COUNTS = 6  # Least number of counts whose common divisor is tested.
_FRACTION = 1e-3  # Distance from a whole number; less may come from a conversion of units.


@dataclass(frozen=True)
class _Limit:
    """A limit of one number, the place and unit of that number, and its observed value."""

    where: str
    value: float
    limit: float
    unit: str
    lowest: bool
    often: str

    @property
    def beyond(self) -> bool:
        away = self.value < self.limit if self.lowest else self.value > self.limit
        return away and not self._is(self.limit)

    @property
    def rounded(self) -> bool:
        shorter = (float(f"{self.limit:.{digits}g}") for digits in _DIGITS)
        return not self._is(self.limit) and any(map(self._is, shorter))

    def _is(self, other: float) -> bool:
        """Whether the observed value equals another value in single precision."""
        return abs(self.value - other) <= _SAME * abs(other)


def check_limits(observables: Mapping[str, Observable], x: X, rows: X) -> tuple[Finding, ...]:
    """Return a warning of fractions among counts, of numbers beyond a limit, or of rounded limits; empty if none.

    Args:
        observables: Observables to check; the others are left out.
        x: The observation, name -> (*event) or (1, *event).
        rows: Simulated data, name -> (n, *event).
    """
    if fractions := [words for name, spec in observables.items() for words in _fractions(name, spec, x, rows)]:
        p = min(1.0, len(fractions) / (1 + len(next(iter(rows.values())))))
        words = f"no simulation gives such data (p = {p:.2g}): {_some(fractions)}. Write what was counted, or let the "
        words += "simulator give what the data have"
        return (Finding(NAME, Level.ALARM if p < _ALARM else Level.CAUTION, words),)
    multiples = [one for name, spec in observables.items() if (one := _multiples(name, spec, x, rows)) is not None]
    if multiples:
        p, words = min(multiples)
        p = min(1.0, p * len(multiples))
        words += f" (p = {p:.2g}). Were counts added, or rounded? Write what was counted, or simulate the same"
        if p < _ALARM:
            return (Finding(NAME, Level.ALARM, words),)
    limits = [one for name, spec in observables.items() for one in _limits(name, spec, x, rows)]
    beyond = [one for one in limits if one.beyond and not one.rounded]
    inside = [one for one in limits if one.rounded and not one.beyond]
    if beyond:
        several = len({(one.limit, one.lowest) for one in limits})
        p = min(1.0, several / (1 + len(next(iter(rows.values())))))
        said = [
            f"{one.where} is {one.value:.4g}{one.unit}, and {one.often} have {one.limit:.4g}{one.unit} there, none "
            f"{'less' if one.lowest else 'more'}"
            for one in beyond
        ]
        words = f"no simulation gives such data (p = {p:.2g}): {_some(said)}. If it is a limit of the instrument, write"
        words += " the limit itself for what lies beyond it, or let the simulator give what the data have there"
        return (Finding(NAME, Level.ALARM if p < _ALARM else Level.CAUTION, words),)
    if inside:
        said = [f"{one.where} is {one.value:.7g}{one.unit}, the limit {one.limit:.7g}" for one in inside]
        words = f"limits seem to be rounded, and count as measured: {_some(said)}. Write the limit itself"
        return (Finding(NAME, Level.CAUTION, words),)
    return ()


def _limits(name: str, spec: Observable, x: X, rows: X) -> Iterator[_Limit]:
    """Limits of one observable, at the numbers that the observation has."""
    if spec.dtype == "bool" or name not in x or not len(rows.get(name, ())):
        return
    values, here, own, seen = _there(name, x, rows)
    unit, far = f" {spec.unit}" if spec.unit else "", torch.finfo(torch.float64).max
    for lowest in (True, False):
        filled = values.masked_fill(~here, far if lowest else -far)
        ends = filled.amin(0) if lowest else filled.amax(0)
        at = ((values == ends) & here).sum(0)
        for k in ((at > _FEW) & (here.sum(0) - at >= _LEAST) & seen).nonzero().flatten().tolist():
            present, limit = values[here[:, k], k], float(ends[k])
            others = present[present != limit]
            if len(others.unique()) >= _DIFFER * len(others):
                often = f"{int(at[k]):,} of {len(present):,} simulations"
                yield _Limit(f"{name}{place_of(spec, k)}", float(own[k]), limit, unit, lowest, often)


def _fractions(name: str, spec: Observable, x: X, rows: X) -> Iterator[str]:
    """Sentence on the first observed fraction, for an observable whose simulated numbers are all whole."""
    if spec.dtype == "bool" or name not in x or not len(rows.get(name, ())):
        return
    values, here, own, seen = _there(name, x, rows)
    simulated, off = values[here], (own - own.round()).abs() > _FRACTION
    if len(simulated) and bool((simulated == simulated.round()).all()) and bool((off & seen).any()):
        first = int((off & seen).nonzero()[0])
        unit = f" {spec.unit}" if spec.unit else ""
        where = f"{name}{place_of(spec, first)} is {float(own[first]):.6g}{unit}"
        yield f"{where}, and {len(values):,} simulations have whole numbers alone"


def _multiples(name: str, spec: Observable, x: X, rows: X) -> tuple[float, str] | None:
    """p-value and sentence for a common divisor of all observed counts; None where they have none."""
    if spec.dtype == "bool" or name not in x or not len(rows.get(name, ())):
        return None
    values, here, own, seen = _there(name, x, rows)
    simulated, counts = values[here], own[seen & (own != 0)]
    if len(counts) < _COUNTS or bool((counts != counts.round()).any()) or bool((simulated != simulated.round()).any()):
        return None
    divisor = math.gcd(*map(int, counts.tolist()))
    if divisor < 2:
        return None
    there = [row[kept & (row != 0)].tolist() for row, kept in zip(values, here, strict=True)]
    same = sum(len(counts) >= _COUNTS and math.gcd(*map(int, counts)) >= divisor for counts in there)
    p = (1 + same) / (1 + len(values))
    return p, f"all {len(counts):,} counts of {name} above 0 are multiples of {divisor}, unlike those of simulations"


def _there(name: str, x: X, rows: X) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Simulated numbers (n, k) and which of them are present, then the observed numbers (k,) and which are present."""
    values, own = rows[name].reshape(len(rows[name]), -1).double(), x[name].flatten().to(rows[name].dtype)
    here, seen = values.isfinite(), own.isfinite()
    if (mask := f"{name}_mask") in rows and mask in x:
        here = here & rows[mask].bool().expand_as(rows[name]).reshape(values.shape)
        seen = seen & x[mask].bool().expand_as(x[name]).flatten()
    return values, here, own, seen


def _some(found: list[str]) -> str:
    more = len(found) - _NAMED
    return "; ".join(found[:_NAMED]) + (f"; and {more:,} more" if more > 0 else "")


@final
class DataLimits(Diagnostic):
    """Is an observed number beyond a limit of the simulations, or a fraction among counts? Shown only if so."""

    name, cause, needs = NAME, Cause.DATA, frozenset({Need.AROUND})

    def __call__(self, case: Case) -> Sequence[Finding]:
        rows = case.around.data if isinstance(case.around, Around) else case.predicted
        return check_limits(seen_only(case.posterior.observables), case.x, rows)
