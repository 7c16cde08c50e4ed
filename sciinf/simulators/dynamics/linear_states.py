r"""Linear Gaussian state-space models, defined by the matrices of start, step and observation.

    z(t_0) = m_0 + N(0, P_0),    z(t) = A z(s) + b + N(0, Q),    x = H z(t) + d + N(0, R).

A model gives the matrices. Simulation and densities follow from the matrices, as do the exact likelihood and the
posterior of the path in `simulators.samplers.kalman`. So none of these can contradict another. The first axis of each
matrix is that of the rows, and has length 1 if all rows share the matrix. Covariances may be singular, for example if
a part of the state moves without noise.

Reference:
    | Time series analysis by state space methods (Durbin, Koopman, 2012),
      https://doi.org/10.1093/acprof:oso/9780199641178.001.0001
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.simulators.dynamics.state_space import State, StateSpace, Theta, Time


@dataclass(frozen=True)
class Affine:
    """Linear Gaussian map from a state z to y = matrix @ z + offset + N(0, covariance).

    Args:
        matrix: Matrix of the map, (row or 1, M, S).
        offset: Constant part of y, (row or 1, M); the number 0 for no offset.
        covariance: Covariance of the noise, (row or 1, M, M).
    """

    matrix: Tensor
    offset: Tensor | float
    covariance: Tensor


class LinearStates(StateSpace, ABC):
    """A state-space model with linear dynamics, linear observations and Gaussian noise."""

    @abstractmethod
    def start(self, theta: Theta) -> tuple[Tensor, Tensor]:
        """Mean (row or 1, S) and covariance (row or 1, S, S) of the state at the initial time."""

    @abstractmethod
    def step(self, theta: Theta, start: Time, stop: Time) -> Affine:
        """Linear Gaussian map from the state at `start` to the state at `stop`."""

    @abstractmethod
    def view(self, theta: Theta) -> Mapping[str, Affine]:
        """Observation model: name of an observable -> linear Gaussian map from the state to its M numbers.

        The M numbers are in the order of the observable's flattened event.
        """

    @final
    def initial(self, theta: Theta, rows: int, *, generator: torch.Generator) -> State:
        mean, covariance = self.start(theta)
        return _noisy(mean.expand(rows, -1), covariance, generator, "P_0, of the start,")

    @final
    def advance(self, theta: Theta, state: State, start: Time, stop: Time, *, generator: torch.Generator) -> State:
        law = self.step(theta, start, stop)
        return _noisy(_mean(law, state), law.covariance, generator, "Q, of a step,")

    @final
    def observe(self, theta: Theta, state: State, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        views = self.view(theta)
        return {n: _noisy(_mean(v, state), v.covariance, generator, f"R, of {n!r},") for n, v in views.items()}

    @final
    def log_observe(self, theta: Theta, state: Tensor, x: Mapping[str, Tensor]) -> Mapping[str, Tensor]:  # type: ignore[override]
        found = {}
        for name, view in self.view(theta).items():
            left = x[name].reshape(len(state), -1) - _mean(view, state)
            if view.covariance.shape[-1] == 1 or not bool(_off_diagonal(view.covariance).any()):
                variance = view.covariance.diagonal(dim1=-2, dim2=-1)
                each = -0.5 * (left.square() / variance + (2 * math.pi * variance).log())
                found[name] = each.reshape(x[name].shape)
            else:
                found[name] = _log_normal(left, view.covariance)
        return found

    @final
    def log_advance(self, theta: Theta, state: Tensor, later: Tensor, start: Time, stop: Time) -> Tensor:  # type: ignore[override]
        law = self.step(theta, start, stop)
        return _log_normal(later - _mean(law, state), law.covariance)


def _mean(law: Affine, state: Tensor) -> Tensor:
    return (law.matrix.to(state) @ state[..., None])[..., 0] + law.offset


def _noisy(mean: Tensor, covariance: Tensor, generator: torch.Generator, what: str) -> Tensor:
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + (root(covariance, what).to(mean) @ noise[..., None])[..., 0]


def root(covariance: Float[Tensor, "row m m"], what: str) -> Float[Tensor, "row m m"]:
    """Square root L of a covariance, with L L^T = covariance. The covariance may be singular.

    Args:
        covariance: Covariance matrices, one for each row.
        what: Name of the matrices in error messages.

    Raises:
        ValueError: If a matrix is not finite, not symmetric, or has a negative variance in some direction.
    """
    check_covariance(covariance, what)
    if covariance.shape[-1] == 1:
        return covariance.sqrt()
    values, vectors = torch.linalg.eigh(covariance)
    if bool((values < -1e-6 * values.abs().amax(-1, keepdim=True)).any()):
        raise ValueError(f"the covariance {what} has a direction of negative variance; check how it is made")
    return vectors * values.clamp_min(0).sqrt()[..., None, :]


def check_covariance(covariance: Float[Tensor, "row m m"], what: str) -> None:
    """Raise an error if a matrix cannot be a covariance.

    Args:
        covariance: Covariance matrices, one for each row.
        what: Name of the matrices in error messages.

    Raises:
        ValueError: If a number is not finite, a variance is negative, or a matrix is not symmetric.
    """
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    if not bool(covariance.isfinite().all()) or bool((variance < 0).any()):
        raise ValueError(
            f"the covariance {what} has a variance of {float(variance.min()):.3g}; variances must be at least 0, and "
            "finite: check the model's matrices and the prior's bounds"
        )
    if not torch.allclose(covariance, covariance.mT, rtol=1e-4, atol=1e-12):
        raise ValueError(f"the covariance {what} is not symmetric; check how it is made")


def _off_diagonal(matrix: Tensor) -> Tensor:
    return matrix - torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1))


def _log_normal(left: Tensor, covariance: Tensor) -> Tensor:
    """Log density of residuals `left` (row, M) under N(0, covariance), (row,)."""
    chol = torch.linalg.cholesky(covariance.to(left)).expand(len(left), -1, -1)
    z = torch.linalg.solve_triangular(chol, left[..., None], upper=False)[..., 0]
    half = chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * z.square().sum(-1) - half - 0.5 * left.shape[-1] * math.log(2 * math.pi)
