r"""Sums over all segmentations of a series, where each segment has one of R distributions.

A segmentation is set by its changes, which fall into cells 0 ... T; cell t lies before item t. Let p_r(x_t) be the
density of item t under distribution r, and w_r the probability of distribution r. Let q_t be the probability that one
change falls into cell t. Changes are independent and then sorted. The evidence of j changes is

    Z_j = j! sum_{c_1 <= ... <= c_j} prod_t q_t^{d_t} / d_t! prod_{i=0}^{j} sum_r w_r prod_{t=c_i}^{c_{i+1}-1} p_r(x_t),

with d_t the number of changes in cell t, and c_0 = 0, c_{j+1} = T. A recursion computes Z_j in T steps. Its variable
a_j(r) is the sum over all partial segmentations with j changes so far that are now in distribution r,

    a_j(r) <- (a_j(r) + w_r sum_{d >= 1} (q_t^d / d!) sum_s a_{j-d}(s)) p_r(x_t).

A compiled C kernel computes the recursion in single precision on a CPU, if a compiler is available. Otherwise torch
operations compute it.

References:
    | Exact and efficient Bayesian inference for multiple changepoint problems (Fearnhead, 2006),
      https://doi.org/10.1007/s11222-006-8450-8
    | Conditional random fields (Lafferty, McCallum & Pereira, 2001)
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.networks.kernels.lanes import side_by_side
from sciinf.networks.kernels.library import as_gradient, close, each, led, library, plain, wave

_ERROR = 1e-4  # Largest allowed relative difference between kernel and torch operations.
_NEVER = -1e30
_POINTER, _WHOLE = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS = {
    "segments_forward": [*[_POINTER] * 4, *[_WHOLE] * 4],
    "segments_backward": [*[_POINTER] * 6, *[_WHOLE] * 4],
}


def odds(cells: Float[Tensor, " cell"], most: int) -> Float[Tensor, "cell count"]:
    """log q_t^d / d! for d = 0 ... `most`, in float64.

    Args:
        cells: q_t, the probability of each cell for one change.
        most: Largest number of changes.
    """
    d = torch.arange(most + 1, dtype=torch.float64, device=cells.device)
    logs = torch.where(d > 0, d * cells.double()[:, None].clamp_min(1e-300).log(), 0.0) - torch.lgamma(d + 1)
    return torch.where((cells.double()[:, None] <= 0) & (d > 0), _NEVER, logs)


def evidence(
    items: Float[Tensor, "row step law"], log_weight: Float[Tensor, " law"], log_odds: Float[Tensor, "cell count"]
) -> Float[Tensor, "row count"]:
    """Log evidence log Z_j of each row, for j = 0 ... m changes.

    Args:
        items: log p_r(x_t), the log density of each item under each distribution.
        log_weight: log w_r, the log probability of each distribution.
        log_odds: Result of `odds`.
    """
    counts = torch.arange(log_odds.shape[1], device=items.device, dtype=torch.float64)
    orders = torch.lgamma(counts + 1).to(items.dtype)
    top = items.detach().amax(-1, keepdim=True)
    if plain(items, log_weight) and _loops() is not None:
        found = _Evidence.apply(items - top, log_weight, log_odds)
    else:
        found = by_torch(items - top, log_weight, log_odds.to(items))
    return found + top.sum(1) + orders


def by_torch(items: Tensor, log_weight: Tensor, log_odds: Tensor) -> Tensor:
    """log Z_j - log j!, computed by torch operations."""
    steps, counts = items.shape[1], log_odds.shape[1]
    ahead = (log_odds[0][:, None] + log_weight).expand(len(items), counts, -1) + items[:, 0, None]
    for t in range(1, steps):
        fresh = _changed(ahead.logsumexp(-1), log_odds[t], 1)
        ahead = torch.logaddexp(ahead, fresh[..., None] + log_weight) + items[:, t, None]
    return _changed(ahead.logsumexp(-1), log_odds[steps], 0)


def _changed(total: Tensor, log_odds: Tensor, least: int) -> Tensor:
    """log sum_{d >= least} q^d / d! exp(total_{j-d}) for each row and each count j, (row, count)."""
    counts, found = len(log_odds), []
    for j in range(counts):
        parts = [total[:, j - d] + log_odds[d] for d in range(least, j + 1)]
        found.append(torch.stack(parts, -1).logsumexp(-1) if parts else torch.full_like(total[:, 0], _NEVER))
    return torch.stack(found, -1)


@torch.no_grad()
def backward_messages(
    items: Float[Tensor, "row step law"], log_weight: Float[Tensor, " law"], log_odds: Float[Tensor, "cell count"]
) -> Float[Tensor, "step row count law"]:
    """Log sum over this item and all its continuations, for each step, distribution and number of future changes."""
    steps, counts = items.shape[1], log_odds.shape[1]
    follow = log_odds[steps].to(items)[None, :, None].expand(len(items), counts, items.shape[2])
    found = []
    for t in range(steps - 1, -1, -1):
        found.append(items[:, t, None] + follow)
        fresh = _changed((found[-1] + log_weight).logsumexp(-1), log_odds[t].to(items), 1)
        follow = torch.logaddexp(found[-1], fresh[..., None])
    return torch.stack(found[::-1])


@torch.no_grad()
def draw(
    messages: Float[Tensor, "step row count law"],
    log_weight: Float[Tensor, " law"],
    log_odds: Float[Tensor, "cell count"],
    changes: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Sampled cells of the changes, (draw, m), given the number of changes of each draw.

    Entries beyond the number of changes equal the number of steps.

    Args:
        messages: Result of `backward_messages`. Draw i belongs to row i modulo the number of rows.
        log_weight: log w_r, the log probability of each distribution.
        log_odds: Result of `odds`.
        changes: Number of changes of each draw, (draw,).
        generator: Source of all random numbers.
    """
    steps, rows, counts, _ = messages.shape
    of, left = torch.arange(len(changes), device=messages.device) % rows, changes
    fresh = (messages + log_weight).logsumexp(-1)  # Shape (step, row, count).
    law, number = torch.zeros_like(changes), []
    for t in range(steps):
        stays = messages[t, of, left, law] if t else fresh[t, of, left]
        ways = [stays]
        for d in range(1, counts):
            way = fresh[t, of, (left - d).clamp_min(0)] + log_odds[t, d].to(stays)
            ways.append(torch.where(left >= d, way, _NEVER))
        d = _pick(torch.stack(ways, -1), generator)
        number.append(d)
        left = left - d
        new = (d > 0).nonzero().flatten() if t else torch.arange(len(of), device=of.device)
        law = law.index_copy(0, new, _pick(messages[t, of[new], left[new]] + log_weight, generator))
    passed = torch.stack(number, -1).cumsum(-1)
    wanted = torch.arange(1, counts, device=of.device).expand(len(of), -1).contiguous()
    return torch.searchsorted(passed, wanted)


def _pick(logs: Tensor, generator: torch.Generator) -> Tensor:
    """One random index per row, with probabilities proportional to exp(logs)."""
    u = torch.rand(len(logs), 1, generator=generator, device=generator.device).to(logs)
    below = logs.softmax(-1).double().cumsum(-1)
    return (u * below[:, -1:] >= below[:, :-1]).sum(-1)


@functools.cache
def _loops() -> ctypes.CDLL | None:
    return library("segments", _ARGUMENTS, _agrees)


def _agrees(loops: ctypes.CDLL) -> bool:
    """Whether the kernels agree with torch operations in double precision, on short series."""
    items, weight = 2 * wave(3, 6, 5).double(), wave(5).double()
    log_odds = odds(torch.tensor([0.1, 0.2, 0.1, 0.0, 0.3, 0.2, 0.1], device="cpu"), 2)
    given = [one.clone().requires_grad_() for one in (items, weight)]
    right = by_torch(given[0], given[1], log_odds)
    slopes = torch.autograd.grad(right.sin().sum(), given)
    single = items.float(), weight.float(), log_odds
    found = _forward(loops, *single)
    return close([found, *_backward(loops, found.cos(), *single)], [right, *slopes], _ERROR)


def _ready(items: Tensor, log_weight: Tensor, log_odds: Tensor) -> tuple[list[Tensor], tuple[int, ...]]:
    weight = log_weight.double().exp().contiguous()
    return [items.exp().contiguous(), log_odds.exp().contiguous(), weight], (*items.shape, log_odds.shape[1])


def _forward(loops: Any, items: Tensor, log_weight: Tensor, log_odds: Tensor) -> Tensor:
    given, sizes = _ready(items, log_weight, log_odds)
    found = items.new_empty(len(items), sizes[-1])
    side_by_side(loops.segments_forward, [(*(one.data_ptr() for one in (*given, found)), *sizes)])
    return found


def _backward(loops: Any, gradient: Tensor, items: Tensor, log_weight: Tensor, log_odds: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the items and of the log weights, by the compiled kernel."""
    given, sizes = _ready(items, log_weight, log_odds)
    made = torch.empty_like(given[0]), torch.empty_like(given[2])
    kept = (*given, gradient.contiguous(), *made)  # Keep the arrays alive until the kernel has read them.
    places = [one.data_ptr() for one in kept]
    side_by_side(loops.segments_backward, [(*places, *sizes)])
    return made[0], (made[1] * given[2]).to(log_weight)


class _Evidence(torch.autograd.Function):
    """The sum of `by_torch`, computed by the compiled kernel as an operation with its own gradient."""

    @staticmethod
    def forward(items: Tensor, log_weight: Tensor, log_odds: Tensor) -> Tensor:
        return each(functools.partial(_forward, _loops()), 3, items, log_weight, log_odds)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradient(gradient, *ctx.saved_tensors), None

    @staticmethod
    def vmap(info: Any, axes: tuple[int | None, ...], *given: Tensor) -> tuple[Any, int]:
        return _Evidence.apply(*led(info, axes, given)), 0


@as_gradient
def _gradient(slope: Tensor, items: Tensor, log_weight: Tensor, log_odds: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the items and of the log weights; a second derivative is refused."""
    return each(functools.partial(_backward, _loops()), 2, slope, items, log_weight, log_odds)
