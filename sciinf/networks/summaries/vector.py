"""Summary network for a plain vector: a multilayer perceptron, or the numbers unchanged."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.checks import check_positive
from sciinf.core.observable import Observable
from sciinf.core.summary import Entries, Present, Summary, SummaryNetwork
from sciinf.networks.summaries.perceptron import Perceptron


class MLP(Summary):
    """Multilayer perceptron of all numbers of an observable.

    A mask adds one further input per number. Missing numbers are zero.

    Args:
        features: Number of output features. None uses the width of the last hidden layer, or of the input if there are
            no hidden layers.
        hidden: Widths of the hidden layers. If it is empty and `features` is None, the numbers pass unchanged.
    """

    def __init__(self, features: int | None = None, hidden: Sequence[int] = (64, 64)) -> None:
        check_positive(features=1 if features is None else features, hidden=min(hidden, default=1))
        self.features, self.hidden = features, tuple(hidden)

    def build(self, spec: Observable, *, masked: bool) -> SummaryNetwork:
        return _MLP(self, spec.shape, masked)


class _MLP(SummaryNetwork):
    def __init__(self, plan: MLP, event: Sequence[int], masked: bool) -> None:
        super().__init__(event, masked)
        widths = [math.prod(event) * (1 + masked), *plan.hidden]
        widths += [] if plan.features is None else [plan.features]
        self.features = widths[-1]
        self.net = Perceptron(widths) if len(widths) > 1 else nn.Identity()

    def summarise(self, x: Entries, mask: Present) -> Float[Tensor, "batch feature"]:
        flat = x.reshape(len(x), -1)
        if self.masked:
            flat = torch.cat([flat, mask.reshape(len(x), -1).to(flat.dtype)], dim=-1)
        return self.net(flat)
