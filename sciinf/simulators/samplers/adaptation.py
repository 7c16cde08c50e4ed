r"""Adaptation of samplers in a warm-up: a step size by dual averaging, and a covariance in windows, for each target.

Step sizes. a_t is the acceptance probability at step t, averaged over a target's chains, and a* is the desired one,

    H_t = (1 - 1/(t + t0)) H_{t-1} + (a* - a_t) / (t + t0),
    log s_t = mu - sqrt(t) / gamma H_t,    log S_t = t^{-kappa} log s_t + (1 - t^{-kappa}) log S_{t-1},

where s_t is the step size used during adaptation, and S_t is the final step size; gamma = 0.05, t0 = 10, kappa = 0.75,
mu = log(2 s_0).

Covariances. The n positions of all of a target's chains in a window have the sample covariance C, which is shrunk,

    C <- (1 - w) C + w diag(C),   w = ((D + 5) / (n + D + 5))^2,

so that a few positions give the scales and many give the correlations. The windows are those of Stan. In the first 75
steps the chains converge, and in the last 50 steps only the step size is adapted. Between them are windows of 25, 50,
100 steps and so on. Each window discards the positions of the previous one. A warm-up of less than 150 steps has one
window, which begins after 15 % of the steps and ends before the last 10 %.

References:
    | The No-U-Turn Sampler (Hoffman and Gelman, 2014), https://arxiv.org/abs/1111.4246
    | Stan Reference Manual, MCMC Sampling, https://mc-stan.org/docs/reference-manual/mcmc.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_GAMMA, _DELAY, _KAPPA = 0.05, 10.0, 0.75


@dataclass(frozen=True)
class Metric:
    """A factor F of each target's covariance F F^T. If w is white noise, F w has this covariance.

    Args:
        factor: The lower triangular F, (batch, D, D), or the diagonal of a diagonal F, (batch, D).
    """

    factor: Tensor

    @property
    def dense(self) -> bool:
        """Whether the factor is a full triangular matrix, not only a diagonal."""
        return self.factor.dim() == 3

    def stretch(self, w: Float[Tensor, "chains batch dim"]) -> Float[Tensor, "chains batch dim"]:
        """Position x = F w of whitened coordinates w."""
        return torch.einsum("bij,cbj->cbi", self.factor, w) if self.dense else self.factor * w

    def pull(self, gradient: Float[Tensor, "chains batch dim"]) -> Float[Tensor, "chains batch dim"]:
        """Gradient with respect to w, F^T g, from the gradient g with respect to x."""
        return torch.einsum("bij,cbi->cbj", self.factor, gradient) if self.dense else self.factor * gradient

    def whiten(self, x: Float[Tensor, "chains batch dim"]) -> Float[Tensor, "chains batch dim"]:
        """Whitened coordinates w = F^{-1} x."""
        if not self.dense:
            return x / self.factor
        return torch.linalg.solve_triangular(self.factor, x.permute(1, 2, 0), upper=False).permute(2, 0, 1)

    def log_size(self) -> Float[Tensor, " batch"]:
        """Mean logarithm of the factor's diagonal, which is (1 / 2D) log det of the covariance."""
        diagonal = self.factor.diagonal(dim1=-2, dim2=-1) if self.dense else self.factor
        return diagonal.log().mean(dim=-1)

    def updated(self, covariance: Float[Tensor, "batch dim dim"]) -> Metric:
        """Metric of the same kind (dense or diagonal) for new covariances.

        A target whose new covariance is not positive definite keeps its old factor.
        """
        if not self.dense:
            variance = covariance.diagonal(dim1=-2, dim2=-1)
            good = (variance.isfinite() & (variance > 0)).all(dim=-1, keepdim=True)
            return Metric(torch.where(good, variance, 1.0).sqrt().where(good, self.factor))
        factor, fault = torch.linalg.cholesky_ex(covariance)
        good = (fault == 0) & factor.isfinite().all(dim=-1).all(dim=-1)
        return Metric(torch.where(good[:, None, None], factor, self.factor))


def first_metric(start: Float[Tensor, "chains batch dim"], *, dense: bool) -> Metric:
    """Diagonal metric whose scales are the sd of the chains' starts; 1 where all starts are equal.

    Args:
        start: First positions of the chains.
        dense: Whether the metric stores full matrices, so that later updates may be dense.
    """
    spread = start.std(dim=0, correction=0)
    scale = torch.where(spread.isfinite() & (spread > 0), spread, 1.0)
    return Metric(torch.diag_embed(scale) if dense else scale)


class Moments:
    """Running mean and covariance of each target over chains and steps.

    Args:
        like: A tensor with the shape, dtype and device of later positions, (chains, batch, D).
    """

    def __init__(self, like: Float[Tensor, "chains batch dim"]) -> None:
        _, batch, dim = like.shape
        self.count = 0
        self.mean = like.new_zeros(batch, dim)
        self.scatter = like.new_zeros(batch, dim, dim)

    def add(self, x: Float[Tensor, "chains batch dim"]) -> None:
        """Add the chains' positions of one step to the running mean and covariance."""
        chains, total = len(x), self.count + len(x)
        mean = x.mean(dim=0)
        inner, shift = x - mean, mean - self.mean
        self.scatter += torch.einsum("cbi,cbj->bij", inner, inner)
        self.scatter += shift[:, :, None] * shift[:, None, :] * (self.count * chains / total)
        self.mean = self.mean + shift * (chains / total)
        self.count = total

    def covariance(self) -> Float[Tensor, "batch dim dim"]:
        """Covariance of the positions, shrunk towards its diagonal; the shrinkage is weaker for more positions."""
        dim = self.mean.shape[-1]
        covariance = self.scatter / max(self.count - 1, 1)
        weight = ((dim + 5) / (self.count + dim + 5)) ** 2
        variance = covariance.diagonal(dim1=-2, dim2=-1)
        return (1 - weight) * covariance + weight * torch.diag_embed(variance)


class DualAveraging:
    """Adaptation of one step size for each target to a desired acceptance probability, by dual averaging.

    Args:
        step: First step sizes, (batch,).
        acceptance: Desired mean acceptance probability.
    """

    def __init__(self, step: Float[Tensor, " batch"], acceptance: float) -> None:
        self.acceptance = acceptance
        self.aim = step.log() + math.log(2.0)
        self.now, self.mean = step.log(), step.log()
        self.error = torch.zeros_like(step)
        self.count = 0

    def update(self, acceptance: Float[Tensor, " batch"]) -> None:
        """Adapt the step sizes to the acceptance probabilities of the last step."""
        self.count += 1
        t = self.count
        self.error = self.error + (self.acceptance - acceptance - self.error) / (t + _DELAY)
        self.now = self.aim - math.sqrt(t) / _GAMMA * self.error
        weight = t**-_KAPPA
        self.mean = weight * self.now + (1 - weight) * self.mean

    @property
    def step(self) -> Float[Tensor, " batch"]:
        """Step sizes to use during the adaptation."""
        return self.now.exp()

    @property
    def settled(self) -> Float[Tensor, " batch"]:
        """Final step sizes, to use after the adaptation."""
        return self.mean.exp()


class Windows:
    """Estimation of each target's covariance in consecutive windows of the warm-up.

    Args:
        warmup: Number of steps of the whole warm-up.
        like: A tensor with the shape, dtype and device of later positions.
    """

    def __init__(self, warmup: int, like: Float[Tensor, "chains batch dim"]) -> None:
        self.first, self.ends = window_ends(warmup)
        self.moments = Moments(like)

    def update(self, t: int, x: Float[Tensor, "chains batch dim"]) -> Float[Tensor, "batch dim dim"] | None:
        """Add the positions after step t = 0, 1, ..., and return the covariances if a window ends, otherwise None."""
        if not self.first <= t < self.ends[-1]:
            return None
        self.moments.add(x)
        if t + 1 not in self.ends:
            return None
        covariance, self.moments = self.moments.covariance(), Moments(x)
        return covariance


def window_ends(warmup: int) -> tuple[int, list[int]]:
    """First step of the first window, and for each window the first step after its end."""
    first, last, size = (75, 50, 25) if warmup >= 150 else (warmup * 3 // 20, warmup // 10, warmup)
    stop, end, ends = warmup - last, first, []
    while end < stop:
        end = end + size if end + 3 * size <= stop else stop
        ends.append(end)
        size *= 2
    return first, ends
