r"""Quantiles of sets with heavy tails, which moments do not tell: the middle and the scale of a Cauchy law, say.

Of each channel of a set the quantiles at levels (k + 1/2) / K, k = 0 ... K - 1, linear between the sorted entries that
are present, and the logs of their differences. A set has heavy tails where `heavy_tails` found them; of other sets
moments tell as much, and more numbers to learn from cost accuracy.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.core import Observable
from sciinf.networks.summaries.statistics import by_channel

_MOST = 9  # quantiles, and no more than there are entries
_LEAST = 3
_TINY = 1e-3  # sds of the training rows that are zero


def quantiles(
    x: Float[Tensor, "batch ..."], mask: Bool[Tensor, "batch ..."] | None, spec: Observable
) -> Float[Tensor, "batch statistic"]:
    """The quantiles and their differences; as for `statistics.statistics`, (batch, 0) of what is no set."""
    if "item" not in spec.dims:
        return x.new_zeros(len(x), 0)
    values = by_channel(x, spec)
    count = min(_MOST, values.shape[-1])
    if count < _LEAST:
        return x.new_zeros(len(x), 0)
    there = torch.ones_like(values, dtype=torch.bool) if mask is None else by_channel(mask, spec)
    ordered = torch.where(there, values, torch.inf).sort(-1).values  # what is missing comes last
    last = (there.sum(-1, keepdim=True) - 1).clamp_min(0)
    level = (torch.arange(count, dtype=x.dtype, device=x.device) + 0.5) / count
    place = (level * (last + 1) - 0.5).clamp_min(0).minimum(last.to(x.dtype))
    low = place.floor().long()
    below, above = (ordered.gather(-1, at) for at in (low, (low + 1).minimum(last)))
    found = torch.where(there.any(-1, keepdim=True), below + (above - below) * (place - low), 0.0)
    steps = (found.diff(dim=-1) + _TINY).log()
    return torch.cat([found.flatten(1), steps.flatten(1)], dim=1)
