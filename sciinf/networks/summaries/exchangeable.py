r"""Summary network for a set, whose features do not depend on the order of the items.

    s(x_1, ..., x_n) = rho( mean_i phi(x_i), max_i phi(x_i), log(1 + n) ),

computed over the items that are present. Functions of this form approximate every continuous function of a set. An item
counts as present if any part of it is present. The number of items n is an input only if a mask makes it vary. On a
CPU, phi takes only the items that are present. So its time depends on the number of entries in a catalogue, not on the
catalogue's capacity.

References:
    | Deep Sets (Zaheer et al., 2017), https://arxiv.org/abs/1703.06114
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor  # pyright: ignore[reportMissingModuleSource]

from sciinf.core.checks import check_positive
from sciinf.core.observable import Observable
from sciinf.core.summary import Entries, Present, Summary, SummaryNetwork, find_axis
from sciinf.networks.kernels.library import plain
from sciinf.networks.summaries.perceptron import Perceptron


class DeepSet(Summary):
    """Permutation-invariant features of the items along the axis called "item" (the first axis if axes have no names).

    Args:
        features: Number of output features.
        hidden: Width of the networks phi and rho.
    """

    def __init__(self, features: int = 32, hidden: int = 64) -> None:
        check_positive(features=features, hidden=hidden)
        self.features, self.hidden = features, hidden

    def build(self, spec: Observable, *, masked: bool) -> SummaryNetwork:
        return _DeepSet(self, spec, masked)


class _DeepSet(SummaryNetwork):
    def __init__(self, plan: DeepSet, spec: Observable, masked: bool) -> None:
        super().__init__(spec.shape, masked)
        self.axis = find_axis(spec, "item")
        width, hidden = math.prod(spec.shape) // spec.shape[self.axis], plan.hidden
        self.phi = Perceptron([width * (1 + masked), hidden, hidden, hidden])
        self.rho = Perceptron([2 * hidden + masked, hidden, plan.features])
        self.features = plan.features

    def summarise(self, x: Entries, mask: Present) -> Float[Tensor, "batch feature"]:
        items, present = self.items(x, mask, self.axis)
        # Ensemble members mapped by `torch.vmap` differ in their present items or in their weights.
        mapped = any(is_functorch_wrapped_tensor(one) for one in (items, next(self.phi.parameters())))
        if self.masked and plain(items) and not mapped:
            pooled = pool_rows(self.phi(items[present]), present.sum(1))
        else:
            pooled = pool(self.phi(items), present)
        if self.masked:
            pooled = torch.cat([pooled, present.sum(1, keepdim=True).to(pooled.dtype).log1p()], dim=-1)
        return self.rho(pooled)


def pool(values: Float[Tensor, "batch n width"], present: Bool[Tensor, "batch n"]) -> Float[Tensor, "batch width2"]:
    """Mean and maximum over the items that are present, side by side; zeros if there is none."""
    keep = present.unsqueeze(-1)
    mean = torch.where(keep, values, 0.0).sum(1) / present.sum(1, keepdim=True).clamp(min=1)
    lowest = torch.finfo(values.dtype).min
    highest = torch.where(keep, values, lowest).amax(1)
    return torch.cat([mean, torch.where(present.any(1, keepdim=True), highest, 0.0)], dim=-1)


def pool_rows(values: Float[Tensor, "items width"], counts: Int[Tensor, " batch"]) -> Float[Tensor, "batch width2"]:
    """Mean and maximum as in `pool`, for the values of present items alone.

    Args:
        values: Values of the first row's items, then of the second row's items, and so on.
        counts: Number of present items in each row.
    """
    known = counts.clamp(min=1)[:, None]
    mean = torch.segment_reduce(values, "sum", lengths=counts, unsafe=True) / known
    highest = torch.segment_reduce(values, "max", lengths=counts, unsafe=True)
    return torch.cat([mean, torch.where(counts[:, None] > 0, highest, 0.0)], dim=-1)
