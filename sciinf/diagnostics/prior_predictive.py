r"""Does the observation lie within the range that the prior predicts?

This is a check before training, with a few simulations.


With x_0 the observation and x_1..n data simulated from draws of the prior, all n + 1 are exchangeable if the model
and its prior could have produced the observation. So any statistic T that treats them alike gives x_0 each rank with
the same probability, and

    p = (1 + #{i >= 1: T_i >= T_0}) / (n + 1)

is at most p in a share p of all cases. There are three statistics of each observable, and the smallest p counts,
times three:

- The largest distance of a number from its median, in robust sds. It detects one number far out.
- The mean square of the normal scores of ranks. It detects many numbers at the edge.
- The distance of the logarithm of the root mean square from its median. It detects a wrong unit, even if all numbers
  are too small. It is not used for values on a log scale, nor for one or two values.

Medians, sds and ranks are those of all n + 1.

An observation may lie within this range and still be unlike the simulations: `diagnostics.ood` checks this with a
network.

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
LEAST = 300  # Least number of simulations; three times their smallest p is below an alarm's.
_NORMAL = 1.349  # The quartiles of a normal distribution are this many sds apart.
_MOST = 2_000  # Largest count of numbers that are checked.
_SIZED = 3  # With fewer numbers than this, one number that happens to be near zero would decide the size.


def check_prior_predictive(observables: Mapping[str, Observable], x: X, rows: X) -> tuple[Finding, ...]:
    """Return a finding for each observable; none for boolean observables, which include masks.

    Args:
        observables: Observables that the simulator produces.
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
    """Finding on one observable.

    Args:
        name: Name of the observable.
        spec: The observable.
        both: Its numbers that were observed, the observation as the first row.
        places: Indices of these numbers in the observable.
    """
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
    """Smallest of the p-values, times their number.

    With `sized`, the p-value of the root mean square is one of them.
    """
    both = both[:, :: max(1, both.shape[1] // _MOST)]
    told = [_distance(both).nan_to_num(nan=0.0).amax(1)]
    if sized:
        told.append(_distance(both.square().nanmean(1, keepdim=True).clamp_min(1e-200).log())[:, 0])
    ordered = both.sort(0).values.T.contiguous()  # NaN is sorted last.
    values, present = both.T.contiguous(), (~both.isnan()).sum(0)[:, None]
    rank = (torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)) / 2
    score = torch.special.ndtri((rank / present).clamp(0.5 / len(both), 1 - 0.5 / len(both))).T
    told.append(torch.where(both.isnan(), torch.nan, score.square()).nanmean(1).nan_to_num(nan=0.0))
    return min(1.0, len(told) * min(float((t >= t[0]).double().mean()) for t in told))


def _distance(values: Float[Tensor, "rows number"]) -> Float[Tensor, "rows number"]:
    """Distance from the median of each column, in its robust sds."""
    low, median, high = values.nanquantile(values.new_tensor([0.25, 0.5, 0.75]), dim=0)
    plain = (values - values.nanmean(0)).square().nanmean(0).sqrt()
    spread = torch.where(high > low, (high - low) / _NORMAL, plain)
    return ((values - median) / spread.clamp_min(1e-300)).abs()


def place_of(spec: Observable, place: int) -> str:
    """Words on the place of a number in its observable: " at time 3 h", or its index; "" if it is the only number."""
    if not spec.shape:
        return ""
    index = [int(i) for i in torch.unravel_index(torch.tensor(place), spec.shape)]
    if not spec.dims:
        return f" at {index}"
    return " at " + ", ".join(f"{axis} {spec.at(axis, i) or i}" for axis, i in zip(spec.dims, index, strict=True))
