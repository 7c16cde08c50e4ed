r"""Plain statistics of standardised data that networks are slow to learn: moments, scales, steps, correlations.

The repeated axes of an observable are time, items and the axes of an image, or all axes if axes have no names. Along
these axes, and over the entries that are present, the statistics of each channel are

    mean,  log sd,  skewness,  log kurtosis,  least,  largest,   and along time, for lags l of 1, 2, 4, 8,
    log mean (x_{t+l} - x_t)^2,   and partial autocorrelations of lags 1 to 4 with the log power that each leaves.

Pairs of channels give their correlations. Data with a second axis give the log sds of the means along each axis, and of
the residual beyond these means. If there is a mask, the fraction of present entries is a statistic too. All statistics
are smooth functions of the data, and have fixed shapes.

Columns of one table (`columns`) give further statistics for each pair of columns. These are mean, log sd, skewness,
minimum and maximum of one column, over two groups of rows. In one group, the other column is above its mean; in the
second group it is not. An example is the duration of trials for each of two choices.

References:
    | Maximum entropy spectral analysis (Burg, 1975): partial autocorrelations from errors ahead and behind
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.core import Observable
from sciinf.networks.summaries.standardise import SHARED_AXES

_CHANNELS = 8  # Largest number of channels that have statistics.
_COLUMNS = 4  # Largest number of columns of a table that are compared in pairs.
_LAGS = (1, 2, 4, 8)
_ORDER = 4  # Number of partial autocorrelations.
_LEAST = 3  # Smallest number of entries that have statistics.
_ROUNDING = 1e-3  # Smallest difference from the mean, in sds of a row, that is not rounding error.
_TINY = 1e-4  # Smallest sd, in sds of the training rows, so that divisions and logarithms are finite.


def statistics(
    x: Float[Tensor, "batch ..."], mask: Bool[Tensor, "batch ..."] | None, spec: Observable
) -> Float[Tensor, "batch statistic"]:
    """The plain statistics of each row.

    Args:
        x: Standardised values, (batch, *event).
        mask: True for present entries, of x's shape. None if all entries are present.
        spec: Description of the observable.

    Returns:
        Statistics, (batch, S). S is 0 if there are fewer than three repeated entries.
    """
    series, there = by_channel(x, spec), by_channel(torch.ones_like(x) if mask is None else mask.to(x.dtype), spec)
    if series.shape[-1] < _LEAST:
        return x.new_zeros(len(x), 0)
    count = there.sum(-1).clamp_min(1)
    centre = (series * there).sum(-1) / count
    away = (series - centre[..., None]) * there
    sd = (away.square().sum(-1) / count + _TINY**2).sqrt()
    u = away / sd[..., None]
    parts = [centre, sd.log(), u.pow(3).sum(-1) / count, (u.pow(4).sum(-1) / count + 0.1).log()]
    parts += [u.amin(-1), u.amax(-1), *_steps(series, there, spec), *_partial(series, there, spec)]
    parts += _together(u, there)
    parts += [_between(x, mask, spec)] if x.ndim > 2 else []
    parts += [] if mask is None else [there.reshape(len(x), -1).mean(1, keepdim=True)]
    return torch.cat(parts, dim=1)


def columns(
    x: Float[Tensor, "batch ..."], mask: Bool[Tensor, "batch ..."] | None, spec: Observable
) -> Float[Tensor, "batch statistic"]:
    """Statistics of pairs of columns of one table, for each row; the arguments are those of `statistics`."""
    series, there = by_channel(x, spec), by_channel(torch.ones_like(x) if mask is None else mask.to(x.dtype), spec)
    series, there = series[:, :_COLUMNS], there[:, :_COLUMNS]
    count = there.sum(-1, keepdim=True).clamp_min(1)
    away = (series - (series * there).sum(-1, keepdim=True) / count) * there
    u = away / (away.square().sum(-1, keepdim=True) / count + _TINY**2).sqrt()
    parts = [x.new_zeros(len(x), 0)]
    for one in range(u.shape[1]):
        for other in (k for k in range(u.shape[1]) if k != one):
            both = there[:, one] * there[:, other]
            above = u[:, other] > _ROUNDING  # Never true for a constant column.
            for half in (both * above, both * ~above):
                parts.append(torch.stack(_moments(u[:, one], half), 1))
    return torch.cat(parts, 1)


def _moments(u: Tensor, there: Tensor) -> list[Tensor]:
    """Mean, log sd, skewness, minimum and maximum of the present values (batch, n); 0 if there are none."""
    count = there.sum(-1)
    known = count.clamp_min(1)
    mean = (u * there).sum(-1) / known
    away = (u - mean[:, None]) * there
    sd = (away.square().sum(-1) / known + _TINY**2).sqrt()
    skew = (away / sd[:, None]).pow(3).sum(-1) / known
    least, largest = (torch.where(there > 0, u, fill) for fill in (torch.inf, -torch.inf))
    some = count > 0
    ends = [torch.where(some, end, 0.0) for end in (least.amin(-1), largest.amax(-1))]
    return [mean, torch.where(some, sd.log(), 0.0), skew, *ends]


def by_channel(x: Tensor, spec: Observable) -> Tensor:
    """Values (batch, *event) as (batch, channel, repeated entries), with time as the last repeated axis.

    At most the first 8 channels are kept.
    """
    repeated = [axis for axis, name in enumerate(spec.dims, start=1) if name in SHARED_AXES]
    repeated.sort(key=lambda axis: spec.dims[axis - 1] == "time")
    others = [axis for axis in range(1, x.ndim) if axis not in repeated] if repeated else []
    moved = x.permute(0, *others, *(repeated or range(1, x.ndim)))
    return moved.reshape(len(x), math.prod(x.shape[axis] for axis in others), -1)[:, :_CHANNELS]


def _steps(series: Tensor, there: Tensor, spec: Observable) -> list[Tensor]:
    """Logs of mean squared steps along time, for several lags."""
    if "time" not in spec.dims:
        return []
    length, found = spec.shape[spec.dims.index("time")], []
    # Time is the last axis, so this splits the entries into complete series.
    series, there = (v.reshape(*v.shape[:2], -1, length) for v in (series, there))
    for lag in _LAGS:
        if length > 2 * lag:
            both = there[..., lag:] * there[..., :-lag]
            step = (series[..., lag:] - series[..., :-lag]).square() * both
            found.append((step.sum((-1, -2)) / both.sum((-1, -2)).clamp_min(1) + _TINY**2).log())
    return found


def _partial(series: Tensor, there: Tensor, spec: Observable) -> list[Tensor]:
    """Partial autocorrelations along time by Burg's method, each followed by the log power of the prediction errors."""
    if "time" not in spec.dims:
        return []
    return [part for k, left, _, _ in prediction_errors(series, there, spec) for part in (k, (left + _TINY**2).log())]


def prediction_errors(
    series: Tensor, there: Tensor, spec: Observable
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Errors of linear predictions of each value from the values before it, for increasing orders of the prediction.

    Args:
        series: Values, (batch, channel, repeated entries), with time as the last repeated axis.
        there: 1 for present entries and 0 for missing ones, of the same shape.
        spec: Description of the observable.

    Yields:
        Four tensors for each order from 1 on: the partial autocorrelation and the power of the errors, each (batch,
        channel); then the errors and a mask of the known errors, each (batch, channel, series, time).
    """
    length = spec.shape[spec.dims.index("time")]
    series, there = (v.reshape(*v.shape[:2], -1, length) for v in (series, there))
    ahead = behind = series
    for _ in range(min(_ORDER, length // 4)):
        ahead, behind, there = ahead[..., 1:], behind[..., :-1], there[..., 1:] * there[..., :-1]
        power = ((ahead.square() + behind.square()) * there).sum((-1, -2))
        k = 2 * (ahead * behind * there).sum((-1, -2)) / (power + _TINY)
        left = power * (1 - k.square()) / (2 * there.sum((-1, -2)).clamp_min(1))
        ahead, behind = ahead - k[..., None, None] * behind, behind - k[..., None, None] * ahead
        yield k, left, ahead, there


def _together(u: Tensor, there: Tensor) -> list[Tensor]:
    """Correlations of all pairs of channels."""
    channels = u.shape[1]
    if channels == 1:
        return []
    both = torch.einsum("bis,bjs->bij", there, there).clamp_min(1)
    product = torch.einsum("bis,bjs->bij", u, u) / both
    first, second = torch.triu_indices(channels, channels, 1, device=u.device)
    return [product[:, first, second]]


def _between(x: Tensor, mask: Tensor | None, spec: Observable) -> Tensor:
    """Log sd of the means along each axis of length 3 or more, (batch, axes).

    With exactly two axes, the log sd of the residual is added as a further column.
    """
    there, found = torch.ones_like(x) if mask is None else mask.to(x.dtype), []
    for axis in range(1, x.ndim):
        if spec.shape[axis - 1] >= _LEAST:
            inner = tuple(other for other in range(1, x.ndim) if other != axis)
            count = there.sum(inner)
            mean = (x * there).sum(inner) / count.clamp_min(1)
            known = (count > 0).to(x.dtype)
            total = known.sum(1, keepdim=True).clamp_min(1)
            away = (mean - (mean * known).sum(1, keepdim=True) / total) * known
            found.append((away.square().sum(1) / total[:, 0] + _TINY**2).sqrt().log())
    return torch.stack([*found, *_left(x, there)], dim=1) if found else x.new_zeros(len(x), 0)


def _left(x: Tensor, there: Tensor) -> list[Tensor]:
    """Log sd of the residual after removal of the means along both of two axes."""
    if x.ndim != 3:
        return []
    away, axes = x * there, (1, 2)
    for _ in range(2):  # One round is exact if all entries are present.
        for axis in axes:
            away = (away - away.sum(axis, keepdim=True) / there.sum(axis, keepdim=True).clamp_min(1)) * there
    return [(away.square().sum(axes) / there.sum(axes).clamp_min(1) + _TINY**2).sqrt().log()]
