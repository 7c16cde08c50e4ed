r"""Features of a series whose variance depends on its past: log likelihoods of simple recursions for the variance.

Let u_t be the errors of a linear prediction of the series (`statistics.prediction_errors`), scaled to mean 0 and mean
square 1. Let e_t be a weighted mean of their squares before t,

    e_t = sum_l c_l u_{t-l}^2,   c_l ~ b^l for l = 1 ... 64, sum_l c_l = 1,      v_t = 1 - w + w e_t,

For each pair of b and w on a small grid, one statistic is the sum over t of (1 - log v_t - u_t^2 / v_t) / 2, divided by
sqrt(T). If the variance does not depend on the past, this statistic is negative on average. Otherwise it is largest
near the b and w of the series. Squares before the first value, and missing squares, are set to 1. Further statistics
are the differences from the mean over the grid, which inform on b and w.

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
_PAST, _LEAST = 64, 16  # Number of past steps in e_t, and smallest length of a series.
# A simulation counts if its log likelihood ratio exceeds _LIKELY. Of all simulations, a fraction _SOME must count.
_LIKELY, _SOME = 5.0, 0.1
_TINY = 1e-4  # Smallest sd, in sds of the training rows, so that divisions and logarithms are finite.


def variance_memory(
    x: Float[Tensor, "batch ..."], mask: Bool[Tensor, "batch ..."] | None, spec: Observable
) -> Float[Tensor, "batch statistic"]:
    """Two statistics for each channel, b and w, for each row; (batch, 0) if the observable is not a long enough series.

    The arguments are those of `statistics.statistics`.
    """
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
    """Whether the variance of a series depends on its past, in enough simulations to be worth learning from.

    Args:
        told: Result of `variance_memory` for simulations from the prior predictive distribution.
        spec: Description of the observable.
    """
    if not told.shape[1]:
        return False
    blank = torch.ones(1, *spec.shape)
    *_, (_, _, _, errors) = prediction_errors(by_channel(blank, spec), by_channel(blank, spec), spec)
    number = len(_DECAYS) * len(_WEIGHTS)
    best = math.sqrt(errors[0, 0].numel()) * told.reshape(len(told), -1, 2, number)[:, :, 0].amax(-1)
    return bool(((best > _LIKELY).double().mean(0) > _SOME).any())
