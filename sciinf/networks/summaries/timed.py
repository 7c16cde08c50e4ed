r"""Observables with their own measurement times or with controls, which become further channels of a summary network.

`NAME_times` (batch, T), of dtype float64, belongs to an observable NAME (batch, T, *event), as `NAME_mask` does. It is
not data by itself; its k-th entry is the time of the k-th value. (With dtype float32, `NAME_times` is an ordinary
observable.) Values and times go through one network, in the channels

    value(s),    u_k,    log((1 + g_k) / 2),    g_k = (u_k - u_{k-1}) (T - 1) / (2 sqrt 3),

where u are the times minus their mean over all rows and times, divided by one sd for all times. So the proportions of
time spans are kept. g is the time since the last value, which is 1 on average for evenly spaced times.

A control (`Observable.control`, such as a dose or a temperature) of the same length along time adds its own channels. A
control and its time are known even if the value is missing. So with controls, only the value's channels are masked.
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
_MORE = 2  # Number of channels that the times add.


def timed_names(observables: Mapping[str, Observable]) -> tuple[str, ...]:
    """Names of the observables that have their own times.

    An observable NAME has them if `NAME_times` exists, with dtype float64 and the length of NAME's first axis.
    """
    found = []
    for name, spec in observables.items():
        times = observables.get(f"{name}{TIMES}")
        if times is not None and times.dtype == "float64" and spec.shape and times.shape == spec.shape[:1]:
            found.append(name)
    return tuple(found)


def times_of(observables: Mapping[str, Observable]) -> dict[str, str]:
    """Names of the times -> names of the observables that were measured at these times."""
    return {f"{name}{TIMES}": name for name in timed_names(observables)}


def set_names(observables: Mapping[str, Observable]) -> set[str]:
    """Names of the observables that are set and not measured, that is times and controls; they are never predicted."""
    return set(times_of(observables)) | {name for name, spec in observables.items() if spec.control}


def seen_only(observables: Mapping[str, Observable]) -> dict[str, Observable]:
    """The measured observables and their masks, that is all observables except times and controls.

    Only these observables are checked as data and predicted.
    """
    left = set_names(observables)
    return {name: spec for name, spec in observables.items() if name not in left}


def lines_of(times: Float[Tensor, " time"], controls: Sequence[Tensor]) -> int:
    """Number of lines of a record, without final lines that only repeat its last time.

    A control that is 0 at the end was an impulse. Then the line after the impulse belongs to the record, even if its
    time is not later.
    """
    count = int((times < times[-1]).sum()) + 1
    for control in controls:
        on = (control.reshape(len(times), -1) != 0).any(1)
        if bool(on.any()) and not bool(on[-1]):
            count = max(count, int(on.nonzero()[-1]) + 2)
    return count


def controls_beside(observables: Mapping[str, Observable]) -> dict[str, tuple[str, ...]]:
    """Names of observables that have controls along the same first axis -> names of these controls."""
    controls = {name: spec for name, spec in observables.items() if spec.control and spec.shape}
    times, found = times_of(observables), dict[str, tuple[str, ...]]()
    for name, spec in observables.items():
        if spec.control or spec.dtype == "bool" or name in times or not spec.shape:
            continue
        if beside := tuple(n for n, c in controls.items() if c.shape[:1] == spec.shape[:1]):
            found[name] = beside
    return found


def with_times(spec: Observable, *, timed: bool = True, controls: Sequence[Observable] = ()) -> Observable:
    """Description of an observable's channels including times and controls, for which a summary network is built.

    Args:
        spec: Description of the observable.
        timed: Whether the observable has its own times.
        controls: Descriptions of its controls.
    """
    dims = (spec.dims[0] if spec.dims else "time", "channel")
    more = _MORE * timed + sum(math.prod(control.shape[1:]) for control in controls)
    return Observable((spec.shape[0], math.prod(spec.shape[1:]) + more), "", dims)


def beside_times(value: Float[Tensor, "batch time *event"], times: Float[Tensor, "batch time"]) -> Tensor:
    """Standardised values and times as channels of one array, (batch, time, channel)."""
    gap = times.diff(dim=1, prepend=times[:, :1]) * (times.shape[1] - 1) / (2 * math.sqrt(3))
    told = torch.stack([times, ((1 + gap.clamp_min(0)) / 2).log()], -1)
    return torch.cat([value.reshape(*value.shape[:2], -1), told.to(value)], -1)


def beside_controls(value: Float[Tensor, "batch time *event"], controls: Sequence[Tensor]) -> Tensor:
    """Standardised values, with their times if any, and standardised controls, as channels (batch, time, channel)."""
    every = [value, *(control.to(value) for control in controls)]
    return torch.cat([each.reshape(*each.shape[:2], -1) for each in every], -1)


def mask_beside_controls(mask: Tensor, spec: Observable, width: int) -> Tensor:
    """A mask of values, extended to all channels with times and controls, which are always present.

    Args:
        mask: Mask of the values.
        spec: Description of the observable.
        width: Total number of channels.
    """
    whole = expand_mask(mask, (len(mask), *spec.shape)).reshape(len(mask), spec.shape[0], -1)
    return torch.cat([whole, whole.new_ones(*whole.shape[:2], width - whole.shape[2])], -1)


def mask_beside_times(mask: Tensor, spec: Observable) -> Tensor:
    """A mask of values, extended to the channels of the times, which are present if any part of the value is."""
    if mask.ndim == 2:
        return mask
    whole = expand_mask(mask, (len(mask), *spec.shape)).reshape(len(mask), spec.shape[0], -1)
    return torch.cat([whole, whole.any(-1, keepdim=True).expand(-1, -1, _MORE)], -1)
