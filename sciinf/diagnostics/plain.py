"""Plain statistics of data, which no network chose; they may show information that a learned summary has lost.

For each observable, after standardisation, the statistics are mean, log sd, skewness, kurtosis, least and largest
value. They run along the axes that repeat (time, items, the axes of an image), or along all axes where none of these
is named. Further statistics are autocorrelations along time, the share of present numbers, and the coordinates of
all numbers along the first principal axes. Each statistic is replaced by the normal score of its rank, so that tails
and units do not matter.

Where the parameters are known, a linear prediction of each parameter from the numbers (`told`) is one more
statistic. Many numbers that each show a little may lie along none of the first axes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Observable, X
from sciinf.networks.summaries.standardise import Standardise
from sciinf.networks.summaries.statistics import by_channel

_CHANNELS = 6  # Largest number of channels of one observable with statistics of their own.
_AXES = 8
_ROWS = 500  # Rows that give the axes.
# Largest count of numbers in the linear prediction of parameters, and folds and ridge of its fit.
_NUMBERS, _FOLDS, _RIDGE = 200, 5, 0.01
_LAGS = (1, 2)
_EDGE = 3.0  # Largest normal score.


def plain_statistics(observables: dict[str, Observable], rows: X, x: X) -> Tensor:
    """Normal scores of the plain statistics of some rows and of one observation, which comes last.

    Args:
        observables: Observables that the simulator produces.
        rows: Simulated data, name -> (n, *event).
        x: The observation, name -> (1, *event).

    Returns:
        (n + 1, K), float64; statistics that do not vary are left out.
    """
    count = len(next(iter(rows.values())))
    standard = Standardise(observables)
    standard.fit(lambda: iter((Batch(torch.empty(count, 0), rows),)))
    seen, one = standard(rows), standard(x)
    both = {name: torch.cat([seen[name], one[name]]).double() for name in seen}
    found = [_moments(value, observables[name]) for name, value in both.items()]
    masks = [torch.cat([rows[m], x[m]]).double() for m in (f"{name}_mask" for name in both) if m in rows]
    found += [mask.reshape(count + 1, -1).mean(1, keepdim=True) for mask in masks]
    flat = torch.cat([value.reshape(count + 1, -1) for value in both.values()], dim=1)
    found.append(_principal(flat, count))
    return _scores(torch.cat(found, dim=1), count)


def told(observables: dict[str, Observable], rows: X, x: X, z: Float[Tensor, "n theta"]) -> Tensor:
    """Normal scores of least-squares predictions of the parameters, for the rows and the observation.

    The predictions use all numbers of the data.

    With more than 200 numbers, their coordinates along the first 200 principal axes are used. Each row is predicted
    by a line that was fitted to other rows, so that its own noise does not matter.

    Args:
        observables: Observables that the simulator produces.
        rows: Simulated data, name -> (n, *event).
        x: The observation, name -> (1, *event).
        z: Parameters of the rows.

    Returns:
        (n + 1, D), fewer columns where one of them does not vary; (n + 1, 0) where no number varies.
    """
    both = [torch.cat([rows[name], x[name]]).double() for name in observables]
    numbers = torch.cat([value.reshape(len(z) + 1, -1) for value in both], dim=1)
    y = _scores(numbers, len(z)).double()
    y = y if y.shape[1] <= _NUMBERS else _principal(y, len(z), _NUMBERS)
    if not y.shape[1]:
        return y
    y = torch.cat([y.new_ones(len(y), 1), y], dim=1)
    found = y.new_zeros(len(y), z.shape[1])
    for fold in range(_FOLDS):
        out = torch.arange(fold, len(z), _FOLDS)
        kept = torch.ones(len(z), dtype=torch.bool).index_fill(0, out, False)
        given = y[:-1][kept]
        gram = given.T @ given + _RIDGE * len(given) * torch.eye(y.shape[1], dtype=y.dtype)
        slope = torch.linalg.solve(gram, given.T @ (z[kept] - z[kept].mean(0)))
        found[out] = y[out] @ slope
        found[-1] += y[-1] @ slope / _FOLDS
    return _scores(found, len(z)).double()


def leading(plain: Tensor, learned: Tensor) -> Tensor:
    """Plain and learned statistics along their leading axes, and the squares of the first of these coordinates.

    Args:
        plain: Plain statistics, (n + 1, K), the observation last.
        learned: Summaries of the same rows, (n + 1, F).

    Returns:
        (n + 1, M), centred at the observation; M may be 0.
    """
    learned = learned[:, learned.isfinite().all(0)]
    spread = learned[:-1].std(0)
    most = float(spread.max()) if learned.shape[1] else 0.0
    kept = spread > max(1e-6 * most, 1e-12)
    learned = ((learned - learned[:-1].mean(0)) / spread)[:, kept].clamp(-_EDGE, _EDGE)
    both = torch.cat([plain, learned], dim=1)
    if not both.shape[1]:
        return both
    _, scale, axes = torch.linalg.svd(both[:-1] - both[:-1].mean(0), full_matrices=False)
    most = min(int((scale > 0.03 * scale[0]).sum()), max(4, (len(both) - 1) // 25))
    seen = both @ axes[:most].T
    seen = torch.cat([seen, seen.square()[:, : most // 3]], dim=1)
    return seen - seen[-1]


def _moments(value: Tensor, spec: Observable) -> Tensor:
    """Statistics of each channel along the axes that repeat, (rows, K)."""
    series = by_channel(value, spec)[:, :_CHANNELS]
    if series.shape[-1] < 3:
        return value.new_zeros(len(value), 0)
    centre, sd = series.mean(-1), series.std(-1).clamp_min(1e-9)
    u = (series - centre[..., None]) / sd[..., None]
    parts = [centre, sd.log(), u.pow(3).mean(-1), u.pow(4).mean(-1), series.amin(-1), series.amax(-1)]
    if "time" in spec.dims or not spec.dims:
        parts += [(u[..., lag:] * u[..., :-lag]).mean(-1) for lag in _LAGS if series.shape[-1] > 2 * lag]
    return torch.cat(parts, dim=1)


def _principal(flat: Tensor, count: int, axes_kept: int = _AXES) -> Tensor:
    """Coordinates along the principal axes of the first rows.

    The axes come from the smaller of the two matrices of inner products.
    """
    centred = flat - flat[:count].mean(0)
    some = centred[: min(count, _ROWS)]
    narrow = some.shape[1] <= len(some)
    variance, axes = torch.linalg.eigh(some.T @ some if narrow else some @ some.T)
    most = min(axes_kept, int((variance > 1e-9 * variance[-1].clamp_min(1e-300)).sum()))
    axes = axes[:, axes.shape[1] - most :]
    return centred @ (axes if narrow else some.T @ axes)


def _scores(values: Tensor, count: int) -> Tensor:
    values = values.nan_to_num()
    spread = values[:count].std(0)
    values = values[:, spread > 1e-9 * values[:count].abs().amax(0).clamp_min(1e-300)]
    ordered = values[:count].sort(0).values.T.contiguous()
    low = torch.searchsorted(ordered, values.T.contiguous())
    high = torch.searchsorted(ordered, values.T.contiguous(), right=True)
    level = ((low + high) / 2 + 0.5) / (count + 1)
    return torch.special.ndtri(level.clamp(1e-9, 1 - 1e-9)).clamp(-_EDGE, _EDGE).T
