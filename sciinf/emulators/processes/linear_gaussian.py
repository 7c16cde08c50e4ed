r"""A path that moves linearly with Gaussian noise, and observations that a network turns into Gaussian factors.

    z_1 ~ N(m, V),     dz = (F z + g_k) dt + N(0, D dt),     so     z_{k+1} = A_k z_k + b_k + N(0, Q_k),
    A_k = exp(F dt_k),     b_k = integral_0^dt_k exp(F s) ds g_k,     g_k = B [c, u_k]  where there are controls,
    q(z) ~ p(z) prod_{k seen} psi_k(z_k),     psi_k(z) = exp(h_k^T z - z^T W_k z / 2),     W_k = L_k L_k^T.

h_k and L_k come from a network that sees the values of time k alone. The combination of all times is exact: `messages`
finds q, its draws and its KL to p. A time without an observation has no factor psi. So gaps cost nothing, and q in a
gap follows from p and the neighbouring times. For Gaussian values of a linear decoder, q can be the exact posterior.
Otherwise q is an approximation.

`LinearGaussian` is stationary, except for the distribution of its first state. In coordinates in which its covariance
is I,

    F = K - K^T - (R R^T + e I) / 2,     D = R R^T + e I,     Q(dt) = I - A A^T.

So the path never diverges, and every stationary linear Gaussian process has this form. K and R may depend on the
context of the row. `Koopman` has one F for all rows, without restrictions, and a diagonal D,

    Q(dt) = X A^T,     [A X; 0 A^-T] = exp([F D; 0 -F^T] dt).

It can hold the moduli of the eigenvalues lambda of A = exp(F), for one step, near 1. With sd s each eigenvalue adds
(|lambda| - 1)^2 / (2 s^2) nats, once for the whole training set, as a prior N(1, s^2) would. The paper fits A to each
batch by least squares. The prediction for a row then depends on the other rows of its batch, so here A is learned.

References:
    | Revisiting structured variational autoencoders (Zhao, Linderman, 2023), https://arxiv.org/abs/2305.16543
    | Generative modeling of regular and irregular time series data via Koopman VAEs (Naiman et al., 2024),
      https://arxiv.org/abs/2310.02619
    | Computing integrals involving the matrix exponential (Van Loan, 1978), https://doi.org/10.1109/TAC.1978.1101743
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from sciinf.core.checks import check_whole
from sciinf.core.component import Component
from sciinf.core.prior import global_seed
from sciinf.emulators.processes.messages import GaussianChain, Smoothed, lower, smoothed
from sciinf.emulators.processes.process import Latent, LearnedProcess, Linear, Process, Series, Sizes

_LEAST = 1e-8  # Least variance that a step adds; the stationary variance is 1.
_DAMPED = 1e-4  # Least damping e.
_WIDTH = 16  # Hidden width of the network of the factors psi, if there are parameters or controls.
_SLOWEST, _FASTEST = 0.15, 1.5  # Initial angular speeds of pairs of states, in radians per step.
_ABOUT = 0.1  # Initial D.


class LinearGaussian(Process):
    """A stationary linear Gaussian process, which may depend on the context of the row.

    Args:
        states: S, the number of components of the state.

    Examples:
        >>> process = LinearGaussian(4).build(Sizes(features=3, context=0, controls=0), seed=0)
        >>> series = Series(torch.ones(2, 10, 3), torch.ones(2, 10, dtype=torch.bool), torch.ones(2, 0))
        >>> process.posterior(series, generator=torch.Generator()).z.shape
        torch.Size([2, 10, 4])
    """

    def __init__(self, states: int = 4) -> None:
        check_whole("states", states, 1)
        self.states = states

    def build(self, sizes: Sizes, *, seed: int) -> LearnedProcess:
        with global_seed(torch.Generator().manual_seed(seed)):
            return LearnedChain(sizes, _Stationary(self.states, sizes.context))


class UnitCircle(Component):
    """A prior that holds the moduli of a step's eigenvalues near 1, so that modes neither decay nor grow.

    Args:
        sd: Sd of the moduli around 1.

    Raises:
        ValueError: If sd is not positive.
    """

    def __init__(self, sd: float = 0.01) -> None:
        if not 0 < sd < math.inf:
            raise ValueError(f"sd is how far moduli may be from 1, a positive number, got {sd!r}")
        self.sd = sd


class Koopman(Process):
    """A process with one linear map for all rows, whose eigenvalues can be read from the fit.

    Args:
        states: S, the number of components of the state.
        eigenvalues: Prior of the moduli of the eigenvalues; no prior if None.
    """

    def __init__(self, states: int = 4, *, eigenvalues: UnitCircle | None = None) -> None:
        check_whole("states", states, 1)
        self.states, self.known = states, eigenvalues

    def build(self, sizes: Sizes, *, seed: int) -> LearnedProcess:
        with global_seed(torch.Generator().manual_seed(seed)):
            return LearnedChain(sizes, _Free(self.states, self.known.sd if self.known else None))


class _Motion(nn.Module, ABC):
    """The motion of states, given by the matrices F and D.

    Parameters are vectors, which optimisers for matrices leave alone.
    """

    states: int

    @abstractmethod
    def field(self, context: Float[Tensor, "row context"]) -> Float[Tensor, "row state state"]:
        """The matrix F, float64, (row or 1, S, S)."""

    @abstractmethod
    def noise(
        self, field: Tensor, step: Float[Tensor, "row step"], matrix: Float[Tensor, "row step state state"]
    ) -> Float[Tensor, "row step state state"]:
        """The covariance Q of the noise of steps; `matrix` is A of these steps."""

    @abstractmethod
    def penalty(self) -> Float[Tensor, ""]:
        """Penalty in nats, counted once for the training set."""


@final
class _Stationary(_Motion):
    def __init__(self, states: int, context: int) -> None:
        super().__init__()
        self.states = states
        upper = torch.tril_indices(states, states, -1)
        self.turning, self.spreading = upper.shape[1], states * (states + 1) // 2
        first = torch.zeros(states, states)
        first[range(1, states, 2), range(0, states - 1, 2)] = _speeds(states)
        self.base = nn.Parameter(torch.cat([first[upper[0], upper[1]], _about(states, _ABOUT**0.5)]))
        self.told = _told(context, len(self.base))

    def field(self, context: Tensor) -> Tensor:
        found = self.base[None] if self.told is None else self.base + self.told(context)
        turn, spread = found.double().split([self.turning, self.spreading], -1)
        turn, spread = lower(turn, self.states, -1), lower(spread, self.states)
        eye = torch.eye(self.states, dtype=turn.dtype, device=turn.device)
        return turn - turn.mT - 0.5 * (spread @ spread.mT + _DAMPED * eye)

    def noise(self, field: Tensor, step: Tensor, matrix: Tensor) -> Tensor:
        eye = torch.eye(self.states, dtype=matrix.dtype, device=matrix.device)
        return (1 + _LEAST) * eye - matrix @ matrix.mT

    def penalty(self) -> Tensor:
        return self.base.new_zeros(())


@final
class _Free(_Motion):
    def __init__(self, states: int, sd: float | None) -> None:
        super().__init__()
        self.states, self.sd = states, sd
        first = -0.5 * _ABOUT * torch.eye(states) + 0.01 * torch.randn(states, states)
        here, there, speeds = range(1, states, 2), range(0, states - 1, 2), _speeds(states)
        first[here, there], first[there, here] = speeds, -speeds
        self.entries = nn.Parameter(first.flatten())
        self.log_noise = nn.Parameter(torch.full((states,), math.log(_ABOUT)))

    def field(self, context: Tensor) -> Tensor:
        return self.entries.double().reshape(1, self.states, self.states)

    def noise(self, field: Tensor, step: Tensor, matrix: Tensor) -> Tensor:
        spread = torch.diag_embed(self.log_noise.double().exp())[None]
        both = torch.cat([torch.cat([field, spread], -1), torch.cat([torch.zeros_like(field), -field.mT], -1)], -2)
        moved = torch.linalg.matrix_exp(both[:, None] * step[..., None, None])
        found = moved[..., : self.states, self.states :] @ matrix.mT
        eye = torch.eye(self.states, dtype=found.dtype, device=found.device)
        return 0.5 * (found + found.mT) + _LEAST * eye

    def penalty(self) -> Tensor:
        if self.sd is None:
            return self.entries.new_zeros(())
        growth = torch.linalg.eigvals(self.field(self.entries)[0]).real
        return (0.5 * ((growth.exp() - 1) / self.sd).square().sum()).to(self.entries.dtype)


@final
class LearnedChain(LearnedProcess):
    """A linear Gaussian process with its weights.

    Args:
        sizes: Sizes of the process's inputs.
        motion: How states move: F and D.
    """

    def __init__(self, sizes: Sizes, motion: _Motion) -> None:
        super().__init__()
        self.motion, self.states, self.context = motion, motion.states, sizes.context
        known, triangle = sizes.context + sizes.controls, self.states * (self.states + 1) // 2
        self.evidence = Linear(sizes.features + known, self.states + triangle, _WIDTH if known else 0)
        with torch.no_grad():
            self.evidence.direct.weight[self.states :].mul_(0.1)
            self.evidence.direct.bias[self.states :] = _about(self.states, 0.5)
        self.first = nn.Parameter(torch.zeros(self.states))
        self.told = _told(sizes.context, self.states)
        self.start = nn.Parameter(_about(self.states, 1.0))
        self.push = nn.Linear(known, self.states, bias=False) if sizes.controls else None

    def posterior(self, series: Series, *, generator: torch.Generator) -> Latent:
        found = self.smoothed(series, generator=generator)
        return Latent(found.draw.float(), found.kl.float(), found.log_ratio.float())

    def prior(self, series: Series, *, generator: torch.Generator) -> Float[Tensor, "row time state"]:
        return self.chain(series).drawn(len(series), series.length, generator=generator).float()

    def shared(self) -> Float[Tensor, ""]:
        return self.motion.penalty()

    def smoothed(self, series: Series, *, generator: torch.Generator) -> Smoothed:
        """The distribution of the path given observations: means and covariances at each time, and a draw, float64."""
        parts = [series.read, series.context[:, None].expand(-1, series.length, -1)]
        found = self.evidence(torch.cat(parts if series.controls is None else [*parts, series.controls], -1))
        found = torch.where(series.there[..., None], found, 0.0).double()
        root = lower(found[..., self.states :], self.states)
        return smoothed(self.chain(series), found[..., : self.states], root @ root.mT, generator=generator)

    def chain(self, series: Series) -> GaussianChain:
        """The prior at the times of the rows, in float64."""
        field, step = self.motion.field(series.context), series.steps().double()
        start = lower(self.start.double(), self.states)
        eye = torch.eye(self.states, dtype=start.dtype, device=start.device)
        if self.push is None or series.controls is None:
            matrix = torch.linalg.matrix_exp(field[:, None] * step[..., None, None])
            shift = matrix.new_zeros(1, 1, self.states)
        else:
            matrix, integral = _moved(field, step)
            context = series.context[:, None].expand(-1, series.length, -1)
            pushed = self.push(torch.cat([context, series.controls], -1))[:, :-1].double()
            shift = (integral @ pushed[..., None])[..., 0]
        covariance = (start @ start.mT + _LEAST * eye)[None]
        noise = self.motion.noise(field, step, matrix)
        first = self.first[None] if self.told is None else self.first + self.told(series.context)
        return GaussianChain(first.double(), covariance, matrix, shift, noise)

    def eigenvalues(self) -> Complex[Tensor, " state"]:
        """Eigenvalues of A for a step of 1, where all conditioning values of the row have their means."""
        context = self.start.new_zeros(1, self.context)
        return torch.linalg.eigvals(self.motion.field(context)[0]).exp().detach()


def _told(context: int, numbers: int) -> nn.Module | None:
    """A linear map from the context to an addition to parameters; it is 0 at first. None without context."""
    if not context:
        return None
    told = nn.Linear(context, numbers, bias=False)
    nn.init.zeros_(told.weight)
    return told


def _moved(field: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix A, and the integral of exp(F s), for each step."""
    size = field.shape[-1]
    eye = torch.eye(size, dtype=field.dtype, device=field.device).expand_as(field)
    nothing = torch.zeros_like(field)
    both = torch.cat([torch.cat([field, eye], -1), torch.cat([nothing, nothing], -1)], -2)
    moved = torch.linalg.matrix_exp(both[:, None] * step[..., None, None])
    return moved[..., :size, :size], moved[..., :size, size:]


def _about(size: int, diagonal: float) -> Tensor:
    """Entries of a lower triangular matrix that is diagonal, with equal diagonal entries."""
    rows, columns = torch.tril_indices(size, size)
    return diagonal * (rows == columns).float()


def _speeds(states: int) -> Tensor:
    """Initial angular speeds of pairs of states, from slow to fast."""
    pairs = states // 2
    return torch.logspace(math.log10(_SLOWEST), math.log10(_FASTEST), pairs) if pairs > 1 else torch.full((pairs,), 0.5)
