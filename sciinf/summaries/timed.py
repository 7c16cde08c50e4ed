r"""Observables that were seen at times of their own: what a summary network sees of a value beside when it was seen.

`NAME_times` (batch, T), of dtype float64, is to an observable NAME (batch, T, *event) what `NAME_mask` is: no data by
itself, but when the k-th of them was seen. (Of float32 it is an observable like others.) Both go through one network,
in channels

    value(s),    u_k,    log((1 + g_k) / 2),    g_k = (u_k - u_{k-1}) (T - 1) / (2 sqrt 3),

u the times less their mean over all rows and times, in one sd of all of them, so that spans keep their proportions; g
the time since the last value, 1 on average where times are spread evenly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.simulator import Observable
from sciinf.summaries.summary import expand_mask

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


def with_times(spec: Observable) -> Observable:
    """What the network of such an observable is built for."""
    dims = (spec.dims[0] if spec.dims else "time", "channel")
    return Observable((spec.shape[0], math.prod(spec.shape[1:]) + _MORE), "", dims)


def beside_times(value: Float[Tensor, "batch time *event"], times: Float[Tensor, "batch time"]) -> Tensor:
    """Standardised values and times as (batch, time, channel)."""
    gap = times.diff(dim=1, prepend=times[:, :1]) * (times.shape[1] - 1) / (2 * math.sqrt(3))
    told = torch.stack([times, ((1 + gap.clamp_min(0)) / 2).log()], -1)
    return torch.cat([value.reshape(*value.shape[:2], -1), told.to(value)], -1)


def mask_beside_times(mask: Tensor, spec: Observable) -> Tensor:
    """A mask over values as one over channels: when is known wherever a value is."""
    if mask.ndim == 2:
        return mask
    whole = expand_mask(mask, (len(mask), *spec.shape)).reshape(len(mask), spec.shape[0], -1)
    return torch.cat([whole, whole.any(-1, keepdim=True).expand(-1, -1, _MORE)], -1)
