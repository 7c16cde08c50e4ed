r"""Does the observation lie within what the prior predicts? Asked before anything is learned, of a few simulations.

With x_0 the observation and x_1..n data simulated from draws of the prior, all n + 1 are alike if the model and its
prior could have made the observation. So any statistic T that treats them alike ranks x_0 anywhere with the same
chance, and

    p = (1 + #{i >= 1: T_i >= T_0}) / (n + 1)

is small by chance in p of all cases. There are three of each observable, and the smallest p counts, times three: how
far a number is from its median at most, in robust sds, which one number far out shows; the mean square of the normal
scores of ranks, which many numbers at the edge show; and how far the logarithm of the root mean square is from its
median, which a wrong unit shows, also one in which all numbers are too small (not of values on a log scale, nor of one
or two). Medians, sds and ranks are those of all
n + 1.

An observation may lie within and be unlike the simulations all the same: `diagnostics.ood` looks at it with a network.

References:
    | Visualization in Bayesian workflow (Gabry, Simpson, Vehtari, Betancourt & Gelman, 2019),
      https://doi.org/10.1111/rssa.12378: prior predictive checks
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Finding, Level, Observable, X

_ALARM, _EDGE = 0.01, 0.05
LEAST = 300  # simulations, with which three times the smallest p is below an alarm's
_NORMAL = 1.349  # quartiles of a normal law are so many sds apart
_MOST = 2_000  # numbers that are looked at
_SIZED = 3  # numbers, of which one that happens to be near zero does not make the size


def check_prior_predictive(observables: Mapping[str, Observable], x: X, rows: X) -> tuple[Finding, ...]:
    """A finding for each observable; none for what is only true or false, masks among it.

    Args:
        observables: What the simulator produces.
        x: The observation, name -> (*event).
        rows: Data simulated from draws of the prior, name -> (n, *event).
    """
    found = []
    for name, spec in observables.items():
        if spec.dtype != "bool":
            both = torch.cat([x[name][None], rows[name]]).double().reshape(1 + len(rows[name]), -1)
            mask = f"{name}_mask"
            if mask in rows:
                here = (
                    torch.cat([x[mask][None], rows[mask]]).bool().expand(len(both), *spec.shape).reshape(len(both), -1)
                )
                both = both.masked_fill(~here, torch.nan)
            seen = ~both[0].isnan()
            if bool(seen.any()):
                found.append(_judged(name, spec, both[:, seen], seen.nonzero()[:, 0]))
    return tuple(found)


def _judged(name: str, spec: Observable, both: Float[Tensor, "rows number"], places: Tensor) -> Finding:
    """The finding on one observable: its numbers that were observed, the observation first; and which these are."""
    count, size = len(both) - 1, both.shape[1]
    low, high = both[1:].nan_to_num(nan=torch.inf).amin(0), both[1:].nan_to_num(nan=-torch.inf).amax(0)
    beyond = (both[0] < low) | (both[0] > high)
    outside = int(beyond.sum())
    inside = f"{size - outside:,} of {size:,} numbers lie between the smallest and the largest of {count:,} simulations"
    if size == 1:
        inside = f"it lies {'beyond all' if outside else 'among'} {count:,} simulations"
    if count < LEAST:
        words = f"too few simulations ({count:,}) to tell whether the observation lies within what the prior predicts"
        return Finding(name, Level.UNKNOWN, f"{words}; {inside}")
    log = spec.scale == "log"
    p = _p_value(both.clamp_min(0).log().clamp_min(-80) if log else both, sized=not log and size >= _SIZED)
    if p >= _EDGE:
        return Finding(name, Level.GOOD, f"the observation lies within what the prior predicts: {inside}")
    median = both[1:].nanmedian(0).values
    off = (both[0] - median).abs() / (high - low).clamp_min(1e-300)
    far = int(torch.where(beyond, off, off - 1e9).argmax())
    where = place_of(spec, int(places[far]))
    unit = f" {spec.unit}" if spec.unit else ""
    told = f"{float(both[0, far]):.4g}{unit}, simulated {float(low[far]):.4g} to {float(high[far]):.4g}{unit}"
    level, lies = (Level.ALARM, "OUTSIDE") if p < _ALARM else (Level.CAUTION, "at the edge of")
    words = f"the observation lies {lies} what the prior predicts (p = {p:.2g}): {inside}; farthest{where}: {told}"
    return Finding(name, level, f"{words}. Check the data and their units, and whether the prior is wide enough")


def _p_value(both: Float[Tensor, "rows number"], *, sized: bool) -> float:
    """The smallest of the p-values, times how many they are; `sized` with that of the root mean square."""
    both = both[:, :: max(1, both.shape[1] // _MOST)]
    told = [_distance(both).nan_to_num(nan=0.0).amax(1)]
    if sized:
        told.append(_distance(both.square().nanmean(1, keepdim=True).clamp_min(1e-200).log())[:, 0])
    ordered = both.sort(0).values.T.contiguous()  # NaN comes last
    values, present = both.T.contiguous(), (~both.isnan()).sum(0)[:, None]
    rank = (torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)) / 2
    score = torch.special.ndtri((rank / present).clamp(0.5 / len(both), 1 - 0.5 / len(both))).T
    told.append(torch.where(both.isnan(), torch.nan, score.square()).nanmean(1).nan_to_num(nan=0.0))
    return min(1.0, len(told) * min(float((t >= t[0]).double().mean()) for t in told))


def _distance(values: Float[Tensor, "rows number"]) -> Float[Tensor, "rows number"]:
    """From the median of each column, in its robust sds."""
    low, median, high = values.nanquantile(values.new_tensor([0.25, 0.5, 0.75]), dim=0)
    plain = (values - values.nanmean(0)).square().nanmean(0).sqrt()
    spread = torch.where(high > low, (high - low) / _NORMAL, plain)
    return ((values - median) / spread.clamp_min(1e-300)).abs()


def place_of(spec: Observable, place: int) -> str:
    """Which number of an observable it is: " at time 3 h", or its index; "" where there is one alone."""
    if not spec.shape:
        return ""
    index = [int(i) for i in torch.unravel_index(torch.tensor(place), spec.shape)]
    if not spec.dims:
        return f" at {index}"
    return " at " + ", ".join(f"{axis} {spec.at(axis, i) or i}" for axis, i in zip(spec.dims, index, strict=True))
