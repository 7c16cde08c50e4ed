"""The splines of `rational_quadratic`, by loops that are compiled where that can be done.

In single precision on a CPU, a spline and its gradient are found point by point (`loops`): of 250 points in
.06 ms, where torch's operations take 1.7. Everywhere else, on GPUs, in double precision, inside torch.compile, where
there is no C compiler, it is torch's operations.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

import torch
from torch import Tensor

from sciinf.networks.flows import rational_quadratic
from sciinf.networks.flows.rational_quadratic import EDGE, Numbers, Raw, numbers
from sciinf.networks.kernels.lanes import side_by_side
from sciinf.networks.kernels.library import as_gradient, close, led, library, plain, wave

_ARRAYS = {"spline_forward": 4, "spline_backward": 6, "spline_inverse": 3}
_ERROR = 1e-3  # of compiled loops, beside torch's operations: both round


def spline(x: Numbers, raw: Raw, bins: int, bound: float) -> tuple[Numbers, Numbers]:
    """y and log dy/dx, as `rational_quadratic.spline`."""
    raw = raw.to(x.dtype)
    if plain(x, raw) and _loops() is not None:
        return _LoopedSpline.apply(x, raw, bins, bound)
    return rational_quadratic.spline(x, raw, bins, bound)


def inverse(y: Numbers, raw: Raw, bins: int, bound: float) -> Numbers:
    """x, as `rational_quadratic.inverse`."""
    raw = raw.to(y.dtype)
    if plain(y, raw) and _loops() is not None:
        return _Inverse.apply(y, raw, bins, bound)
    return rational_quadratic.inverse(y, raw, bins, bound)


@functools.cache
def _loops() -> ctypes.CDLL | None:
    sizes = [*[ctypes.c_int64] * 3, ctypes.c_int, ctypes.c_float, ctypes.c_float]
    return library("splines", {name: [*[ctypes.c_void_p] * count, *sizes] for name, count in _ARRAYS.items()}, _agrees)


def _agrees(loops: ctypes.CDLL) -> bool:
    """Whether loops do as torch's operations do, on points inside and outside."""
    bins, bound = 4, 5.0
    x, raw = 6 * wave(2, 75), 2 * wave(2 * numbers(bins), 75)
    one, given = torch.ones_like(x), (x.clone().requires_grad_(), raw.clone().requires_grad_())
    theirs = rational_quadratic.spline(*given, bins, bound)
    slopes = torch.autograd.grad(theirs, given, (one, one))
    found = _called(loops, "spline_forward", (x, raw), (x, x), bins, bound)
    (back,) = _called(loops, "spline_inverse", (found[0], raw), (x,), bins, bound)
    again = rational_quadratic.spline(back, raw, bins, bound)[0]
    ours = *found, *_called(loops, "spline_backward", (x, raw, one, one), (x, raw), bins, bound), again
    return close(ours, (*theirs, *slopes, found[0]), _ERROR)


def _called(
    loops: ctypes.CDLL | None, name: str, given: tuple[Tensor, ...], like: tuple[Tensor, ...], bins: int, bound: float
) -> tuple[Tensor, ...]:
    """Call a loop.

    Args:
        loops: All of them.
        name: Which.
        given: Arrays (..., rows, n), the first of them (..., d, n).
        like: Arrays of the shapes that it writes.
        bins: K.
        bound: B.

    Raises:
        MemoryError: If there is no memory for the shares of the bins.
    """
    given, made = tuple(one.contiguous() for one in given), tuple(one.new_empty(one.shape) for one in like)
    *more, d, n = given[0].shape
    places = [one.data_ptr() for one in (*given, *made)]
    side_by_side(getattr(loops, name), [(*places, math.prod(more), d, n, bins, bound, EDGE)])
    return made


class _LoopedSpline(torch.autograd.Function):
    """`spline`. Its gradient finds the bins anew, which is faster than to keep them."""

    @staticmethod
    def forward(x: Tensor, raw: Tensor, bins: int, bound: float) -> tuple[Tensor, ...]:
        return _called(_loops(), "spline_forward", (x, raw), (x, x), bins, bound)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, raw, ctx.bins, ctx.bound = inputs
        ctx.save_for_backward(x, raw)

    @staticmethod
    def backward(ctx: Any, g_y: Tensor, g_log: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradient(*ctx.saved_tensors, g_y, g_log, ctx.bins, ctx.bound), None, None

    @staticmethod
    def vmap(info: Any, axes: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        return _LoopedSpline.apply(*led(info, axes, inputs)), (0, 0)


@as_gradient
def _gradient(x: Tensor, raw: Tensor, g_y: Tensor, g_log: Tensor, bins: int, bound: float) -> tuple[Tensor, ...]:
    """Gradients of x and raw from those of y and log dy/dx."""
    return _called(_loops(), "spline_backward", (x, raw, g_y, g_log), (x, raw), bins, bound)


class _Inverse(torch.autograd.Function):
    """`inverse`, whose gradient is that of the spline over its slope."""

    @staticmethod
    def forward(y: Tensor, raw: Tensor, bins: int, bound: float) -> Tensor:
        return _called(_loops(), "spline_inverse", (y, raw), (y,), bins, bound)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, raw, ctx.bins, ctx.bound = inputs
        ctx.save_for_backward(output, raw)

    @staticmethod
    def backward(ctx: Any, g_x: Tensor) -> tuple[Tensor | None, ...]:
        x, raw = ctx.saved_tensors
        log_slope = _LoopedSpline.apply(x, raw, ctx.bins, ctx.bound)[1]
        g_y = g_x * (-log_slope).exp()
        _, g_raw = _gradient(x, raw, -g_y, torch.zeros_like(g_y), ctx.bins, ctx.bound)
        return g_y, g_raw, None, None

    @staticmethod
    def vmap(info: Any, axes: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        return _Inverse.apply(*led(info, axes, inputs)), 0
