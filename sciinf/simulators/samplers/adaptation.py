r"""What a warm-up learns about each target: a step size by dual averaging, and the covariance, in windows.

Step sizes. With a_t the acceptance probability at step t, averaged over a target's chains, and a* the one wanted,

    H_t = (1 - 1/(t + t0)) H_{t-1} + (a* - a_t) / (t + t0),
    log s_t = mu - sqrt(t) / gamma H_t,    log S_t = t^{-kappa} log s_t + (1 - t^{-kappa}) log S_{t-1},

s_t the step size in use and S_t the one to keep; gamma = 0.05, t0 = 10, kappa = 0.75, mu = log(2 s_0).

Covariances. From n positions of all of a target's chains in a window, with sample covariance C,

    C <- (1 - w) C + w diag(C),   w = ((D + 5) / (n + D + 5))^2,

so that a few positions give the scales and many give the correlations. Windows are Stan's: the first 75 steps are left
to the chains to arrive and the last 50 to the step size; between them are windows of 25 steps, 50, 100 and so on, each
of which forgets the one before. Warm-ups of less than 150 steps have one window, after 15 % and before the last 10 %.

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
    """A factor F of each target's covariance F F^T: F w has it where w is white.

    Args:
        factor: Lower triangular, (batch, D, D), or the diagonal of F, (batch, D).
    """

    factor: Tensor

    @property
    def dense(self) -> bool:
        """Whether the factor is more than its diagonal."""
        return self.factor.dim() == 3

    def stretch(self, w: Float[Tensor, "chains batch dim"]) -> Float[Tensor, "chains batch dim"]:
        """F w."""
        return torch.einsum("bij,cbj->cbi", self.factor, w) if self.dense else self.factor * w

    def pull(self, gradient: Float[Tensor, "chains batch dim"]) -> Float[Tensor, "chains batch dim"]:
        """F^T g: gradient with respect to x to gradient with respect to w."""
        return torch.einsum("bij,cbi->cbj", self.factor, gradient) if self.dense else self.factor * gradient

    def whiten(self, x: Float[Tensor, "chains batch dim"]) -> Float[Tensor, "chains batch dim"]:
        """F^{-1} x."""
        if not self.dense:
            return x / self.factor
        return torch.linalg.solve_triangular(self.factor, x.permute(1, 2, 0), upper=False).permute(2, 0, 1)

    def log_size(self) -> Float[Tensor, " batch"]:
        """Mean logarithm of the factor's diagonal: (1 / 2D) log det of the covariance."""
        diagonal = self.factor.diagonal(dim1=-2, dim2=-1) if self.dense else self.factor
        return diagonal.log().mean(dim=-1)

    def updated(self, covariance: Float[Tensor, "batch dim dim"]) -> Metric:
        """A metric of the same kind for other covariances; targets whose own is not positive definite keep theirs."""
        if not self.dense:
            variance = covariance.diagonal(dim1=-2, dim2=-1)
            good = (variance.isfinite() & (variance > 0)).all(dim=-1, keepdim=True)
            return Metric(torch.where(good, variance, 1.0).sqrt().where(good, self.factor))
        factor, fault = torch.linalg.cholesky_ex(covariance)
        good = (fault == 0) & factor.isfinite().all(dim=-1).all(dim=-1)
        return Metric(torch.where(good[:, None, None], factor, self.factor))


def first_metric(start: Float[Tensor, "chains batch dim"], *, dense: bool) -> Metric:
    """Scales from the spread of the starts, 1 where they have none."""
    spread = start.std(dim=0, correction=0)
    scale = torch.where(spread.isfinite() & (spread > 0), spread, 1.0)
    return Metric(torch.diag_embed(scale) if dense else scale)


class Moments:
    """Running mean and covariance of each target over chains and steps.

    Args:
        like: Positions of the shape, dtype and device to come, (chains, batch, D).
    """

    def __init__(self, like: Float[Tensor, "chains batch dim"]) -> None:
        _, batch, dim = like.shape
        self.count = 0
        self.mean = like.new_zeros(batch, dim)
        self.scatter = like.new_zeros(batch, dim, dim)

    def add(self, x: Float[Tensor, "chains batch dim"]) -> None:
        """Take the chains' positions in."""
        chains, total = len(x), self.count + len(x)
        mean = x.mean(dim=0)
        inner, shift = x - mean, mean - self.mean
        self.scatter += torch.einsum("cbi,cbj->bij", inner, inner)
        self.scatter += shift[:, :, None] * shift[:, None, :] * (self.count * chains / total)
        self.mean = self.mean + shift * (chains / total)
        self.count = total

    def covariance(self) -> Float[Tensor, "batch dim dim"]:
        """The covariance, drawn towards its diagonal as far as the count makes it uncertain."""
        dim = self.mean.shape[-1]
        covariance = self.scatter / max(self.count - 1, 1)
        weight = ((dim + 5) / (self.count + dim + 5)) ** 2
        variance = covariance.diagonal(dim1=-2, dim2=-1)
        return (1 - weight) * covariance + weight * torch.diag_embed(variance)


class DualAveraging:
    """Step sizes, one for each target, that lead to a given acceptance.

    Args:
        step: First step sizes, (batch,).
        acceptance: Mean acceptance probability wanted.
    """

    def __init__(self, step: Float[Tensor, " batch"], acceptance: float) -> None:
        self.acceptance = acceptance
        self.aim = step.log() + math.log(2.0)
        self.now, self.mean = step.log(), step.log()
        self.error = torch.zeros_like(step)
        self.count = 0

    def update(self, acceptance: Float[Tensor, " batch"]) -> None:
        """Take in the acceptance that the step size in use led to."""
        self.count += 1
        t = self.count
        self.error = self.error + (self.acceptance - acceptance - self.error) / (t + _DELAY)
        self.now = self.aim - math.sqrt(t) / _GAMMA * self.error
        weight = t**-_KAPPA
        self.mean = weight * self.now + (1 - weight) * self.mean

    @property
    def step(self) -> Float[Tensor, " batch"]:
        """Step sizes to use while adapting."""
        return self.now.exp()

    @property
    def settled(self) -> Float[Tensor, " batch"]:
        """Step sizes to keep."""
        return self.mean.exp()


class Windows:
    """The covariance, window by window.

    Args:
        warmup: Steps of the whole warm-up.
        like: Positions of the shape, dtype and device to come.
    """

    def __init__(self, warmup: int, like: Float[Tensor, "chains batch dim"]) -> None:
        self.first, self.ends = window_ends(warmup)
        self.moments = Moments(like)

    def update(self, t: int, x: Float[Tensor, "chains batch dim"]) -> Float[Tensor, "batch dim dim"] | None:
        """Take in the positions after step t = 0, 1, ...; where a window ends, its covariances."""
        if not self.first <= t < self.ends[-1]:
            return None
        self.moments.add(x)
        if t + 1 not in self.ends:
            return None
        covariance, self.moments = self.moments.covariance(), Moments(x)
        return covariance


def window_ends(warmup: int) -> tuple[int, list[int]]:
    """Where the first window begins, and the steps before which each of them ends."""
    first, last, size = (75, 50, 25) if warmup >= 150 else (warmup * 3 // 20, warmup // 10, warmup)
    stop, end, ends = warmup - last, first, []
    while end < stop:
        end = end + size if end + 3 * size <= stop else stop
        ends.append(end)
        size *= 2
    return first, ends
