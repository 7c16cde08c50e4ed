"""A multilayer perceptron with GELU activations, as one operation.

In single precision on a CPU, a compiled C kernel computes the network if a compiler is available. Rows go through all
layers 64 at a time. The gradient computes the forward pass again instead of storing intermediate values. In all other
cases torch operations compute the network.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.networks.kernels.lanes import Sums, lanes, side_by_side
from sciinf.networks.kernels.library import as_gradient, close, each, led, library, plain, wave

# Largest layer width for the kernel, so that blocks stay in fast caches. At width 1,000 torch is 1.1 times as fast.
_WIDEST = 256
_ERROR = 1e-4  # Largest allowed relative difference between kernel and torch operations.
_POINTER, _WHOLE = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS = {
    "perceptron_forward": [*[_POINTER] * 4, _WHOLE, _WHOLE],
    "perceptron_backward": [*[_POINTER] * 6, _WHOLE, _WHOLE],
}


class Perceptron(nn.ModuleList):
    """A multilayer perceptron with GELU activations.

    Args:
        widths: Width of the input, of each hidden layer, and of the output.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        super().__init__(layers[:-1])

    def forward(self, x: Float[Tensor, "*more before"]) -> Float[Tensor, "*more after"]:
        weights = tuple(self.parameters())
        wide = max(x.shape[-1], *(len(bias) for bias in weights[1::2])) > _WIDEST
        if wide or not plain(x, *weights) or torch.is_autocast_enabled("cpu") or _loops() is None:
            return self.by_torch(x)
        return _Layers.apply(x.reshape(-1, x.shape[-1]), *weights).reshape(*x.shape[:-1], len(weights[-1]))

    def by_torch(self, x: Tensor) -> Tensor:
        """Output of the network, computed by torch operations."""
        for layer in self:
            x = layer(x)
        return x


@functools.cache
def _loops() -> ctypes.CDLL | None:
    return library("perceptron", _ARGUMENTS, _agrees)


def _agrees(loops: ctypes.CDLL) -> bool:
    """Whether the kernel agrees with torch operations in double precision, on a small network."""
    with torch.device("meta"):  # No random numbers are drawn on this device.
        made = Perceptron([3, 7, 5, 2])
    made.to_empty(device="cpu").double()
    for weight in made.parameters():
        weight.data = wave(*weight.shape).double()
    x = 3 * (wave(100, 3).double()).requires_grad_()
    out = made.by_torch(x)
    slopes = torch.autograd.grad(out.sin().sum(), (x, *made.parameters()))
    given = [one.detach().float() for one in (x, *made.parameters())]
    found = _forward(loops, *given)
    return close([found, *_backward(loops, True, found.cos(), *given)], [out, *slopes], _ERROR)


def _sizes(x: Tensor, weights: Sequence[Tensor]) -> tuple[Any, int]:
    widths = [x.shape[1], *(len(bias) for bias in weights[1::2])]
    return (_WHOLE * len(widths))(*widths), len(widths) - 1


def _places(tensors: Sequence[Tensor]) -> Any:
    return (_POINTER * len(tensors))(*(one.data_ptr() for one in tensors))


def _forward(loops: Any, *given: Tensor) -> Tensor:
    x, *weights = (one.contiguous() for one in given)
    out, places, sizes = x.new_empty(len(x), len(weights[-1])), _places(weights), _sizes(x, weights)
    given_each = [
        (x[start:].data_ptr(), places, out[start:].data_ptr(), *sizes, stop - start)
        for start, stop in lanes(len(x), len(x))
    ]
    side_by_side(loops.perceptron_forward, given_each)
    return out


def _backward(loops: Any, whole: bool, *given: Tensor) -> tuple[Tensor, ...]:
    """Gradients of x and of the weights, from the gradient of the output; without `whole`, x's gradient is empty."""
    g_out, x, *weights = (one.contiguous() for one in given)
    g_x, places, sizes = torch.empty_like(x) if whole else x.new_empty(0), _places(weights), _sizes(x, weights)
    cut = lanes(len(x), len(x))
    sums, calls = Sums(weights, len(cut)), []
    for (start, stop), own in zip(cut, sums.lanes, strict=True):
        to = g_x[start:].data_ptr() if whole else None
        to_lane = g_out[start:].data_ptr(), to, _places(own), *sizes, stop - start
        calls.append((x[start:].data_ptr(), places, *to_lane))
    side_by_side(loops.perceptron_backward, calls)
    return g_x, *sums.added()


_AXES = 2  # Number of axes of input and output without ensemble members.


class _Layers(torch.autograd.Function):
    """The network as a compiled operation of x, (rows, before), and its weights."""

    @staticmethod
    def forward(*given: Tensor) -> Tensor:
        return each(functools.partial(_forward, _loops()), _AXES, *given)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        g_x, *rest = _gradient(ctx.needs_input_grad[0], gradient, *ctx.saved_tensors)
        return g_x if ctx.needs_input_grad[0] else None, *rest

    @staticmethod
    def vmap(info: Any, axes: tuple[Any, ...], *given: Tensor) -> tuple[Any, int]:
        return _Layers.apply(*led(info, axes, given)), 0


@as_gradient
def _gradient(whole: bool, *given: Tensor) -> tuple[Tensor, ...]:
    """Gradients of x and of the weights, from the gradient of the output; a second derivative is refused."""
    return each(functools.partial(_backward, _loops(), whole), _AXES, *given)
