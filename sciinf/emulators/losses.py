r"""Relative distances of predicted fields from true ones.

With the norm |.| over channels (each in units of its sd) and points of a frame, the distance of u from v is

    |u - v| / |u|,    |v|_s^2 = sum_k (1 + |k|^2)^s |vhat(k)|^2 for `Sobolev`, s = 0 for `RelativeL2`.

k is in waves per box. With order 1, sharp fronts count as much as broad shapes.

References:
    | Fourier Neural Operator for Parametric Partial Differential Equations (Li et al., 2021),
      https://arxiv.org/abs/2010.08895
    | Learning Dissipative Dynamics in Chaotic Systems (Li et al., 2022), https://arxiv.org/abs/2106.06898
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.component import Component

_LEAST = 1e-6  # Least squared norm of a frame, as a share of the mean over all frames.


class FieldLoss(Component, ABC):
    """A relative distance of fields."""

    @abstractmethod
    def __call__(
        self, found: Float[Tensor, "batch ..."], true: Float[Tensor, "batch ..."], *, directions: int
    ) -> Tensor:
        """Distance of each row, (batch,), the mean over any axis between batch and channels.

        Args:
            found: Predictions (batch, [frame,] channel, *space).
            true: True fields.
            directions: Number of axes of space.
        """


class RelativeL2(FieldLoss):
    """The relative distance in the L2 norm."""

    def __call__(self, found: Tensor, true: Tensor, *, directions: int) -> Tensor:
        axes = list(range(-1 - directions, 0))
        off, whole = (found - true).square().sum(axes), true.square().sum(axes)
        return _relative(off, whole)


class Sobolev(FieldLoss):
    """The relative distance in a Sobolev norm of periodic fields.

    Args:
        order: s, any number.

    Raises:
        ValueError: If it is not finite.
    """

    def __init__(self, order: float = 1.0) -> None:
        if not math.isfinite(order):
            raise ValueError(f"a Sobolev norm has an order that is finite, got {order}")
        self.order = order

    def __call__(self, found: Tensor, true: Tensor, *, directions: int) -> Tensor:
        axes = list(range(-1 - directions, 0))
        off, whole = (squared_modes(v, directions, self.order).sum(axes) for v in (found - true, true))
        return _relative(off, whole)


def squared_modes(field: Tensor, directions: int, order: float) -> Tensor:
    """(1 + |k|^2)^s |vhat(k)|^2 of real fields (..., *space). For s = 0 their sum is the mean square."""
    space = field.shape[-directions:]
    modes = torch.fft.rfftn(field, dim=tuple(range(-directions, 0)), norm="forward").abs().square()
    squared = torch.zeros((), dtype=field.dtype, device=field.device)
    for axis, n in enumerate(space):
        k = torch.fft.rfftfreq(n, 1 / n) if axis == directions - 1 else torch.fft.fftfreq(n, 1 / n)
        shape = [-1 if j == axis else 1 for j in range(directions)]
        squared = squared + k.to(field).square().reshape(shape)
    twice = torch.full((modes.shape[-1],), 2.0, dtype=field.dtype, device=field.device)
    twice[0] = 1.0
    if space[-1] % 2 == 0:
        twice[-1] = 1.0
    return modes * twice * (1 + squared) ** order


def _relative(off: Tensor, whole: Tensor) -> Float[Tensor, " batch"]:
    """Root of the ratio of squared norms, as the mean over frames.

    A frame whose norm is a thousandth of the others' or less counts as if it were a thousandth.
    """
    off, whole = off.reshape(len(off), -1), whole.reshape(len(whole), -1)
    least = (_LEAST * whole.mean(1, keepdim=True)).clamp_min(torch.finfo(whole.dtype).tiny)
    return (off / torch.maximum(whole, least)).sqrt().mean(1)
