r"""The map of the spline coupling flow (`spline`) and its inverse, each as one operation that includes the networks.

In single precision on a CPU, a compiled C kernel computes the map if a compiler is available. The kernel takes 64
points at a time through all layers, so that intermediate values stay in the processor's fast caches. It has its own
gradient, which computes each network again instead of storing intermediate values. In all other cases torch operations
compute the map (`gated`, `spline_loops`).

Why not torch operations alone: a training step of 250 rows needs some 3,000 calls of torch. These calls take as long as
its matrix products. In addition, torch multiplies matrices of this small size at only a third of the possible speed.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.networks.flows import spline_loops
from sciinf.networks.flows.conditional_gaussian import undrawn
from sciinf.networks.flows.gated import gated
from sciinf.networks.flows.rational_quadratic import EDGE, numbers
from sciinf.networks.kernels.lanes import Sums, lanes, side_by_side
from sciinf.networks.kernels.library import as_gradient, close, each, led, library, plain, wave

_ERROR = 1e-3  # Largest allowed relative difference between kernel and torch operations.
_ARRAYS = {"couplings_forward": 7, "couplings_inverse": 5, "couplings_backward": 10}
# Number of fields of `Weights` that are one tensor; number of tensors of a conditional Gaussian.
_SINGLE, _GAUSSIAN = 6, 6
_AXES = 3  # Number of axes of a value without ensemble members.


class Weights(NamedTuple):
    """Weights of a flow with K steps of B blocks of width H each, for D dimensions and C features.

    Attributes:
        given: Weights from the context to all layers, (K (1 + B) H, C).
        given_bias: Biases of these maps, (K (1 + B) H).
        within: Weights of the residual blocks, (K, B, 2, H, H).
        within_bias: Biases of the residual blocks, (K, B, 2, H).
        maps: Linear maps (K, D, D), from the dimension order of a step to that of the next step. In the order of a
            step, the kept dimensions come first, then the moved ones.
        shifts: Offsets added after the linear maps, (K, D).
        gaussian: Weights and biases of the conditional Gaussian before the first step (`conditional_gaussian`): from
            the context to its outputs, into its network, and out of its network. Empty if there is no Gaussian.
        first: Weights from the kept dimensions to the hidden layer, K tensors of shape (H, kept).
        last: Weights from the hidden layer to the raw spline parameters, K tensors of shape (numbers, H).
        last_bias: Biases of the raw spline parameters, K tensors of shape (numbers).
    """

    given: Tensor
    given_bias: Tensor
    within: Tensor
    within_bias: Tensor
    maps: Tensor
    shifts: Tensor
    gaussian: tuple[Tensor, ...]
    first: tuple[Tensor, ...]
    last: tuple[Tensor, ...]
    last_bias: tuple[Tensor, ...]

    def flat(self) -> tuple[Tensor, ...]:
        """All weight tensors, as one flat tuple."""
        single = self.given, self.given_bias, self.within, self.within_bias, self.maps, self.shifts
        return *single, *self.gaussian, *self.first, *self.last, *self.last_bias


class Shape(NamedTuple):
    """Shape of the splines: the number of bins, and the bound B outside which a spline is the identity."""

    bins: int
    bound: float


def served(value: Tensor, context: Tensor, weights: Weights) -> bool:
    """Whether the compiled kernel can compute the flow for these tensors."""
    return plain(value, context, *weights.flat()) and not torch.is_autocast_enabled("cpu") and _loops() is not None


def noise_of(
    z: Float[Tensor, "dim n batch"], context: Float[Tensor, "batch feature"], weights: Weights, shape: Shape
) -> tuple[Float[Tensor, "dim n batch"], Float[Tensor, "n batch"]]:
    """Noise, and log |det| of Gaussian and splines, by the compiled kernel.

    `served` must be true for these arguments.
    """
    noise, log_det, _ = _Couplings.apply(shape, z, context, *weights.flat())
    return noise, log_det


def z_of(
    noise: Float[Tensor, "dim n batch"], context: Float[Tensor, "batch feature"], weights: Weights, shape: Shape
) -> Float[Tensor, "dim n batch"]:
    """Data z for given noise, by the compiled kernel, without a gradient; the inverse of `noise_of`.

    The `maps` and `shifts` in `weights` must be those of the inverse linear maps. `served` must be true.
    """
    return _CouplingInverse.apply(shape, noise, context, *weights.flat())


def by_torch(value: Tensor, context: Tensor, weights: Weights, shape: Shape) -> tuple[Tensor, Tensor]:
    """Noise, and log |det| of the splines alone, by torch operations.

    Args:
        value: Input of the first step, (D, n, batch), after the Gaussian and in the dimension order of the first step.
        context: Features, (batch, C).
        weights: Weights of the flow.
        shape: Bins and bound of the splines.
    """
    log_det = value.new_zeros(value.shape[1:])
    steps = zip(_networks(context, weights), weights.maps, weights.shifts[..., None], strict=True)
    for (kept, network), matrix, shift in steps:
        parts = value.split([kept, len(value) - kept])
        raw = network(parts[0])
        moved, change = spline_loops.spline(parts[1].flatten(1), raw, *shape)
        log_det = log_det + change.sum(0).view(value.shape[1:])
        with torch.autocast(value.device.type, enabled=False):  # Half precision would round z itself.
            value = torch.addmm(shift, matrix, torch.cat([parts[0].flatten(1), moved])).view_as(value)
    return value, log_det


def inverse_by_torch(value: Tensor, context: Tensor, weights: Weights, shape: Shape) -> Tensor:
    """Input of the first step for given noise, by torch operations; the inverse of `by_torch`."""
    steps = list(zip(_networks(context, weights), weights.maps, weights.shifts[..., None], strict=True))
    for (kept, network), matrix, shift in reversed(steps):
        value = torch.addmm(shift, matrix, value.flatten(1)).view_as(value)
        parts = value.split([kept, len(value) - kept])
        moved = spline_loops.inverse(parts[1].flatten(1), network(parts[0]), *shape)
        value = torch.cat([parts[0].flatten(1), moved]).view_as(value)
    return value


def _networks(context: Tensor, weights: Weights) -> list[tuple[int, Callable[[Tensor], Tensor]]]:
    """For each step, the number of kept dimensions and the network from these (d, n, batch) to raw spline parameters.

    One matrix product computes the context's contribution to all layers of a step.
    """
    count = len(weights.maps)
    given = weights.given.chunk(count), weights.given_bias[:, None].chunk(count)
    networks = []
    for k in range(count):
        within, biases = weights.within[k].flatten(0, 1).unbind(0), weights.within_bias[k].flatten(0, 1)
        w = [given[0][k], weights.first[k], *within, weights.last[k]]
        b = [given[1][k], *biases[..., None].unbind(0), weights.last_bias[k][:, None]]
        network = functools.partial(gated, context=context.T, weights=w, biases=b)
        networks.append((weights.first[k].shape[-1], network))
    return networks


@functools.cache
def _loops() -> ctypes.CDLL | None:
    types = {name: [*[ctypes.c_void_p] * count, ctypes.c_float, ctypes.c_float] for name, count in _ARRAYS.items()}
    return library("couplings", types, _agrees)


def _agrees(loops: ctypes.CDLL) -> bool:
    """Whether the kernels agree with torch operations in double precision, on a small flow."""
    shape, hidden, (dim, features), moved = Shape(4, 3.0), 7, (3, 2), (2, 1, 2)
    gaussian, steps, rows = undrawn(dim, features, hidden), len(moved), 2 * len(moved) * hidden
    within = steps, 1, 2, hidden
    sizes: list[tuple[int, ...]] = [(rows, features), (rows,), (*within, hidden), within, (3, dim, dim), (3, dim)]
    sizes += [tuple(weight.shape) for weight in gaussian.parameters()]
    sizes += [(hidden, dim - m) for m in moved] + [(m * numbers(4), hidden) for m in moved]
    sizes += [(m * numbers(4),) for m in moved]
    given = [4 * wave(dim, 2, 40), wave(40, features), *(0.4 * wave(*size) for size in sizes)]
    z, context, *leaves = (one.double().requires_grad_() for one in given)
    for weight, value in zip(gaussian.parameters(), leaves[_SINGLE:], strict=False):
        weight.data = value
    leaves[_SINGLE : _SINGLE + _GAUSSIAN] = gaussian.parameters()
    rest = [tuple(leaves[k : k + steps]) for k in range(_SINGLE + _GAUSSIAN, len(leaves), steps)]
    fields: list[Any] = [*leaves[:_SINGLE], tuple(gaussian.parameters()), *rest]
    weights = Weights(*fields)
    value, scale = gaussian(z, context)
    noise, log_det = by_torch(torch.cat([value[1::2], value[::2]]), context, weights, shape)
    log_det = log_det + scale
    slopes = torch.autograd.grad((noise.sin().sum(), log_det.sum()), (z, context, *leaves))
    back = inverse_by_torch(z, context, weights, shape)
    back = gaussian.inverse(torch.stack([back[1], back[0], back[2]]), context)
    *found, entered = _forward(loops, shape, *given)
    gradients = _backward(loops, shape, found[0].cos(), torch.ones_like(found[1]), entered, *given)
    ours = *found, _back(loops, shape, *given), *gradients
    return close(ours, (noise, log_det, back, *slopes), _ERROR)


def _sizes(shape: Shape, value: Tensor, context: Tensor, within: Tensor) -> list[ctypes.Array[Any]]:
    """Array of the ten sizes that the kernel needs, for each lane."""
    dim, draws, batch = value.shape
    steps, layers, _, hidden, _ = within.shape
    whole = dim, context.shape[1], hidden, shape.bins, steps, layers, batch, draws
    return [(ctypes.c_int64 * 10)(*whole, *lane) for lane in lanes(batch, draws * batch)]


def _places(weights: list[Tensor]) -> ctypes.Array[Any]:
    """Addresses of the weights; null pointers stand for the Gaussian's weights if there is no Gaussian."""
    places: list[int | None] = [one.data_ptr() for one in weights]
    if len(weights) == _SINGLE + 3 * len(weights[4]):
        places[_SINGLE:_SINGLE] = [None] * _GAUSSIAN
    return (ctypes.c_void_p * len(places))(*places)


def _forward(loops: Any, shape: Shape, *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, log |det|, and the inputs of the linear maps, (K, D, n, batch), by the compiled kernel."""
    value, context, *weights = (one.contiguous() for one in given)
    noise, log_det = torch.empty_like(value), value.new_empty(value.shape[1:])
    entered = value.new_empty(len(weights[4]), *value.shape)
    made = noise, log_det, entered
    places = value.data_ptr(), context.data_ptr(), _places(weights), *(one.data_ptr() for one in made)
    sizes = _sizes(shape, value, context, weights[2])
    side_by_side(loops.couplings_forward, [(*places, size, shape.bound, EDGE) for size in sizes])
    return made


def _back(loops: Any, shape: Shape, *given: Tensor) -> Tensor:
    noise, context, *weights = (one.contiguous() for one in given)
    value, sizes = torch.empty_like(noise), _sizes(shape, noise, context, weights[2])
    places = noise.data_ptr(), context.data_ptr(), _places(weights), value.data_ptr()
    side_by_side(loops.couplings_inverse, [(*places, size, shape.bound, EDGE) for size in sizes])
    return value


def _backward(loops: Any, shape: Shape, *given: Tensor) -> tuple[Tensor, ...]:
    """Gradients of value, context and weights, by the compiled kernel.

    Args:
        loops: The compiled library.
        shape: Bins and bound of the splines.
        given: Gradients of noise and log |det|, then the inputs of the linear maps, value, context and weights.
    """
    *slopes, entered, value, context = (one.contiguous() for one in given[:5])
    weights = [one.contiguous() for one in given[5:]]
    own, sizes = (torch.empty_like(value), torch.empty_like(context)), _sizes(shape, value, context, weights[2])
    sums, beside = Sums(weights, len(sizes)), [one.data_ptr() for one in (entered, *slopes, *own)]
    places = value.data_ptr(), context.data_ptr(), _places(weights), *beside
    each_lane = zip(map(_places, sums.lanes), sizes, strict=True)
    side_by_side(loops.couplings_backward, [(*places, *lane, shape.bound, EDGE) for lane in each_lane])
    return *own, *sums.added()


class _Couplings(torch.autograd.Function):
    """`noise_of` as an operation with its own gradient.

    The inputs of the linear maps, which the gradient needs, are returned too, because torch.func requires it.
    """

    @staticmethod
    def forward(shape: Shape, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return each(functools.partial(_forward, _loops(), shape), _AXES, *inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.shape = inputs[0]
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(output[2], *inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_gradient(ctx.shape, *gradients[:2], *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, axes: tuple[Any, ...], shape: Shape, *inputs: Tensor) -> tuple[Any, Any]:
        return _Couplings.apply(shape, *led(info, axes[1:], inputs)), (0, 0, 0)


@as_gradient
def _gradient(shape: Shape, *given: Tensor) -> tuple[Tensor, ...]:
    """Gradients of all inputs, from the gradients of noise and log |det|."""
    return each(functools.partial(_backward, _loops(), shape), _AXES, *given)


class _CouplingInverse(torch.autograd.Function):
    """`z_of` as an operation without a gradient."""

    @staticmethod
    def forward(shape: Shape, *inputs: Tensor) -> Tensor:
        return each(functools.partial(_back, _loops(), shape), _AXES, *inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, axes: tuple[Any, ...], shape: Shape, *inputs: Tensor) -> tuple[Any, Any]:
        return _CouplingInverse.apply(shape, *led(info, axes[1:], inputs)), 0
