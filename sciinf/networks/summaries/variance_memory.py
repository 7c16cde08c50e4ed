r"""How the variance of a series remembers: the likelihood of plain recursions of it.

With u_t the errors of predicting a series linearly (`statistics.prediction_errors`), brought to mean 0 and mean square
1, and e_t a mean of their squares before t,

    e_t = sum_l c_l u_{t-l}^2,   c_l ~ b^l for l = 1 ... 64, sum_l c_l = 1,      v_t = 1 - w + w e_t,

there is a statistic for each of some b and w: the sum over t of (1 - log v_t - u_t^2 / v_t) / 2, divided by sqrt(T).
For a series whose variance does not remember it is negative on average, and for one whose variance does it is largest
near the b and w of that series. Squares before the first value and missing ones are 1. Beside these statistics stand
their differences from their mean, which tell b and w.

References:
    | Generalized autoregressive conditional heteroskedasticity (Bollerslev, 1986),
      https://doi.org/10.1016/0304-4076(86)90063-1
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import conv1d, pad

from sciinf.core import Observable
from sciinf.networks.summaries.statistics import by_channel, prediction_errors

_DECAYS, _WEIGHTS = (0.3, 0.6, 0.8, 0.92), (0.15, 0.4, 0.7)
_PAST, _LEAST = 64, 16  # steps: looked back, and of a series
_LIKELY, _SOME = 5.0, 0.1  # nats for a variance that remembers, and share of the simulations
_TINY = 1e-4  # sds of the training rows that are zero


def variance_memory(
    x: Float[Tensor, "batch ..."], mask: Bool[Tensor, "batch ..."] | None, spec: Observable
) -> Float[Tensor, "batch statistic"]:
    """Two statistics for each channel, b and w; as for `statistics.statistics`, (batch, 0) of no series."""
    if "time" not in spec.dims or spec.shape[spec.dims.index("time")] < _LEAST:
        return x.new_zeros(len(x), 0)
    there = by_channel(torch.ones_like(x) if mask is None else mask.to(x.dtype), spec)
    *_, (_, _, errors, there) = prediction_errors(by_channel(x, spec), there, spec)
    length, count = errors.shape[-1], there.sum((-1, -2), keepdim=True).clamp_min(1)
    away = (errors - (errors * there).sum((-1, -2), keepdim=True) / count) * there
    squares = away.square() / (away.square().sum((-1, -2), keepdim=True) / count + _TINY**2)
    lags = torch.arange(_PAST, 0, -1, dtype=x.dtype, device=x.device)
    share = torch.stack([decay**lags for decay in _DECAYS])
    before = pad(torch.where(there > 0, squares, 1.0)[..., :-1].reshape(-1, 1, length - 1), (_PAST, 0), value=1.0)
    with torch.autocast(x.device.type, enabled=False):
        past = conv1d(before, (share / share.sum(1, keepdim=True))[:, None])
    past = past.reshape(*squares.shape[:3], -1, length)
    found = []
    for weight in _WEIGHTS:
        v = 1 - weight + weight * past
        likely = (1 - v.log() - squares[..., None, :] / v) / 2 * there[..., None, :]
        found.append(likely.sum((2, -1)) / math.sqrt(squares.shape[-2] * length))
    told = torch.cat(found, dim=-1)
    return torch.cat([told, told - told.mean(-1, keepdim=True)], dim=-1).flatten(1)


def remembers(told: Float[Tensor, "batch statistic"], spec: Observable) -> bool:
    """Whether the variance of a series does remember, in a part of the simulations that is worth learning from.

    Args:
        told: `variance_memory` of simulations from the prior predictive distribution.
        spec: The observable.
    """
    if not told.shape[1]:
        return False
    blank = torch.ones(1, *spec.shape)
    *_, (_, _, _, errors) = prediction_errors(by_channel(blank, spec), by_channel(blank, spec), spec)
    number = len(_DECAYS) * len(_WEIGHTS)
    best = math.sqrt(errors[0, 0].numel()) * told.reshape(len(told), -1, 2, number)[:, :, 0].amax(-1)
    return bool(((best > _LIKELY).double().mean(0) > _SOME).any())
