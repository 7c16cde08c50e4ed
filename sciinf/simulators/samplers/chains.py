"""Interface of all samplers, chains of many targets at once, and their convergence diagnostics.

A sampler takes a log density of many targets and gives chains for each target. The targets are usually the posteriors
of different observations. One call of the log density, which takes most of the time, advances every chain of every
target. A sampler adapts step sizes, widths or covariances only in its warm-up, for each target from all of the target's
chains. Therefore the draws that are kept come from a Markov chain whose stationary distribution is the target.

**Convergence.** Each chain is cut in two halves, so that there are M half-chains of N draws. Their values are replaced
by normal scores of the ranks r among all M N values (average ranks for ties),

    z = Phi^{-1}((r - 3/8) / (M N + 1/4)),

so that the diagnostics do not depend on heavy tails or monotone transforms. W is the mean of the half-chains'
variances, and B / N is the variance of their means,

    R-hat = sqrt(((N - 1) / N W + B / N) / W),

computed for z, and also for z of the distance to the median |x - median(x)|, which reveals chains that differ in their
spread. The result is the larger of the two. Values above 1.01 mean that the chains have not mixed. The effective sample
size is

    ESS = M N / tau,   tau = -1 + 2 sum_{t=0}^{K} P_t + rho_{2K+2},   P_t = rho_{2t} + rho_{2t+1},
    rho_t = 1 - (W - mean over half-chains of gamma_t) / ((N - 1) / N W + B / N),

where gamma_t is a half-chain's autocovariance at lag t. The sum follows Geyer's initial monotone sequence: K is the
last pair before the first P_t <= 0, and P_t is replaced by min_{s <= t} P_s. tau is at least 1 / log10(M N), which
bounds the ESS of chains with negative autocorrelation.

References:
    | Rank-normalization, folding, and localization: an improved R-hat (Vehtari et al., 2021),
      https://arxiv.org/abs/1903.08008
    | Practical Markov chain Monte Carlo (Geyer, 1992), https://doi.org/10.1214/ss/1177011137
    | Stan Reference Manual, Posterior Analysis, https://mc-stan.org/docs/reference-manual/analysis.html
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.component import Component

_LEAST = 4  # Smallest number of draws per chain: two for each half.


def r_hat(draws: Float[Tensor, "n chains batch dim"]) -> Float[Tensor, "batch dim"]:
    """Rank-normalised split R-hat, float64; NaN if draws are not finite or all equal.

    Raises:
        ValueError: If there are fewer than four draws per chain.
    """
    halves = _halves(draws)
    folded = (halves - _median(halves)[..., None, None]).abs()
    return torch.maximum(_plain_r_hat(_scores(halves)), _plain_r_hat(_scores(folded)))


def effective_sample_size(draws: Float[Tensor, "n chains batch dim"]) -> Float[Tensor, "batch dim"]:
    """Bulk effective sample size, float64; NaN if draws are not finite or all equal.

    Raises:
        ValueError: If there are fewer than four draws per chain.
    """
    z = _scores(_halves(draws))
    count, length = z.shape[-2:]
    covariance = _autocovariance(z).mean(dim=-2)
    within = covariance[..., 0] * length / (length - 1)
    total = covariance[..., 0] + z.mean(dim=-1).var(dim=-1)
    rho = 1 - (within[..., None] - covariance) / total[..., None]
    rho[..., 0] = torch.where(total > 0, 1.0, math.nan)
    pairs = max((length - 1) // 2, 1)
    even, odd = rho[..., : 2 * pairs : 2], rho[..., 1 : 2 * pairs : 2]
    pair = even + odd
    kept = (pair > 0).cumprod(dim=-1)
    kept[..., -1] = 0
    after = kept.sum(dim=-1, keepdim=True)
    tail = even.gather(-1, after).squeeze(-1).clamp_min(0)
    tau = 2 * (pair.cummin(dim=-1).values * kept).sum(dim=-1) - 1 + tail
    return count * length / tau.clamp_min(1 / math.log10(count * length))


def _halves(draws: Tensor) -> Tensor:
    """Half-chains, (batch, D, 2 chains, n // 2). A dimension with a value that is not finite is NaN throughout."""
    n = len(draws)
    if n < _LEAST:
        raise ValueError(f"there are {n} draws per chain, expected at least {_LEAST}: draw more of them")
    x = draws.permute(2, 3, 1, 0).double()
    x = torch.where(x.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True), x, math.nan)
    return torch.cat([x[..., : n // 2], x[..., n - n // 2 :]], dim=-2)


def _median(x: Tensor) -> Tensor:
    ordered = x.flatten(-2).sort(dim=-1).values
    size = ordered.shape[-1]
    return (ordered[..., (size - 1) // 2] + ordered[..., size // 2]) / 2


def _scores(x: Tensor) -> Tensor:
    """Normal scores of the values' ranks among all half-chains. NaN stays NaN."""
    flat = x.flatten(-2).contiguous()
    ordered, order = flat.sort(dim=-1)
    below = torch.searchsorted(ordered, ordered, right=False)  # Searching in sorted order is faster.
    through = torch.searchsorted(ordered, ordered, right=True)
    share = ((below + through + 1).double() / 2 - 0.375) / (flat.shape[-1] + 0.25)
    share = torch.empty_like(share).scatter_(-1, order, share)
    return torch.where(x.isnan(), x, torch.special.ndtri(share).reshape(x.shape))


def _plain_r_hat(z: Tensor) -> Tensor:
    length = z.shape[-1]
    within = z.var(dim=-1).mean(dim=-1)
    return ((length - 1) / length + z.mean(dim=-1).var(dim=-1) / within).sqrt()


def _autocovariance(z: Tensor) -> Tensor:
    """Autocovariance of each half-chain at every lag. The sum is divided by the length at every lag."""
    length = z.shape[-1]
    size = 2 ** math.ceil(math.log2(2 * length))
    spectrum = torch.fft.rfft(z - z.mean(dim=-1, keepdim=True), n=size)
    return torch.fft.irfft(spectrum.abs().square(), n=size)[..., :length] / length


LogDensity = Callable[[Tensor], Tensor]
"""Log density up to a constant, (chains, batch, D) -> (chains, batch), for each of `batch` targets and however many
chains: the value at [c, b] depends on the position at [c, b] alone. -inf where the density is zero."""


@dataclass(frozen=True)
class Chains:
    """Draws of all chains after the warm-up, with their convergence diagnostics.

    Args:
        draws: Positions in order, (n, chains, batch, D).
        acceptance: Mean acceptance probability of proposals after the warm-up, (batch,).
        evaluations: Number of evaluations of the log density or its gradient, summed over all chains and targets. The
            sum includes the warm-up and chains that only waited for others.
    """

    draws: Float[Tensor, "n chains batch dim"]
    acceptance: Float[Tensor, " batch"]
    evaluations: int

    def r_hat(self) -> Float[Tensor, "batch dim"]:
        """Rank-normalised split R-hat. The chains have not mixed if it is above 1.01; it is NaN if no chain ever moved.

        Raises:
            ValueError: If there are fewer than four draws per chain.
        """
        return r_hat(self.draws)

    def ess(self) -> Float[Tensor, "batch dim"]:
        """Bulk effective sample size of all of a target's chains together; NaN if no chain ever moved.

        Raises:
            ValueError: If there are fewer than four draws per chain.
        """
        return effective_sample_size(self.draws)

    def flat(self) -> Float[Tensor, "draws batch dim"]:
        """Draws of all chains along one axis, (n * chains, batch, D)."""
        return self.draws.flatten(0, 1)


class Sampler(Component, ABC):
    """A Markov chain sampler, whose chains have a given density as their stationary distribution."""

    @abstractmethod
    def draw(
        self,
        log_density: LogDensity,
        start: Tensor,
        n: int,
        *,
        generator: torch.Generator,
    ) -> Chains:
        """Warm up from `start`, then keep `n` draws of every chain.

        Args:
            log_density: Log density of the targets. NaN and +inf count as -inf, and a proposal with -inf is rejected.
            start: First positions, (chains, batch, D). R-hat is reliable only if they are spread at least as widely as
                the target. The draws have the same dtype and device.
            n: Number of draws kept per chain.
            generator: Source of all randomness, on the device of `start`.

        Raises:
            TypeError: If `start` is not floating point.
            ValueError: If shapes, devices or `n` are wrong, or if a chain starts where the log density is not finite.
        """


def kept(
    move: Callable[[int], Tensor], start: Float[Tensor, "chains batch dim"], n: int, thin: int
) -> Float[Tensor, "n chains batch dim"]:
    """Positions after every `thin`-th of n * thin moves.

    Args:
        move: Function from the number of the move to the positions after the move.
        start: First positions, whose shape and dtype the result has.
        n: Number of positions to keep.
        thin: Number of moves for each kept position.
    """
    draws = start.new_empty(n, *start.shape)
    for i in range(n * thin):
        x = move(i)
        if (i + 1) % thin == 0:
            draws[i // thin] = x
    return draws
