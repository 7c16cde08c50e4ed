r"""Monotone rational-quadratic splines without branches, with the batch on the contiguous axis.

On [-B, B] a spline has K bins. Unconstrained numbers u, v in R^K and t in R^{K-1} determine widths, heights and slopes

    w_k = 2B (m + (1 - mK) softmax(u)_k),   h_k = 2B (m + (1 - mK) softmax(v)_k),   d_k = m + softplus(t_k),

with m = 1e-3 and slope 1 at both ends. Outside [-B, B] the spline is the identity. In the bin that begins at (a, b),
with s = h / w, r = (x - a) / w, q = r (1 - r), and slopes d0, d1 at its ends,

    N = s r^2 + d0 q,   D = s + (d0 + d1 - 2s) q,   M = d1 r^2 + 2 s q + d0 (1 - r)^2,
    y = b + h N / D,    log dy/dx = 2 log s + log M - 2 log D.

For the inverse, with c = (y - b) / h and e = d0 + d1 - 2s, r is the root in [0, 1] of
(s - d0 + c e) r^2 + (d0 - c e) r = s c.

The bin is found by comparing x with all knots at once. Only the numbers of this bin are then gathered. There is no
boolean indexing, so the shapes never depend on the data. The gradient is written out, because automatic differentiation
would record many unnecessary operations on K numbers.

References:
    | Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sciinf.networks.kernels.library import keep_nothing, led, refuse

Numbers = Float[Tensor, "*more d n"]
Raw = Float[Tensor, "*more rows n"]
LEAST = 1e-3  # m: smallest width and height of a bin as a fraction of 2B, and smallest slope.
EDGE = math.log(math.expm1(1 - LEAST))  # Raw number of slope 1: softplus(EDGE) + LEAST = 1.


def numbers(bins: int) -> int:
    """3K - 1, the number of unconstrained numbers of one spline with K bins."""
    return 3 * bins - 1


def spline(x: Numbers, raw: Raw, bins: int, bound: float) -> tuple[Numbers, Numbers]:
    """Values y and log slopes log dy/dx of d splines, at n points each.

    Args:
        x: Points, (d, n); n includes the batch.
        raw: Unconstrained numbers, (d (3K - 1), n). First come K raw widths and K raw heights for each of the d
            splines, then K - 1 raw slopes for each.
        bins: K, the number of bins, at least 2.
        bound: B. The splines are the identity outside [-B, B].
    """
    y, log_slope, *_ = _Spline.apply(x, raw.to(x.dtype), bins, bound)
    return y, log_slope


def inverse(y: Numbers, raw: Raw, bins: int, bound: float) -> Numbers:
    """Points x at which d splines have the values y; the inverse of `spline`, with the same arguments."""
    cell = _find(y / (2 * bound) + 0.5, raw, bins, of=1)
    (a, b), (w, h), (d0, d1) = *_extent(cell, bins, bound), _slopes(raw, cell.index, bins)
    s = h / w
    c = ((y - b) / h).clamp(0.0, 1.0)
    e = c * (d0 + d1 - 2 * s)
    quadratic, linear, constant = s - d0 + e, d0 - e, s * c
    root = (linear * linear + 4 * quadratic * constant).clamp_min(0.0).sqrt()
    r = (2 * constant / (linear + root)).clamp(0.0, 1.0)
    return torch.where(y.abs() <= bound, a + r * w, y)


class _Cell(NamedTuple):
    """The bins that contain the values.

    Attributes:
        index: Index of the bin, (..., d, n).
        before: Total share of the x-axis and of the y-axis of all earlier bins, (..., d, 2, n).
        own: Share of the x-axis and of the y-axis of the bin itself, (..., d, 2, n).
        share: Shares of all bins, (..., d, 2, K, n).
    """

    index: Tensor
    before: Tensor
    own: Tensor
    share: Tensor


def _find(value: Tensor, raw: Tensor, bins: int, of: int) -> _Cell:
    """The bin of each value: an x scaled to [0, 1] if `of` is 0, or a y scaled to [0, 1] if `of` is 1."""
    d = value.shape[-2]
    share = torch.softmax(raw[..., : 2 * d * bins, :].unflatten(-2, (d, 2, bins)), dim=-2)
    before = torch.ones(bins, bins, dtype=raw.dtype, device=raw.device).tril(-1) @ share
    floor = LEAST * torch.arange(1, bins, dtype=raw.dtype, device=raw.device)[:, None]
    knots = torch.add(floor, before[..., of, 1:, :], alpha=1 - LEAST * bins)
    index = (value[..., None, :] >= knots).sum(-2, dtype=torch.int32).long()
    chosen = _chosen(index)
    return _Cell(index, before.gather(-2, chosen)[..., 0, :], share.gather(-2, chosen)[..., 0, :], share)


def _chosen(index: Tensor) -> Tensor:
    return index[..., None, None, :].expand(*index.shape[:-1], 2, 1, index.shape[-1])


def _extent(cell: _Cell, bins: int, bound: float) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Start and length of each value's bin, in x and in y."""
    free = 1 - LEAST * bins
    start = (2 * bound) * (LEAST * cell.index[..., None, :] + free * cell.before) - bound
    length = (2 * bound) * (LEAST + free * cell.own)
    return (start[..., 0, :], start[..., 1, :]), (length[..., 0, :], length[..., 1, :])


def _slopes(raw: Tensor, index: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Slopes at both ends of each value's bin."""
    d = index.shape[-2]
    inner = raw[..., 2 * d * bins :, :].unflatten(-2, (d, bins - 1))
    left = inner.gather(-2, (index - 1).clamp_min(0)[..., None, :])[..., 0, :]
    right = inner.gather(-2, index.clamp_max(bins - 2)[..., None, :])[..., 0, :]
    left = torch.where(index == 0, EDGE, left)
    right = torch.where(index == bins - 1, EDGE, right)
    return LEAST + F.softplus(left), LEAST + F.softplus(right)


class _Spline(torch.autograd.Function):
    """`spline` as an operation with its own gradient.

    The tensors that the backward pass needs are returned too, because torch.func requires it.
    """

    @staticmethod
    def forward(x: Tensor, raw: Tensor, bins: int, bound: float) -> tuple[Tensor, ...]:
        cell = _find(x / (2 * bound) + 0.5, raw, bins, of=0)
        (a, b), (w, h), (d0, d1) = *_extent(cell, bins, bound), _slopes(raw, cell.index, bins)
        s, r = h / w, ((x - a) / w).clamp(0.0, 1.0)
        q = r * (1 - r)
        denominator = s + (d0 + d1 - 2 * s) * q
        m = d1 * r * r + 2 * s * q + d0 * (1 - r) ** 2
        inside = x.abs() <= bound
        y = torch.where(inside, b + h * (s * r + d0 * (1 - r)) * r / denominator, x)
        log_slope = torch.where(inside, 2 * s.log() + m.log() - 2 * denominator.log(), 0.0)
        return y, log_slope, *cell, torch.stack([r, d0, d1, inside.to(x.dtype)])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, raw, ctx.bins, ctx.bound = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, raw, *output[2:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        zero = torch.zeros_like(ctx.saved_tensors[-1][0])
        g_y, g_log = (zero if g is None else g for g in gradients[:2])
        return (
            *_Gradient.apply(*ctx.saved_tensors[:2], g_y, g_log, *ctx.saved_tensors[2:], ctx.bins, ctx.bound),
            None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        return _Spline.apply(*led(info, in_dims, inputs)), (0, 0, 0, 0, 0, 0, 1)


class _Gradient(torch.autograd.Function):
    """Gradients of x and of the raw numbers, as an operation that refuses a second derivative.

    Without such an operation, a second derivative would be wrong.
    """

    @staticmethod
    def forward(x: Tensor, raw: Tensor, g_y: Tensor, g_log: Tensor, *given: Any) -> tuple[Tensor, ...]:
        *cell, small, bins, bound = given
        return _backward(g_y, g_log, _Cell(*cell), small, bins, bound)

    setup_context, backward = staticmethod(keep_nothing), staticmethod(refuse)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        *before, small, bins, bound = led(info, in_dims, inputs)
        return _Gradient.apply(*before, small.movedim(0, 1), bins, bound), (0, 0)


def _backward(g_y: Tensor, g_log: Tensor, cell: _Cell, small: Tensor, bins: int, bound: float) -> tuple[Tensor, Tensor]:
    """Gradients with respect to x and the raw numbers, from the gradients of y and of log dy/dx."""
    r, d0, d1, inside = small.unbind(0)
    _, (w, h) = _extent(cell, bins, bound)
    s, rest, q = h / w, 1 - r, r * (1 - r)
    e, turn = d0 + d1 - 2 * s, 1 - 2 * r
    numerator, denominator = (s * r + d0 * rest) * r, s + e * q
    m = d1 * r * r + 2 * s * q + d0 * rest * rest
    outside, g_y, g_log = g_y * (1 - inside), g_y * inside, g_log * inside
    over, by_m, by_d = h * g_y / (denominator * denominator), g_log / m, 2 * g_log / denominator
    g_r = over * s * m + 2 * by_m * (d1 * r + s * turn - d0 * rest) - by_d * e * turn
    g_s = over * (r * r * denominator - numerator * (1 - 2 * q)) + 2 * (g_log / s + by_m * q) - by_d * (1 - 2 * q)
    g_0 = over * q * (denominator - numerator) + by_m * rest * rest - by_d * q
    g_1 = by_m * r * r - over * numerator * q - by_d * q
    g_x = g_r / w
    g_before = torch.stack([-g_x, g_y], dim=-2)
    g_own = torch.stack([-(g_r * r + g_s * s) / w, g_y * numerator / denominator + g_s / w], dim=-2)
    scale = (2 * bound) * (1 - LEAST * bins)
    # The derivative is softplus'(t) = 1 - exp(-softplus(t)).
    slopes = -g_0 * torch.expm1(LEAST - d0), -g_1 * torch.expm1(LEAST - d1)
    return g_x + outside, _to_raw(scale * g_before, scale * g_own, slopes, cell, bins)


def _to_raw(g_before: Tensor, g_own: Tensor, g_slopes: tuple[Tensor, Tensor], cell: _Cell, bins: int) -> Tensor:
    """Gradient of the raw numbers, from the gradients of the bin shares (through the softmax) and of the raw slopes."""
    index, share = cell.index, cell.share
    *more, d, n = index.shape
    raw = share.new_empty(*more, d * numbers(bins), n)
    mean = g_before * cell.before + g_own * cell.own
    # The mask is 1 for bins before the value's own bin, else 0. This is several times faster than torch.where.
    earlier = (index[..., None, :] - torch.arange(bins, device=index.device)[:, None]).to(share.dtype).clamp_(0, 1)
    by_share = torch.sub(earlier[..., None, :, :] * g_before[..., None, :], mean[..., None, :])
    by_share.scatter_(-2, _chosen(index), (g_own - mean)[..., None, :])
    torch.mul(by_share, share, out=raw[..., : 2 * d * bins, :].unflatten(-2, (d, 2, bins)))
    inner = raw[..., 2 * d * bins :, :].zero_().unflatten(-2, (d, bins - 1))
    left = torch.where(index == 0, 0.0, g_slopes[0])
    right = torch.where(index == bins - 1, 0.0, g_slopes[1])
    inner.scatter_add_(-2, (index - 1).clamp_min(0)[..., None, :], left[..., None, :])
    inner.scatter_add_(-2, index.clamp_max(bins - 2)[..., None, :], right[..., None, :])
    return raw
