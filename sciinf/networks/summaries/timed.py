r"""Observables that were seen at times of their own, or under controls: what a network sees beside a value.

`NAME_times` (batch, T), of dtype float64, is to an observable NAME (batch, T, *event) what `NAME_mask` is: no data by
itself, but when the k-th of them was seen. (Of float32 it is an observable like others.) Both go through one network,
in channels

    value(s),    u_k,    log((1 + g_k) / 2),    g_k = (u_k - u_{k-1}) (T - 1) / (2 sqrt 3),

u the times less their mean over all rows and times, in one sd of all of them, so that spans keep their proportions; g
the time since the last value, 1 on average where times are spread evenly.

A control (`Observable.control`: a dose, a temperature) of the same length along time is seen beside each value as well,
in channels of its own. It is known where no value is, and so is its time: then no channel but the value's is masked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.observable import Observable
from sciinf.core.summary import expand_mask

TIMES = "_times"
_MORE = 2  # channels


def timed_names(observables: Mapping[str, Observable]) -> tuple[str, ...]:
    """Observables that have times of their own: `NAME_times`, float64, of their first axis's length, stands beside."""
    found = []
    for name, spec in observables.items():
        times = observables.get(f"{name}{TIMES}")
        if times is not None and times.dtype == "float64" and spec.shape and times.shape == spec.shape[:1]:
            found.append(name)
    return tuple(found)


def times_of(observables: Mapping[str, Observable]) -> dict[str, str]:
    """Names of times -> of the observables that were seen at them."""
    return {f"{name}{TIMES}": name for name in timed_names(observables)}


def set_names(observables: Mapping[str, Observable]) -> set[str]:
    """Names of what was set and not seen: times and controls, of which nothing is predicted."""
    return set(times_of(observables)) | {name for name, spec in observables.items() if spec.control}


def seen_only(observables: Mapping[str, Observable]) -> dict[str, Observable]:
    """What was seen, and its masks: all but times and controls. Only this is judged as data, and drawn as predicted."""
    left = set_names(observables)
    return {name: spec for name, spec in observables.items() if name not in left}


def lines_of(times: Float[Tensor, " time"], controls: Sequence[Tensor]) -> int:
    """How many lines a record has without those that only repeat its last time.

    A control that is 0 in the end was an impulse: the line after it belongs to the record, though its time is no later.
    """
    count = int((times < times[-1]).sum()) + 1
    for control in controls:
        on = (control.reshape(len(times), -1) != 0).any(1)
        if bool(on.any()) and not bool(on[-1]):
            count = max(count, int(on.nonzero()[-1]) + 2)
    return count


def controls_beside(observables: Mapping[str, Observable]) -> dict[str, tuple[str, ...]]:
    """Observables that have controls along the same axis -> names of these."""
    controls = {name: spec for name, spec in observables.items() if spec.control and spec.shape}
    times, found = times_of(observables), dict[str, tuple[str, ...]]()
    for name, spec in observables.items():
        if spec.control or spec.dtype == "bool" or name in times or not spec.shape:
            continue
        if beside := tuple(n for n, c in controls.items() if c.shape[:1] == spec.shape[:1]):
            found[name] = beside
    return found


def with_times(spec: Observable, *, timed: bool = True, controls: Sequence[Observable] = ()) -> Observable:
    """What the network of an observable is built for that has times or controls beside it."""
    dims = (spec.dims[0] if spec.dims else "time", "channel")
    more = _MORE * timed + sum(math.prod(control.shape[1:]) for control in controls)
    return Observable((spec.shape[0], math.prod(spec.shape[1:]) + more), "", dims)


def beside_times(value: Float[Tensor, "batch time *event"], times: Float[Tensor, "batch time"]) -> Tensor:
    """Standardised values and times as (batch, time, channel)."""
    gap = times.diff(dim=1, prepend=times[:, :1]) * (times.shape[1] - 1) / (2 * math.sqrt(3))
    told = torch.stack([times, ((1 + gap.clamp_min(0)) / 2).log()], -1)
    return torch.cat([value.reshape(*value.shape[:2], -1), told.to(value)], -1)


def beside_controls(value: Float[Tensor, "batch time *event"], controls: Sequence[Tensor]) -> Tensor:
    """Standardised values, and times where they have some, beside standardised controls, (batch, time, channel)."""
    every = [value, *(control.to(value) for control in controls)]
    return torch.cat([each.reshape(*each.shape[:2], -1) for each in every], -1)


def mask_beside_controls(mask: Tensor, spec: Observable, width: int) -> Tensor:
    """A mask over values as one over so many channels: times and controls are known throughout."""
    whole = expand_mask(mask, (len(mask), *spec.shape)).reshape(len(mask), spec.shape[0], -1)
    return torch.cat([whole, whole.new_ones(*whole.shape[:2], width - whole.shape[2])], -1)


def mask_beside_times(mask: Tensor, spec: Observable) -> Tensor:
    """A mask over values as one over channels: when is known wherever a value is."""
    if mask.ndim == 2:
        return mask
    whole = expand_mask(mask, (len(mask), *spec.shape)).reshape(len(mask), spec.shape[0], -1)
    return torch.cat([whole, whole.any(-1, keepdim=True).expand(-1, -1, _MORE)], -1)
