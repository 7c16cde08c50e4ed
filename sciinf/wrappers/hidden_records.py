"""Records of a hidden state with times of their own: padded to the length of simulations; and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.core import Observable, X
from sciinf.core.observation import convert
from sciinf.core.simulator import event_of
from sciinf.dynamics.state_space import check_times
from sciinf.summaries.timed import TIMES


def padded(
    seen: Mapping[str, Observable],
    times: Any,
    values: Mapping[str, Any],
    time_unit: str,
    *,
    begin: float | None,
    missing: bool,
    shortest: int | None,
) -> dict[str, Tensor]:
    """A record as an observation: the last time is repeated, and values there are missing.

    Args:
        seen: The observables, (T, *event), all seen at the same times.
        times: (k,), k at most T; with a unit, as of astropy, it is converted.
        values: Observable -> (k, *event), NaN where a value is missing.
        time_unit: Of the simulator's times; "" where it says none.
        begin: When the state begins.
        missing: Whether values of simulations are missing within a record.
        shortest: Least number of times of simulations; None where all have as many.

    Raises:
        ValueError: As `HiddenStates.record`.
    """
    count, given = next(iter(seen.values())).shape[0], getattr(times, "unit", None)
    if given is not None and not time_unit:
        raise ValueError(
            f"times are given in {str(given)!r}, and the simulator does not say its own unit: make it with "
            'state_space(..., time_unit="day"), say, or give plain numbers in the unit of the model'
        )
    plain = convert(getattr(times, "value", times), given, Observable((), time_unit), "times")
    at = torch.as_tensor(np.asarray(plain, dtype=np.float64)).reshape(-1)
    check_times(at[None], begin)
    if set(values) != set(seen) or not 0 < len(at) <= count:
        raise ValueError(
            f"{len(at)} times of {', '.join(values) or 'nothing'}; there are to be 1 to {count} of {event_of(seen)}"
        )
    if shortest is not None and len(at) < shortest:
        raise ValueError(
            f"the record has {len(at)} times, and simulations have {shortest} to {count}: make the simulator with "
            f"state_space(..., shortest={len(at)}), so that it is like some of them"
        )
    last, found = torch.full((count,), float(at[-1]), dtype=torch.float64), dict[str, Tensor]()
    last[: len(at)] = at
    for name, spec in seen.items():
        number, there = _values(name, values[name], spec, len(at))
        own = there if shortest is None else there[: len(at)]
        if not missing and not bool(own.all()):
            less = f" or shortest={len(at)}" if len(at) < count else ""
            raise ValueError(
                f"{int((~own).sum())} of {len(own)} values of {name!r} are not there, and in simulations none is "
                f"missing: make the simulator with state_space(..., missing=0.5){less}, say"
            )
        found |= {name: number.to(spec.torch_dtype), f"{name}{TIMES}": last}
        found |= {f"{name}_mask": there} if missing or shortest is not None else {}
    return found


def _values(name: str, value: Any, spec: Observable, count: int) -> tuple[Tensor, Bool[Tensor, " time"]]:
    plain = convert(getattr(value, "value", value), getattr(value, "unit", None), spec, name)
    number = torch.as_tensor(np.asarray(plain, dtype=np.float64))
    if number.shape != (count, *spec.shape[1:]):
        raise ValueError(f"{name!r} has shape {tuple(number.shape)} for {count} times of {spec.shape[1:]}")
    if bool(number.isinf().any()):
        raise ValueError(f"{name!r} has a value that is infinite; where a value is missing, give NaN")
    there, whole = torch.zeros(spec.shape[0], dtype=torch.bool), torch.zeros(spec.shape, dtype=torch.float64)
    there[:count] = number.reshape(count, -1).isfinite().all(-1)
    whole[:count] = number.nan_to_num(0.0)
    return whole, there


def filled(values: Float[Tensor, "row time *event"], there: Bool[Tensor, "row time"]) -> Tensor:
    """Values with one that was seen in place of each that is missing, so that a density can be asked for anything.

    A density of positive numbers, say, refuses the 0 that stands for a missing one; what it gives there does not count.
    """
    first = there.to(torch.uint8).argmax(1)
    own = values[torch.arange(len(values), device=values.device), first]
    some = there.any(1)
    if not bool(some.all()) and bool(some.any()):
        wide = some.reshape(-1, *[1] * (own.ndim - 1))
        own = torch.where(wide, own, own[some][:1])
    wide = there.reshape(*there.shape, *[1] * (values.ndim - 2))
    return torch.where(wide, values, own[:, None])


def without(values: Tensor, there: Bool[Tensor, "#row time"]) -> Tensor:
    """Values (row, T, *event), 0 at times at which they are missing."""
    return torch.where(there.reshape(*there.shape, *[1] * (values.ndim - 2)), values, torch.zeros_like(values))


def some_of(times: Tensor, shortest: int, generator: torch.Generator) -> tuple[Tensor, Bool[Tensor, "row time"]]:
    """Records of fewer times: of each row as many as are drawn, at random; behind them the last is repeated.

    Args:
        times: (row, T), in their order.
        shortest: The least number; each from it to T is as likely as another.
        generator: Source of randomness.

    Returns:
        Times of the same shape, and which of them are the record's, the first ones.
    """
    rows, count = times.shape
    options: dict[str, Any] = {"generator": generator, "device": generator.device}
    length = torch.randint(shortest, count + 1, (rows, 1), **options)
    place = torch.rand(rows, count, **options).argsort(-1)
    kept = torch.where(torch.arange(count) < length, place, count).sort(-1).values  # the record's, and then T
    there = kept < count
    last = kept.masked_fill(~there, -1).amax(-1, keepdim=True)
    return times.gather(-1, torch.where(there, kept, last)), there


def masks_of(there: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Masks of observables as data of so many rows."""
    return {f"{name}_mask": mask.expand(rows, *mask.shape[1:]).clone() for name, mask in there.items()}


def with_missing(
    x: Mapping[str, Tensor],
    names: Iterable[str],
    missing: float,
    kept: Bool[Tensor, "row time"] | None,
    generator: torch.Generator,
) -> X:
    """Data of which values are missing, with their masks.

    Args:
        x: Name -> (row, T, *event).
        names: Of the observables.
        missing: Largest share that is missing; each row has its own.
        kept: Times that a record has; all where left out.
        generator: Source of randomness.
    """
    options: dict[str, Any] = {"generator": generator, "device": generator.device}
    found = dict(x)
    for name in names:
        (rows, count), there = x[name].shape[:2], torch.ones((), dtype=torch.bool) if kept is None else kept
        if missing:
            share = missing * torch.rand(rows, 1, **options)
            there = there & (torch.rand(rows, count, **options) >= share)
        found |= {name: without(x[name], there), f"{name}_mask": there}
    return found
