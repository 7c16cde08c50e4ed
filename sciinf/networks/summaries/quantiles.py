r"""Quantiles of sets with heavy tails, as features where moments fail, for example for a Cauchy distribution.

For each channel of a set, the features are the quantiles at levels (k + 1/2) / K, k = 0 ... K - 1, and the logs of
their differences. Quantiles are linearly interpolated between the sorted entries that are present. The features are for
sets in which standardisation has found heavy tails (`standardise`). For other sets moments are as informative, and
additional inputs reduce the accuracy.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.core import Observable
from sciinf.networks.summaries.statistics import by_channel

_MOST = 9  # Largest number of quantiles; never more than the number of entries.
_LEAST = 3
_TINY = 1e-3  # Smallest difference, in sds of the training rows, so that logarithms are finite.


def quantiles(
    x: Float[Tensor, "batch ..."], mask: Bool[Tensor, "batch ..."] | None, spec: Observable
) -> Float[Tensor, "batch statistic"]:
    """Quantiles and the logs of their differences, for each row; (batch, 0) if the observable is not a set.

    The arguments are those of `statistics.statistics`.
    """
    if "item" not in spec.dims:
        return x.new_zeros(len(x), 0)
    values = by_channel(x, spec)
    count = min(_MOST, values.shape[-1])
    if count < _LEAST:
        return x.new_zeros(len(x), 0)
    there = torch.ones_like(values, dtype=torch.bool) if mask is None else by_channel(mask, spec)
    ordered = torch.where(there, values, torch.inf).sort(-1).values  # Missing entries come last.
    last = (there.sum(-1, keepdim=True) - 1).clamp_min(0)
    level = (torch.arange(count, dtype=x.dtype, device=x.device) + 0.5) / count
    place = (level * (last + 1) - 0.5).clamp_min(0).minimum(last.to(x.dtype))
    low = place.floor().long()
    below, above = (ordered.gather(-1, at) for at in (low, (low + 1).minimum(last)))
    found = torch.where(there.any(-1, keepdim=True), below + (above - below) * (place - low), 0.0)
    steps = (found.diff(dim=-1) + _TINY).log()
    return torch.cat([found.flatten(1), steps.flatten(1)], dim=1)
