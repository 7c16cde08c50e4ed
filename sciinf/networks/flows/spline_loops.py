"""The splines of `rational_quadratic`, computed by a compiled C kernel if one is available.

In single precision on a CPU, the kernel computes a spline and its gradient point by point. For 250 points this takes
.06 ms; torch operations take 1.7 ms. In all other cases torch operations compute the splines: on GPUs, in double
precision, inside torch.compile, or without a C compiler.
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
_ERROR = 1e-3  # Largest allowed relative difference between kernel and torch operations.


def spline(x: Numbers, raw: Raw, bins: int, bound: float) -> tuple[Numbers, Numbers]:
    """Values y and log slopes log dy/dx, with the arguments of `rational_quadratic.spline`."""
    raw = raw.to(x.dtype)
    if plain(x, raw) and _loops() is not None:
        return _LoopedSpline.apply(x, raw, bins, bound)
    return rational_quadratic.spline(x, raw, bins, bound)


def inverse(y: Numbers, raw: Raw, bins: int, bound: float) -> Numbers:
    """Points x at which the splines have the values y, with the arguments of `rational_quadratic.inverse`."""
    raw = raw.to(y.dtype)
    if plain(y, raw) and _loops() is not None:
        return _Inverse.apply(y, raw, bins, bound)
    return rational_quadratic.inverse(y, raw, bins, bound)


@functools.cache
def _loops() -> ctypes.CDLL | None:
    sizes = [*[ctypes.c_int64] * 3, ctypes.c_int, ctypes.c_float, ctypes.c_float]
    return library("splines", {name: [*[ctypes.c_void_p] * count, *sizes] for name, count in _ARRAYS.items()}, _agrees)


def _agrees(loops: ctypes.CDLL) -> bool:
    """Whether the kernel agrees with torch operations, at points inside and outside [-B, B]."""
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
    """Call a function of the compiled library and return the arrays that it writes.

    Args:
        loops: The compiled library.
        name: Name of the function.
        given: Input arrays, (..., rows, n); the first one has d rows, (..., d, n).
        like: Arrays with the shapes of the outputs.
        bins: K, the number of bins.
        bound: B. The splines are the identity outside [-B, B].

    Raises:
        MemoryError: If there is no memory for the shares of the bins.
    """
    given, made = tuple(one.contiguous() for one in given), tuple(one.new_empty(one.shape) for one in like)
    *more, d, n = given[0].shape
    places = [one.data_ptr() for one in (*given, *made)]
    side_by_side(getattr(loops, name), [(*places, math.prod(more), d, n, bins, bound, EDGE)])
    return made


class _LoopedSpline(torch.autograd.Function):
    """`spline` as a compiled operation, whose gradient finds the bins again because storing them would be slower."""

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
    """Gradients of x and raw, from the gradients of y and log dy/dx."""
    return _called(_loops(), "spline_backward", (x, raw, g_y, g_log), (x, raw), bins, bound)


class _Inverse(torch.autograd.Function):
    """`inverse` as a compiled operation, whose gradient is the gradient of the spline divided by its slope."""

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
