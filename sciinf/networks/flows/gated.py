r"""The gated residual network that computes spline parameters, for one set of weights or for several at once.

The context c enters each layer, through g_0 and the gates g_1, g_2, .... From inputs v and the context c, the network
computes

    (g_0, g_1, ...) = G c + g,    h = W_0 v + g_0,
    h <- h + sigmoid(g_k) (W_2k relu(W_2k-1 relu(h) + b_2k-1) + b_2k) for k = 1, 2, ...,    W h + b.

The network is registered with torch as one operation. So if `torch.vmap` maps an ensemble's members, all members reach
the operation together, as one more leading axis. Each layer is then one batched product that also adds its bias.
Without this registration, product and bias would be two operations. The second one would go once more through tensors
that no longer fit a fast cache. In both cases torch differentiates the operations inside.

References:
    | Density estimation using Real NVP (Dinh et al., 2017), https://arxiv.org/abs/1605.08803
    | Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_LIBRARY = torch.library.Library("sciinf", "FRAGMENT")
_LIBRARY.define("gated(Tensor value, Tensor context, Tensor[] weights, Tensor[] biases) -> Tensor")


def gated(value: Tensor, context: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Output of the gated residual network.

    Args:
        value: Inputs v, (inputs, n, batch).
        context: Context c, (features, batch), shared by the n samples.
        weights: G, W_0, the weights of the blocks, and W, each (outputs, inputs).
        biases: g, the biases of the blocks, and b, each (outputs, 1).

    Returns:
        Output of shape (outputs, n * batch).
    """
    return torch.ops.sciinf.gated(value, context, weights, biases)


def _gated(value: Tensor, context: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    n, batch = value.shape[-2:]
    (from_context, from_value, *blocks, last), (given, *within, end) = weights, biases
    hidden = from_value.shape[-2]
    enters = _affine(given, from_context, context).unflatten(-2, (-1, hidden, 1))
    h, *gates = enters.unbind(-4)
    h = _affine(h.expand(*h.shape[:-2], n, batch).flatten(-2), from_value, value.flatten(-2))
    for k, gate in enumerate(gates):
        change = _affine(within[2 * k], blocks[2 * k], F.relu(h))
        change = _affine(within[2 * k + 1], blocks[2 * k + 1], F.relu(change, inplace=True))
        change, h = change.unflatten(-1, (n, batch)), h.unflatten(-1, (n, batch))
        h = torch.addcmul(h, change, gate.sigmoid()).flatten(-2)
    return _affine(end, last, h)


def _affine(bias: Tensor, weight: Tensor, value: Tensor) -> Tensor:
    return torch.addmm(bias, weight, value) if value.ndim == 2 else torch.baddbmm(bias, weight, value)


def _of_members(
    info: Any, axes: tuple[Any, ...], value: Tensor, context: Tensor, weights: list[Tensor], biases: list[Tensor]
) -> tuple[Tensor, int]:
    """The network mapped by `torch.vmap`: the members of an ensemble become one leading axis of every tensor."""

    def lead(tensor: Tensor, axis: int | None) -> Tensor:
        return tensor.expand(info.batch_size, *tensor.shape) if axis is None else tensor.movedim(axis, 0)

    layers = ([lead(t, a) for t, a in zip(*pair, strict=True)] for pair in ((weights, axes[2]), (biases, axes[3])))
    return _gated(lead(value, axes[0]), lead(context, axes[1]), *layers), 0


_LIBRARY.impl("gated", _gated, "CompositeImplicitAutograd")
torch.library.register_vmap("sciinf::gated", _of_members, lib=_LIBRARY)
