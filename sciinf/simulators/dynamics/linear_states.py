r"""Linear Gaussian state-space models: three sets of matrices say everything.

    z(t_0) = m_0 + N(0, P_0),    z(t) = A z(s) + b + N(0, Q),    x = H z(t) + d + N(0, R).

A model gives the matrices; simulating, densities and, in `simulators.samplers.kalman`, the exact likelihood and the law
of the path follow from them, so that none can contradict another. Matrices have a first axis of rows, which may be 1
long where all rows have the same. Covariances may be singular, as where a part of the state moves without noise.

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
    """y = matrix @ z + offset + N(0, covariance).

    Args:
        matrix: (row or 1, M, S).
        offset: (row or 1, M); 0 for none.
        covariance: (row or 1, M, M).
    """

    matrix: Tensor
    offset: Tensor | float
    covariance: Tensor


class LinearStates(StateSpace, ABC):
    """A state that moves linearly, seen linearly, with Gaussian noise."""

    @abstractmethod
    def start(self, theta: Theta) -> tuple[Tensor, Tensor]:
        """Mean (row or 1, S) and covariance (row or 1, S, S) of the state at the beginning."""

    @abstractmethod
    def step(self, theta: Theta, start: Time, stop: Time) -> Affine:
        """The state at `stop` from that at `start`."""

    @abstractmethod
    def view(self, theta: Theta) -> Mapping[str, Affine]:
        """What is seen of a state: name of the observable -> its M numbers, in the order of its event."""

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
    """L with L L^T = covariance, which may be singular.

    Args:
        covariance: The matrices.
        what: Which they are, for the message.

    Raises:
        ValueError: If one is no covariance: not finite, not symmetric, or with a negative variance.
    """
    check_covariance(covariance, what)
    if covariance.shape[-1] == 1:
        return covariance.sqrt()
    values, vectors = torch.linalg.eigh(covariance)
    if bool((values < -1e-6 * values.abs().amax(-1, keepdim=True)).any()):
        raise ValueError(f"the covariance {what} has a direction of negative variance; check how it is made")
    return vectors * values.clamp_min(0).sqrt()[..., None, :]


def check_covariance(covariance: Float[Tensor, "row m m"], what: str) -> None:
    """Refuse what can be no covariance.

    Raises:
        ValueError: If a number is not finite, a variance is negative, or a matrix is not symmetric.
    """
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    if not bool(covariance.isfinite().all()) or bool((variance < 0).any()):
        raise ValueError(
            f"the covariance {what} has a variance of {float(variance.min()):.3g}; variances are squares of sds, at "
            "least 0, and finite: check the model's matrices and the prior's bounds"
        )
    if not torch.allclose(covariance, covariance.mT, rtol=1e-4, atol=1e-12):
        raise ValueError(f"the covariance {what} is not symmetric; check how it is made")


def _off_diagonal(matrix: Tensor) -> Tensor:
    return matrix - torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1))


def _log_normal(left: Tensor, covariance: Tensor) -> Tensor:
    """log N(left; 0, covariance), (row,)."""
    chol = torch.linalg.cholesky(covariance.to(left)).expand(len(left), -1, -1)
    z = torch.linalg.solve_triangular(chol, left[..., None], upper=False)[..., 0]
    half = chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * z.square().sum(-1) - half - 0.5 * left.shape[-1] * math.log(2 * math.pi)
