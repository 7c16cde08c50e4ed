r"""Data over many powers of ten: which entries are standardised by an inverse hyperbolic sine, and how.

An entry has heavy tails if its standard deviation is more than `RATIO` times 1.48 times the median of |x - median|,
over the values that are not the median. (The ratio is 1 for a Gaussian, 1.4 for an exponential distribution.) Nearly
all of its values lie within a small share of one standard deviation of the middle, where a network cannot tell them
apart. Such an entry becomes

    y = arcsinh((x - c) / b),

linear near c and logarithmic far away. b is the quantile of 10 % of |x - c| that are not 0, so that most values are in
the logarithmic part. c is the median, or, where one side reaches ten times as far as the other, the quantile of 1 % on
the short side: 0 for counts.

Shapes: x (rows, *event); c, b (*event), 1 along shared axes; b is 0 of entries that stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

RATIO = 5.0
MOST = 2**22  # values that are looked at
_SIDE, _SMALL = 10.0, 0.1
_GAUSSIAN = 1.4826  # the standard deviation of a Gaussian over its median absolute deviation


def arcsinh_scales(x: Tensor, present: Tensor, shared: list[int], sd: Tensor) -> tuple[Tensor, Tensor]:
    """Centres c and scales b of the entries of an observable.

    Args:
        x: Values of some rows, (rows, *event).
        present: False where a value is missing, (rows, *event).
        shared: Axes of the event along which entries have c and b in common.
        sd: Standard deviations of all rows, (*event), 1 along shared axes.

    Returns:
        c and b, float64, of sd's shape.
    """
    kept = [axis for axis in range(x.ndim - 1) if axis not in shared]
    order = [*(axis + 1 for axis in kept), 0, *(axis + 1 for axis in shared)]
    values = x.double().permute(order).reshape(sd.numel(), -1)
    values = torch.where(present.permute(order).reshape(values.shape), values, torch.nan)
    low, median, high = _quantiles(values, 0.01, 0.5, 0.99)
    (deviation,) = _quantiles(_distances(values, median), 0.5)
    heavy = sd.double().flatten() > RATIO * _GAUSSIAN * deviation
    up, down = high - median, median - low
    centre = torch.where(up > _SIDE * down, low, torch.where(down > _SIDE * up, high, median))
    (scale,) = _quantiles(_distances(values, centre), _SMALL)
    centre, scale = (torch.where(heavy, each, 0.0).reshape(sd.shape) for each in (centre, scale))
    return centre, scale


def _distances(values: Tensor, centre: Tensor) -> Tensor:
    """|x - c| where it is not 0, and NaN elsewhere."""
    found = (values - centre[:, None]).abs()
    return torch.where(found > 0, found, torch.nan)


def _quantiles(values: Tensor, *levels: float) -> tuple[Tensor, ...]:
    """Quantiles along the last axis of the values that are there (NaN where none is), one (n,) for each level."""
    ordered = values.sort(-1).values  # NaN come last
    count = torch.isfinite(values).sum(-1)
    places = [((count - 1).clamp_min(0) * level).round().long() for level in levels]
    return tuple(ordered.gather(-1, place[:, None])[:, 0] for place in places)
