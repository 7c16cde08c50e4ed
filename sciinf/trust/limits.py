"""Is a number of the observation beyond a limit of the simulated data, where no parameters put it?

An instrument reads nothing below its detection limit, or above saturation, and a simulator that does as it does gives
the limit itself, again and again. Then a number beyond is impossible, however near it is: half of the limit, say, which
some write for "not detected". And a limit that a file has rounded counts as measured. Distances tell neither.

The smallest value of a number in the simulations, and the largest, is a limit where more of them have it than chance
gives (`estimators.elements.stands_out`). Whole numbers have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from sciinf.core import Check, Observable, X
from sciinf.estimators.elements import stands_out
from sciinf.trust.prior_predictive import place_of

NAME = "limits"
_DIGITS = range(4, 9)  # to which a limit may have been rounded
_CLOSE = 1e-3  # how far from it that leads at most, as a share of it
_NAMED = 3


@dataclass(frozen=True)
class _Near:
    """A number of the observation, with its place and unit, that is beyond a limit or within rounding of it."""

    where: str
    value: float
    limit: float
    unit: str
    lowest: bool
    often: str

    @property
    def rounded(self) -> bool:
        shorter = (float(f"{self.limit:.{digits}g}") for digits in _DIGITS)
        return any(abs(self.value - short) <= 1e-6 * abs(short) for short in shorter)

    @property
    def beyond(self) -> bool:
        return self.value < self.limit if self.lowest else self.value > self.limit


def check_limits(observables: Mapping[str, Observable], x: X, rows: X) -> tuple[Check, ...]:
    """An alarm for numbers of one observation beyond a limit, a caution for limits that were rounded; else nothing.

    Args:
        observables: What the simulator produces.
        x: The observation, name -> (*event) or (1, *event).
        rows: Simulated data, name -> (n, *event).
    """
    near = [one for name, spec in observables.items() for one in _near(name, spec, x, rows)]
    beyond = [
        f"{one.where} is {one.value:.4g}{one.unit}, and {one.often} have {one.limit:.4g}{one.unit} there, none "
        f"{'less' if one.lowest else 'more'}"
        for one in near
        if one.beyond and not one.rounded
    ]
    rounded = [f"{one.where} is {one.value:.7g}{one.unit}, the limit {one.limit:.7g}" for one in near if one.rounded]
    if beyond:
        words = f"no parameters give such data: {_some(beyond)}. Write the limit itself for what lies beyond it"
        return (Check(NAME, "alarm", f"{words}, or let the simulator give what the data have there"),)
    if rounded:
        words = f"limits seem to be rounded, and count as measured: {_some(rounded)}. Write the limit itself"
        return (Check(NAME, "caution", words),)
    return ()


def _near(name: str, spec: Observable, x: X, rows: X) -> Iterator[_Near]:
    """The numbers of one observable that are beyond a limit or close to it, but not at it."""
    values, own = rows[name].double().reshape(len(rows[name]), -1), x[name].double().flatten()
    if spec.dtype == "bool" or bool((values == values.round()).all()):
        return
    if (mask := f"{name}_mask") in rows:
        values = values.masked_fill(~rows[mask].bool().expand_as(rows[name]).reshape(values.shape), torch.nan)
        own = own.masked_fill(~x[mask].bool().expand_as(x[name]).flatten(), torch.nan)
    unit = f" {spec.unit}" if spec.unit else ""
    for lowest in (True, False):
        sign = 1.0 if lowest else -1.0
        limits = sign * (sign * values).nan_to_num(nan=torch.inf).amin(0)
        close = (own - limits).abs() <= _CLOSE * limits.abs()
        for k in (((sign * own < sign * limits) | close) & (own != limits)).nonzero().flatten().tolist():
            present, limit = values[:, k][values[:, k].isfinite()], float(limits[k])
            if len(present) and stands_out(present, limit):
                often = f"{int((present == limit).sum()):,} of {len(present):,} simulations"
                yield _Near(f"{name}{place_of(spec, k)}", float(own[k]), limit, unit, lowest, often)


def _some(found: list[str]) -> str:
    more = len(found) - _NAMED
    return "; ".join(found[:_NAMED]) + (f"; and {more:,} more" if more > 0 else "")
