r"""Paths that are Gaussian processes over time, represented by a few inducing points.

    z_s(t) = m_s + f_s(t),   f_s ~ GP(0, k(|t - t'| / l_s)),   m = linear in what is known of row and time.

k is Matern's covariance with variance 1. u_s is f_s at M inducing times. Each row has its own inducing times, spread
evenly from its first to its last time. With K = L L^T the covariance of u, u = L v and b_t = L^-1 k(inducing times, t),

    f_t = b_t^T v + r_t,    v ~ N(0, I),    r ~ N(0, k(t, t') - b_t^T b_t'),    jointly over all times, exactly.

An encoder with an independent distribution for each z_t would lose the correlations of the process. So the encoder
gives information on each time alone: a Gaussian factor exp(h_t^T z_t - z_t^T P_t z_t / 2), P_t positive definite (S,
S). The process combines these factors by conjugacy, over all times and components at once:

    q(v) = N(Q^-1 g, Q^-1),   Q = I + sum_t B_t P_t B_t^T,   g = sum_t B_t (h_t - P_t m_t),   q(f | v) = p(f | v),

B_t = diag(b_t1..b_tS). KL(q || p) is the KL of v, in closed form. With a linear decoder, Gaussian noise and an inducing
point at each time (`spacing=1`, equal steps), the right factors make q the exact posterior. With fewer points, q is the
best distribution of v, and the path between the points follows from v alone.

**Uncertainty of shared quantities.** The lengths l_s have a lognormal prior and a lognormal q,
with one draw at each call; their KL is `shared`. The paper samples these lengths and all weights by stochastic gradient
Hamiltonian Monte Carlo. This module does not: that would need a separate training loop, and a simulator usually gives
enough rows to determine the weights. Where it does not, an ensemble (`train_ensemble`) shows how uncertain the weights
are. **Weights are point estimates**: a single fit does not show its own uncertainty.

Draws of r need a Cholesky factor for T times. If steps are equal and l does not depend on the row, one factor serves
all rows; otherwise each row needs its own. So the inducing points save work for each row, but not for long series. Some
hundred times are fine; thousands are too slow.

References:
    | Fully Bayesian autoencoders with latent sparse Gaussian processes (Tran et al., 2023),
      https://arxiv.org/abs/2302.04534
    | Scalable Gaussian process variational autoencoders (Jazbec et al., 2021), for the factors,
      https://arxiv.org/abs/2010.13472
"""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.checks import check_whole
from sciinf.core.prior import global_seed
from sciinf.emulators.processes.process import Latent, LearnedProcess, Linear, Process, Series, Sizes

_JITTER = 1e-6  # Diagonal term for Cholesky factors; the variance is 1.
_LOG_SD = 1.0  # Prior sd of the logarithm of a length.


class SparseGP(Process):
    """A path of independent Gaussian processes over time.

    Args:
        states: S, the number of Gaussian processes.
        spacing: Mean steps between inducing points; 1 for one point at each time.
        length: Prior median of the correlation lengths l, in mean steps.
        smoothness: Smoothness of Matern's covariance: 0.5 (rough, Ornstein-Uhlenbeck), 1.5 or 2.5 (smooth).

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(self, states: int = 4, *, spacing: float = 2.0, length: float = 8.0, smoothness: float = 1.5) -> None:
        check_whole("states", states, 1)
        for name, value, least in (("spacing", spacing, 1.0), ("length", length, 0.1)):
            if not least <= value < math.inf:
                raise ValueError(f"{name} is {value!r}, expected a number of at least {least:g}, in mean steps")
        if smoothness not in (0.5, 1.5, 2.5):
            raise ValueError(f"smoothness is {smoothness!r}, expected 0.5, 1.5 or 2.5")
        self.states, self.spacing, self.length = states, float(spacing), float(length)
        self.smoothness = float(smoothness)

    def build(self, sizes: Sizes, *, seed: int) -> LearnedSparseGP:
        with global_seed(torch.Generator().manual_seed(seed)):
            return LearnedSparseGP(self, sizes)


@final
class LearnedSparseGP(LearnedProcess):
    """The Gaussian processes with their learned mean, lengths and factors."""

    def __init__(self, plan: SparseGP, sizes: Sizes) -> None:
        super().__init__()
        self.states, self.spacing, self.smoothness = plan.states, plan.spacing, plan.smoothness
        self.median = math.log(plan.length)
        self.log_length = nn.Parameter(torch.full((plan.states,), self.median))
        self.log_doubt = nn.Parameter(torch.full((plan.states,), -3.0))
        self.follow = nn.Linear(sizes.context, plan.states, bias=False) if sizes.context else None
        if self.follow is not None:
            nn.init.zeros_(self.follow.weight)
        known = sizes.context + sizes.controls
        self.mean = Linear(known, plan.states, scale=0.1) if known else None
        self.factor = Linear(sizes.features + sizes.context, plan.states * (1 + plan.states), scale=0.3)

    def posterior(self, series: Series, *, generator: torch.Generator) -> Latent:
        points, rest = self._covariances(series, generator)
        mean = self._mean(series).double()
        pull, precision = self._evidence(series)
        pull = pull - (precision @ mean[..., None])[..., 0]
        rows, count = len(series), points.shape[2]
        size = self.states * count
        points = points.expand(rows, -1, -1, -1)
        known = torch.einsum("rsit,rtsu,rujt->rsiuj", points, precision, points).reshape(rows, size, size)
        chol = torch.linalg.cholesky(known + torch.eye(size, dtype=known.dtype, device=known.device))
        center = torch.cholesky_solve(torch.einsum("rsit,rts->rsi", points, pull).reshape(rows, size, 1), chol)
        noise = torch.randn(rows, size, 1, generator=generator, dtype=mean.dtype, device=generator.device).to(mean)
        v = center + torch.linalg.solve_triangular(chol.mT, noise, upper=True)
        log_size = 2 * chol.diagonal(dim1=1, dim2=2).log().sum(1)
        inverse = torch.linalg.solve_triangular(
            chol, torch.eye(size, dtype=mean.dtype, device=mean.device), upper=False
        )
        kl = 0.5 * (inverse.square().sum((1, 2)) + center.square().sum((1, 2)) - size + log_size)
        ratio = 0.5 * ((v.square() - noise.square()).sum((1, 2)) + log_size)
        z = mean + self._along(points, rest, v.reshape(rows, self.states, count), generator)
        return Latent(z.float(), kl.float(), ratio.float())

    def prior(self, series: Series, *, generator: torch.Generator) -> Float[Tensor, "row time state"]:
        points, rest = self._covariances(series, generator)
        size = (len(series), self.states, points.shape[2])
        v = torch.randn(size, generator=generator, dtype=points.dtype, device=generator.device).to(points)
        points = points.expand(len(series), -1, -1, -1)
        return (self._mean(series) + self._along(points, rest, v, generator)).float()

    def shared(self) -> Float[Tensor, ""]:
        spread, off = (self.log_doubt.exp() / _LOG_SD).square(), (self.log_length - self.median) / _LOG_SD
        return (0.5 * (spread + off.square() - 1 - spread.log())).sum()

    def _mean(self, series: Series) -> Tensor:
        if self.mean is None:
            return series.seen.new_zeros(len(series), series.length, self.states)
        parts = [series.context[:, None].expand(-1, series.length, -1)]
        return self.mean(torch.cat(parts if series.controls is None else [*parts, series.controls], -1))

    def _evidence(self, series: Series) -> tuple[Tensor, Tensor]:
        """h and P of the Gaussian factor at each time, (row, T, S) and (row, T, S, S); 0 where nothing was observed."""
        read = torch.cat([series.read, series.context[:, None].expand(-1, series.length, -1)], -1)
        pull, half = self.factor(read).double().split([self.states, self.states**2], -1)
        half = half.unflatten(-1, (self.states, self.states)) + torch.eye(self.states, device=half.device)
        there = series.there[..., None]
        return torch.where(there, pull, 0.0), torch.where(there[..., None], half @ half.mT, 0.0)

    def _covariances(self, series: Series, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The vectors b of all times, and the Cholesky factor of r's covariance.

        Their shapes are (row or 1, S, M, T) and (row or 1, S, T, T).
        """
        doubt = torch.randn(self.states, generator=generator, device=generator.device).to(self.log_length)
        log_length = (self.log_length + self.log_doubt.exp() * doubt)[None]
        if self.follow is not None:
            log_length = log_length + self.follow(series.context)
        length = log_length.double().exp()[..., None, None]
        times = (series.clock()[:1] if series.times is None else series.times).double()
        count = max(2, math.ceil((series.length - 1) / self.spacing - 1e-9) + 1)
        share = torch.linspace(0, 1, count, dtype=times.dtype, device=times.device)
        places = times[:, :1] + (times[:, -1:] - times[:, :1]) * share
        own, cross, whole = (
            self._kernel(one[:, None, :, None], two[:, None, None, :], length)
            for one, two in ((places, places), (places, times), (times, times))
        )
        chol = torch.linalg.cholesky(own + _JITTER * torch.eye(count, dtype=times.dtype, device=times.device))
        points = torch.linalg.solve_triangular(chol, cross, upper=False)
        eye = torch.eye(series.length, dtype=times.dtype, device=times.device)
        return points, torch.linalg.cholesky(whole - points.mT @ points + _JITTER * eye)

    def _kernel(self, one: Tensor, two: Tensor, length: Tensor) -> Tensor:
        far = math.sqrt(2 * self.smoothness) * (one - two).abs() / length
        more = {0.5: 1.0, 1.5: 1 + far, 2.5: 1 + far + far.square() / 3}[self.smoothness]
        return more * torch.exp(-far)

    def _along(self, points: Tensor, rest: Tensor, v: Tensor, generator: torch.Generator) -> Tensor:
        """The path f at all times, (row, T, S)."""
        size = (*v.shape[:2], rest.shape[-1], 1)
        noise = torch.randn(size, generator=generator, dtype=v.dtype, device=generator.device).to(v)
        return (torch.einsum("rsit,rsi->rst", points, v) + (rest @ noise)[..., 0]).mT
