r"""The best linear guess of z from x, N(b + A x, S), by least squares over the training rows.

Its residual covariance S is the same for every observation. Estimators that learn only what it leaves are exact from
the start if parameters and data are jointly Gaussian. They see a narrow posterior at its own scale wherever the data
determine the parameters roughly linearly.

Shapes: z (batch, D), x (batch, F) the standardised numbers of all observables, none missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core import Observable
from sciinf.networks.flows.conditional import single_precision
from sciinf.training.estimators._gaussian import ROWS, Spread, moments

# Largest number of data. For more, for masked data and for few rows, the guess has only mean and covariance of z.
MOST = 64


class LinearGuess(nn.Module):
    """The linear guess N(b + A x, S), which is N(0, I) until `fit`.

    Args:
        dim: Number D of parameters z.
        observables: Observables of the simulator.
    """

    slope: Tensor
    offset: Tensor
    axes: Tensor
    variance: Tensor

    def __init__(self, dim: int, observables: Mapping[str, Observable]) -> None:
        super().__init__()
        size = sum(math.prod(spec.shape) for spec in observables.values())
        masked = any(f"{name}_mask" in observables for name in observables)
        self.numbers = 0 if masked or size > MOST else size
        self.register_buffer("slope", torch.zeros(dim, self.numbers))
        self.register_buffer("offset", torch.zeros(dim))
        self.register_buffer("axes", torch.eye(dim))
        self.register_buffer("variance", torch.ones(dim))

    def fit(self, rows: Callable[[], Iterator[tuple[Tensor, Mapping[str, Tensor]]]]) -> None:
        """Set A, b and S by one pass over rows of (z, standardised x).

        S is never below a millionth of the variance of z in any direction.
        """
        dim = len(self.offset)
        both = (torch.cat([z, self.flat(values)], dim=-1) for z, values in rows())
        count, mean, covariance = moments(both, dim + self.numbers)
        if count < ROWS * dim:
            covariance = covariance.diagonal().diag()
        own, cross, data = covariance[:dim, :dim], covariance[:dim, dim:], covariance[dim:, dim:]
        slope, left = torch.zeros_like(cross), own
        if self.numbers and count >= ROWS * self.numbers:
            slope = cross @ torch.linalg.pinv(data, rtol=1e-10, hermitian=True)
            left = (own - slope @ cross.mT) * (count / (count - self.numbers - 1))
        variance, axes = torch.linalg.eigh(0.5 * (left + left.mT))
        least = 1e-6 * own.diagonal().mean().clamp_min(1e-12)
        self.slope.copy_(slope)
        self.offset.copy_(mean[:dim] - slope @ mean[dim:])
        self.axes.copy_(axes)
        self.variance.copy_(variance.clamp_min(float(least)))

    def flat(self, values: Mapping[str, Tensor]) -> Float[Tensor, "batch number"]:
        """The numbers that the guess uses: all of them, or none."""
        first = next(iter(values.values()))
        if not self.numbers:
            return first.new_zeros(len(first), 0)
        return torch.cat([value.reshape(len(value), -1) for value in values.values()], dim=-1)

    def forward(self, values: Mapping[str, Tensor]) -> Float[Tensor, "batch dim"]:
        """The guessed mean b + A x."""
        flat = self.flat(values)
        with single_precision(flat):
            return self.offset + flat.to(self.slope.dtype) @ self.slope.mT

    def spread(self) -> Spread:
        """The residual covariance S."""
        return Spread(self.axes, self.variance)
