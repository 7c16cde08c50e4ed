r"""Training objectives of diffusion models: parameterisation of the network, and weights of the noise levels.

A network F with the inputs c_in x_t and the level s defines the denoiser D(x_t, s) = E[x_0 | x_t] by

    D = a(t) x_t + b(t) F,    c_in = 1 / sqrt(alpha^2 + sigma^2):

| parameterisation | what F approximates | a | b |
|---|---|---|---|
| `PredictNoise` | e | 1 / alpha | -s |
| `PredictData` | x_0 | 0 | 1 |
| `PredictVelocity` | v = (alpha e - sigma x_0) / c, c^2 = alpha^2 + sigma^2 | alpha / c^2 | -sigma / c |
| `PredictScore` | sigma grad log p_t(x_t) | 1 / alpha | s |
| `PredictDrift` | dx_t/dt / r = (alpha' x_0 + sigma' e) / r, r^2 = (alpha'^2 + sigma'^2) / 2 | as below | as below |
| `Preconditioned` | what is left of x_0 beside the best linear guess | 1 / (alpha (1 + s^2)) | s / sqrt(1 + s^2) |

for data of sd 1. Every target has a size of order 1 at every level. A score itself grows as 1 / sigma, and a drift may
change by orders of magnitude along its path. Networks trained for such targets give meaningless results. So the score
is multiplied by sigma, and the drift is divided by r. r is 1 in flow matching (`Straight`). For `PredictDrift`,
alpha' = f alpha and sigma' = sigma (f + k) with k = (log s)' = g^2 / (2 sigma^2), so that a = (f + k) / (alpha k) and
b = -r / (alpha k).

Training draws a level for each row and minimises, with a weighting w,

    E_{x_0, e, s} [ w(s) |F - F*|^2 ] / D = E [ w(s) / b^2 |D(x_t, s) - x_0|^2 ] / D.

`EvenWeights` (w = 1) gives the same weight to errors of F at all levels. `LikelihoodWeights` makes the objective, up to
a constant, the bound on -log q(x_0) of the reverse process. This bound is E_s [ |D - x_0|^2 / (s^3 p(s)) ], with p the
density of the sampled levels. `ClippedWeights` weights |D - x_0|^2 by the signal-to-noise ratio 1/s^2, at most gamma
(Min-SNR). `PredictData` learns low levels better with these weights.

If few of the sampled levels carry the loss, training also gives meaningless results. So a `Diffusion` checks this when
it is built. The weight of an error of F is w(s). For data of sd 1 and the best linear denoiser, the loss of a row is w
/ b^2 s^2 / (1 + s^2). For each of these two quantities v, (E v)^2 / E v^2 is the fraction of levels that carry the
loss.

References:
    | Progressive Distillation for Fast Sampling of Diffusion Models (Salimans & Ho, 2022),
      https://arxiv.org/abs/2202.00512
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
      https://arxiv.org/abs/2206.00364
    | Maximum Likelihood Training of Score-Based Diffusion Models (Song et al., 2021), https://arxiv.org/abs/2101.09258
    | Efficient Diffusion Training via Min-SNR Weighting Strategy (Hang et al., 2023), https://arxiv.org/abs/2303.09556
    | Variational Diffusion Models (Kingma et al., 2021), https://arxiv.org/abs/2107.00630 (levels drawn evenly spread)
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.component import Component
from sciinf.networks.diffusion.schedule import NoiseLevel, NoiseSchedule

Times = Float[Tensor, "*rows"]
# Smallest fraction of the sampled levels that carry the loss. Below this fraction, a `Diffusion` warns.
LEAST_SHARE = 0.01
Network = Callable[[Tensor, Tensor], Tensor]
"""F: c_in x_t (*rows, D) and log s, of shape () or (*rows), to (*rows, D)."""


class Parameterisation(Component, ABC):
    """The quantity that a network approximates, and how the denoiser follows from this quantity."""

    @abstractmethod
    def coefficients(self, schedule: NoiseSchedule, t: Times) -> tuple[Times, Times]:
        """Coefficients a and b of the denoiser D = a x_t + b F, at time t."""


class PredictNoise(Parameterisation):
    """The network approximates the noise e."""

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> tuple[Times, Times]:
        return 1 / schedule.alpha(t), -schedule.level(t)


class PredictData(Parameterisation):
    """The network approximates the data x_0."""

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> tuple[Times, Times]:
        return torch.zeros_like(t), torch.ones_like(t)


class PredictVelocity(Parameterisation):
    """The network approximates v, which changes from noise to data as noise levels rise."""

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> tuple[Times, Times]:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        square = alpha**2 + sigma**2
        return alpha / square, -sigma / square.sqrt()


class PredictScore(Parameterisation):
    """The network approximates the score of x_t, multiplied by sigma."""

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> tuple[Times, Times]:
        return 1 / schedule.alpha(t), schedule.level(t)


class PredictDrift(Parameterisation):
    """The network approximates the velocity of x_t along its path, divided by the size r of this velocity."""

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> tuple[Times, Times]:
        drift, diffusion = schedule.rates(t)
        alpha = schedule.alpha(t)
        rate = 0.5 * diffusion / schedule.sigma(t) ** 2
        size = (0.5 * ((drift * alpha) ** 2 + (schedule.sigma(t) * (drift + rate)) ** 2)).sqrt()
        return (drift + rate) / (alpha * rate), -size / (alpha * rate)


class Preconditioned(Parameterisation):
    """The network approximates the residual of the best linear denoiser, scaled to variance 1.

    The input of the network has variance 1 as well, at every noise level.
    """

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> tuple[Times, Times]:
        s = schedule.level(t)
        return 1 / (schedule.alpha(t) * (1 + s**2)), s / (1 + s**2).sqrt()


class NoiseLevels(Component, ABC):
    """The distribution of noise levels in training."""

    @abstractmethod
    def draw(self, schedule: NoiseSchedule, uniform: Times) -> tuple[Times, Times]:
        """Levels s from uniform numbers u in (0, 1), and p(s) s, the density of log s at these levels."""


class EvenTimes(NoiseLevels):
    """Noise levels whose times are distributed uniformly."""

    def draw(self, schedule: NoiseSchedule, uniform: Times) -> tuple[Times, Times]:
        first, last = schedule.span()
        t = first + (last - first) * uniform
        _, diffusion = schedule.rates(t)
        rate = 0.5 * diffusion / schedule.sigma(t) ** 2  # This is d log s / dt.
        return schedule.level(t), 1 / ((last - first) * rate)


class EvenLogs(NoiseLevels):
    """Noise levels whose logarithms are distributed uniformly."""

    def draw(self, schedule: NoiseSchedule, uniform: Times) -> tuple[Times, Times]:
        width = math.log(schedule.most / schedule.least)
        return schedule.least * torch.exp(width * uniform), torch.full_like(uniform, 1 / width)


class NormalLogs(NoiseLevels):
    """Noise levels whose logarithms are normally distributed, truncated at the path's ends.

    Args:
        mean: Mean of log s.
        sd: Standard deviation of log s.

    Raises:
        ValueError: Unless sd is above 0.
    """

    def __init__(self, mean: float = -1.0, sd: float = 1.6) -> None:
        if not sd > 0:
            raise ValueError(f"NormalLogs needs an sd above 0, got {sd}")
        self.mean, self.sd = float(mean), float(sd)

    def draw(self, schedule: NoiseSchedule, uniform: Times) -> tuple[Times, Times]:
        ends = [(math.log(level) - self.mean) / self.sd for level in (schedule.least, schedule.most)]
        low, high = (0.5 * math.erfc(-end / math.sqrt(2)) for end in ends)
        z = torch.special.ndtri((low + (high - low) * uniform.double()).clamp(1e-15, 1 - 1e-15))
        density = torch.exp(-0.5 * z**2) / (math.sqrt(2 * math.pi) * self.sd * (high - low))
        return (self.mean + self.sd * z).exp().to(uniform), density.to(uniform)


class Weighting(Component, ABC):
    """The weight of each noise level in the training objective."""

    @abstractmethod
    def weight(self, level: Times, scale: Times, density: Times) -> Times:
        """Factor of |D - x_0|^2 in the loss.

        Args:
            level: Noise level s.
            scale: Coefficient b of the parameterisation.
            density: Density of log s from which levels are sampled.
        """


class EvenWeights(Weighting):
    """Equal weights for all levels, for errors of the network's output F."""

    def weight(self, level: Times, scale: Times, density: Times) -> Times:
        return 1 / scale**2


class LikelihoodWeights(Weighting):
    """Weights that make the loss a bound on the negative log-likelihood."""

    def weight(self, level: Times, scale: Times, density: Times) -> Times:
        return 1 / (level**2 * density)


class ClippedWeights(Weighting):
    """The signal-to-noise ratio 1/s^2 as weight, but at most gamma (Min-SNR).

    Args:
        gamma: Largest weight.

    Raises:
        ValueError: Unless gamma is above 0.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        if not gamma > 0:
            raise ValueError(f"ClippedWeights needs gamma above 0, got {gamma}")
        self.gamma = float(gamma)

    def weight(self, level: Times, scale: Times, density: Times) -> Times:
        return (1 / level**2).clamp_max(self.gamma)


class Diffusion(Component):
    """A diffusion model's path, parameterisation and training objective.

    Args:
        schedule: Path from data to noise. None uses EDM's path.
        parameterisation: Quantity that the network approximates. None uses EDM's choice, `Preconditioned`.
        levels: Distribution of noise levels in training. None uses `NormalLogs`.
        weighting: Weights of the noise levels. None uses `EvenWeights`.

    Warns:
        UserWarning: If less than 1 % of the sampled levels carry the loss.
    """

    def __init__(
        self,
        schedule: NoiseSchedule | None = None,
        parameterisation: Parameterisation | None = None,
        levels: NoiseLevels | None = None,
        weighting: Weighting | None = None,
    ) -> None:
        self.schedule = schedule or NoiseLevel()
        self.parameterisation = parameterisation or Preconditioned()
        self.levels, self.weighting = levels or NormalLogs(), weighting or EvenWeights()
        share = self._share()
        if not share >= LEAST_SHARE:
            parts = ", ".join(type(part).__name__ for part in (self.parameterisation, self.levels, self.weighting))
            warnings.warn(
                f"with {parts} on the path {type(self.schedule).__name__}, {share:.2%} of the noise levels drawn carry "
                "the loss, so training may fail; leave out the weighting, or draw levels with EvenLogs()",
                stacklevel=2,
            )

    def _share(self) -> float:
        """Fraction of the sampled levels that carry the loss: the smaller (E v)^2 / E v^2 of the two quantities v."""
        uniform = (torch.arange(1_024, dtype=torch.float64) + 0.5) / 1_024
        level, density = self.levels.draw(self.schedule, uniform)
        _, scale = self.parameterisation.coefficients(self.schedule, self.schedule.time(level))
        weight = self.weighting.weight(level, scale, density)
        carried = torch.stack([weight * scale**2, weight * level**2 / (1 + level**2)])
        return float((carried.mean(1) ** 2 / carried.square().mean(1)).amin())

    def denoise(self, network: Network, y: Float[Tensor, "*rows dim"], level: Times) -> Float[Tensor, "*rows dim"]:
        """The denoiser D at y = x_t / alpha, for a noise level s of shape () or (*rows)."""
        time = self.schedule.time(level)
        skip, scale = self.parameterisation.coefficients(self.schedule, time)
        alpha = self.schedule.alpha(time)
        shown = y / (1 + level**2).sqrt()[..., None]
        return (skip * alpha)[..., None] * y + scale[..., None] * network(shown, level.log())

    def loss(
        self,
        network: Network,
        data: Float[Tensor, "batch dim"],
        *,
        generator: torch.Generator,
        counted: Float[Tensor, "batch dim"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Training loss of each row, at one noise level per row.

        The levels of a batch are spread evenly over their distribution. The noise is random.

        Args:
            network: Network F.
            data: Data x_0, of about unit sd.
            generator: Source of noise and levels.
            counted: 1 for numbers that enter the loss and 0 for others, with at least one 1 in each row. None counts
                all.
        """
        noise, level, density = self.noise(data, generator)
        _, scale = self.parameterisation.coefficients(self.schedule, self.schedule.time(level))
        off = self.denoise(network, data + level[:, None] * noise, level) - data
        mean = off.square().mean(-1) if counted is None else (counted * off.square()).sum(-1) / counted.sum(-1)
        return self.weighting.weight(level, scale, density) * mean

    def noise(self, data: Float[Tensor, "batch dim"], generator: torch.Generator) -> tuple[Tensor, Times, Times]:
        """Noise of the data's shape, a noise level for each row, and the density of log s at this level.

        The levels are spread evenly over the batch.
        """
        device, uniform = data.device, torch.arange(len(data), device=data.device, dtype=data.dtype) + 0.5
        noise = torch.randn(data.shape, generator=generator, device=generator.device, dtype=data.dtype).to(device)
        shift = torch.rand(1, generator=generator, device=generator.device, dtype=data.dtype).to(device)
        level, density = self.levels.draw(self.schedule, (shift + uniform / len(data)) % 1.0)
        return noise, level, density
