r"""Samples of a diffusion model conditioned on an observation, by weighted particles, with the model evidence.

A denoiser defines samples from p(x). An observation o of x, such as measurements or an event, has a likelihood p(o |
x). The particles are samples from p(x | o), and give the evidence p(o). Guidance moves samples towards the observation,

    q(y' | y) = N(m(y) + (s^2 - s'^2) grad log t(y, s), v I),    m = D + r^2 (y - D),    r = s'/s,

with t(y, s) a guess of p(o | y) at level s (a `Twist`). Guidance alone does not sample from a known distribution. So
there are n particles, each with a weight,

    w *= N(y'; m(y), v I) / q(y' | y) t(y', s') / t(y, s).

Particles are resampled by their weights (systematically) when the effective sample size falls below n/2. The last t is
p(o | x) itself, with x the denoiser's value at the lowest level. For any guess, the weighted samples converge to p(x |
o) as the number of particles grows. The mean weight is an unbiased estimate of p(o). Both refer to the p of the chain
without guidance. A better guess needs fewer particles. If few particles carry the weight at any step, the samples are
**not a posterior**, and a warning says so.

The usual chain samples y' given y as if x were D (`stochastic.Ancestral`). This leaves out the uncertainty of x, so
rare events come out too rare. With 60 steps, an event of probability 0.0014 came out at half of this. With unit
covariance, x has variance s^2 / (1 + s^2) given y, and

    v = s'^2 (1 - r^2) + (1 - r^2)^2 s^2 / (1 + s^2)

includes this uncertainty. The remaining error falls with the number of steps. For a mixture of three components with
sds of 0.35, the error of log p(o) was 0.10, 0.06 and 0.03 with 100, 200 and 400 steps.

The standard error of log p(o) is the root of a sum of 1/ESS - 1/n. The sum includes each resampling and the end.

References:
    | Practical and Asymptotically Exact Conditional Sampling in Diffusion Models (Wu et al., 2023),
      https://arxiv.org/abs/2306.17775
    | An Introduction to Sequential Monte Carlo (Chopin & Papaspiliopoulos, 2020),
      https://doi.org/10.1007/978-3-030-47845-2
"""

from __future__ import annotations

import itertools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_positive
from sciinf.networks.diffusion.grid import Geometric
from sciinf.networks.diffusion.schedule import NoiseSchedule
from sciinf.networks.diffusion.solver import Denoiser, noise_like, with_mean

FEW = 25  # Smallest effective sample size, at any step, at which samples count as a posterior.
_ANEW = 0.5  # Effective sample size, as a fraction of the particles, below which they are resampled.


class Twist(ABC):
    """An observation o of x: its likelihood, and a guess of the likelihood at positive noise levels."""

    @abstractmethod
    def log_prob(self, x: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
        """Log likelihood log p(o | x) of each row."""

    @abstractmethod
    def guess(
        self, denoise: Denoiser, y: Float[Tensor, "n dim"], level: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n dim"], Float[Tensor, "n dim"]]:
        """log t(y, s), its gradient in y, and the denoiser's value D(y, s)."""

    @abstractmethod
    def through(self, function: Callable[[Tensor], Tensor]) -> Twist:
        """The twist for z, if x is a function of z."""


@dataclass(frozen=True)
class WeightedParticles:
    """Weighted samples and the evidence.

    Attributes:
        x: Samples, (n, dim), or fields, (n, ...).
        log_weight: Logarithms of the weights, (n,); the weights sum to 1.
        log_evidence: Log evidence log p(o).
        error: Standard error of `log_evidence`.
        least: Smallest effective sample size of all steps, divided by n.
    """

    x: Float[Tensor, "n ..."]
    log_weight: Float[Tensor, " n"]
    log_evidence: float
    error: float
    least: float

    def resample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n ..."]:
        """n samples of equal weight, some of which occur several times."""
        return self.x[_systematic(self.log_weight, n, generator)]

    def mean(self) -> Float[Tensor, ...]:
        """Weighted mean of x."""
        return torch.tensordot(self.log_weight.exp().to(self.x), self.x, dims=1)


def particles(
    denoise: Denoiser,
    twist: Twist,
    n: int,
    like: Float[Tensor, " dim"],
    schedule: NoiseSchedule,
    *,
    generator: torch.Generator,
    steps: int = 200,
) -> WeightedParticles:
    """Weighted samples of a diffusion model, conditioned on an observation.

    Args:
        denoise: Denoiser D, for data of mean 0 and about unit sd; differentiable if the twist needs its gradient.
        twist: Observation, with its likelihood.
        n: Number of particles.
        like: Any x, which sets the size, dtype and device of the samples.
        schedule: Path from data to noise.
        generator: Source of noise.
        steps: Number of steps from the highest noise level to the lowest, equal in log s.

    Raises:
        ValueError: If `n` or `steps` is not an int of at least 1, or if no particle has a positive weight.

    Warns:
        UserWarning: If too few particles carried the weight at a step. Then the samples are not a posterior.
    """
    check_positive(n=n, steps=steps)
    levels = Geometric().levels(schedule, steps)
    noise = torch.randn((n, len(like)), generator=generator, device=generator.device).to(like)
    y = with_mean(denoise, math.sqrt(1 + schedule.most**2) * noise, schedule)
    log_t, slope, value = twist.guess(denoise, y, levels[0].to(y))
    log_w, log_evidence, variance, least = log_t, 0.0, 0.0, 1.0
    for s, after in itertools.pairwise(levels.tolist()):
        size = _effective(log_w, s)
        least = min(least, size / n)
        if size < _ANEW * n:
            log_evidence += float(log_w.logsumexp(0)) - math.log(n)
            variance += 1 / size - 1 / n
            index = _systematic(log_w, n, generator)
            y, log_t, slope, value = (part[index] for part in (y, log_t, slope, value))
            log_w = torch.zeros_like(log_w)
        kept = (after / s) ** 2
        sd = math.sqrt(after * after * (1 - kept) + (1 - kept) ** 2 * s * s / (1 + s * s))
        pull = (s * s - after * after) * slope
        drawn = noise_like(y, generator)
        y = value + kept * (y - value) + pull + sd * drawn
        before = log_t
        log_t, slope, value = twist.guess(denoise, y, y.new_tensor(after))
        moved = drawn + pull / sd
        log_w = log_w + log_t - before + 0.5 * (drawn.square() - moved.square()).sum(1)
    log_w = log_w - log_t + twist.log_prob(value)
    size = _effective(log_w, levels[-1].item())
    least, variance = min(least, size / n), variance + 1 / size - 1 / n
    if least * n < FEW:
        warnings.warn(
            f"{least * n:.0f} of {n} particles carried the weight at a step: draws are not a posterior, the evidence "
            "may be far too low. Take more particles or steps",
            stacklevel=2,
        )
    total = float(log_w.logsumexp(0))
    return WeightedParticles(
        value, log_w - total, log_evidence + total - math.log(n), math.sqrt(max(variance, 0.0)), least
    )


def _effective(log_w: Tensor, level: float) -> float:
    """The effective sample size of log weights.

    Raises:
        ValueError: If no particle has a positive weight.
    """
    size = float((2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp())
    if not size >= 0.99:
        raise ValueError(f"at noise level {level:.3g} no particle agrees with the observation: is it possible at all?")
    return size


def _systematic(log_w: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Indices of particles, resampled systematically: each index occurs about in proportion to its weight."""
    places = (torch.arange(n) + torch.rand(1, generator=generator, device=generator.device).cpu()) / n
    steps = log_w.double().softmax(0).cumsum(0).cpu()
    return torch.searchsorted(steps, places.double()).clamp_max(len(log_w) - 1).to(log_w.device)
