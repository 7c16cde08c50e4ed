r"""What a network is asked for, and how much each noise level counts.

A network F sees c_in x_t and the level s, and stands for the denoiser D(x_t, s) = E[x_0 | x_t] through

    D = a(t) x_t + b(t) F,    c_in = 1 / sqrt(alpha^2 + sigma^2):

| parameterisation | what F approximates | a | b |
|---|---|---|---|
| `PredictNoise` | e | 1 / alpha | -s |
| `PredictData` | x_0 | 0 | 1 |
| `PredictVelocity` | v = (alpha e - sigma x_0) / c, c^2 = alpha^2 + sigma^2 | alpha / c^2 | -sigma / c |
| `PredictScore` | sigma grad log p_t(x_t) | 1 / alpha | s |
| `PredictDrift` | dx_t/dt / r = (alpha' x_0 + sigma' e) / r, r^2 = (alpha'^2 + sigma'^2) / 2 | as below | as below |
| `Preconditioned` | what is left of x_0 beside the best linear guess | 1 / (alpha (1 + s^2)) | s / sqrt(1 + s^2) |

where data have sd 1. Every target has a size of the order of 1 at every level: a score grows as 1 / sigma and a drift
may grow or fall by orders of magnitude on its path, and networks asked for these themselves train to nonsense, so the
one is taken times sigma and the other over r, which is 1 in flow matching (`Straight`). For `PredictDrift`,
alpha' = f alpha and sigma' = sigma (f + k) with k = (log s)' = g^2 / (2 sigma^2), so that a = (f + k) / (alpha k) and
b = -r / (alpha k).

Training draws a level for each row and minimises, with a weighting w,

    E_{x_0, e, s} [ w(s) |F - F*|^2 ] / D = E [ w(s) / b^2 |D(x_t, s) - x_0|^2 ] / D.

`EvenWeights` (w = 1) counts all levels alike in what F approximates. `LikelihoodWeights` makes it, up to a constant,
the bound on -log q(x_0) of the reverse process, E_s [ |D - x_0|^2 / (s^3 p(s)) ], p the density of the levels drawn.
`ClippedWeights` is w = 1 in x_0 at most gamma signal-to-noise ratios 1/s^2 (Min-SNR); `PredictData` learns low levels
better with it.

A loss that hangs on few of the levels drawn trains to nonsense too, so a `Diffusion` looks at this when it is built. An
error of F counts as w(s), and of data with sd 1 and the best linear denoiser a row's loss is w / b^2 s^2 / (1 + s^2).
Of either, v, (E v)^2 / E v^2 is the share of levels that count.

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
LEAST_SHARE = 0.01  # of the levels drawn that carry the loss; below, a Diffusion warns
Network = Callable[[Tensor, Tensor], Tensor]
"""F: c_in x_t (*rows, D) and log s, of shape () or (*rows), to (*rows, D)."""


class Parameterisation(Component, ABC):
    """What the network stands for."""

    @abstractmethod
    def coefficients(self, schedule: NoiseSchedule, t: Times) -> tuple[Times, Times]:
        """a and b."""


class PredictNoise(Parameterisation):
    """The noise e."""

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> tuple[Times, Times]:
        return 1 / schedule.alpha(t), -schedule.level(t)


class PredictData(Parameterisation):
    """The data x_0."""

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> tuple[Times, Times]:
        return torch.zeros_like(t), torch.ones_like(t)


class PredictVelocity(Parameterisation):
    """v, which turns from noise into data as levels rise."""

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> tuple[Times, Times]:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        square = alpha**2 + sigma**2
        return alpha / square, -sigma / square.sqrt()


class PredictScore(Parameterisation):
    """The score of x_t, times sigma."""

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> tuple[Times, Times]:
        return 1 / schedule.alpha(t), schedule.level(t)


class PredictDrift(Parameterisation):
    """The velocity of x_t along its path, over its size."""

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> tuple[Times, Times]:
        drift, diffusion = schedule.rates(t)
        alpha = schedule.alpha(t)
        rate = 0.5 * diffusion / schedule.sigma(t) ** 2
        size = (0.5 * ((drift * alpha) ** 2 + (schedule.sigma(t) * (drift + rate)) ** 2)).sqrt()
        return (drift + rate) / (alpha * rate), -size / (alpha * rate)


class Preconditioned(Parameterisation):
    """What the best linear guess leaves, scaled so that both input and target have variance 1 at every level."""

    def coefficients(self, schedule: NoiseSchedule, t: Times) -> tuple[Times, Times]:
        s = schedule.level(t)
        return 1 / (schedule.alpha(t) * (1 + s**2)), s / (1 + s**2).sqrt()


class NoiseLevels(Component, ABC):
    """How noise levels are drawn in training."""

    @abstractmethod
    def draw(self, schedule: NoiseSchedule, uniform: Times) -> tuple[Times, Times]:
        """Levels s from numbers u in (0, 1), and p(s) s, the density of log s there."""


class EvenTimes(NoiseLevels):
    """Times drawn uniformly."""

    def draw(self, schedule: NoiseSchedule, uniform: Times) -> tuple[Times, Times]:
        first, last = schedule.span()
        t = first + (last - first) * uniform
        _, diffusion = schedule.rates(t)
        rate = 0.5 * diffusion / schedule.sigma(t) ** 2  # d log s / dt
        return schedule.level(t), 1 / ((last - first) * rate)


class EvenLogs(NoiseLevels):
    """log s drawn uniformly."""

    def draw(self, schedule: NoiseSchedule, uniform: Times) -> tuple[Times, Times]:
        width = math.log(schedule.most / schedule.least)
        return schedule.least * torch.exp(width * uniform), torch.full_like(uniform, 1 / width)


class NormalLogs(NoiseLevels):
    """log s drawn from a normal distribution, cut at the path's ends.

    Args:
        mean: Of log s.
        sd: Of log s.

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
    """How much each level counts."""

    @abstractmethod
    def weight(self, level: Times, scale: Times, density: Times) -> Times:
        """Factor of |D - x_0|^2.

        Args:
            level: s.
            scale: b.
            density: Of log s, that levels are drawn from.
        """


class EvenWeights(Weighting):
    """All alike, in what the network approximates."""

    def weight(self, level: Times, scale: Times, density: Times) -> Times:
        return 1 / scale**2


class LikelihoodWeights(Weighting):
    """The bound on the negative log-likelihood."""

    def weight(self, level: Times, scale: Times, density: Times) -> Times:
        return 1 / (level**2 * density)


class ClippedWeights(Weighting):
    """The signal-to-noise ratio, at most gamma of it.

    Args:
        gamma: The largest weight.

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
    """A path, what the network is asked for along it, and how it is trained.

    Args:
        schedule: The path; EDM's where left out.
        parameterisation: What the network stands for; EDM's where left out.
        levels: How levels are drawn in training.
        weighting: How much they count.

    Warns:
        UserWarning: If less than 1 % of the levels drawn carry the loss.
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
                "the loss, and training may end in nonsense; leave out the weighting, or draw levels with EvenLogs()",
                stacklevel=2,
            )

    def _share(self) -> float:
        """The smaller (E v)^2 / E v^2, of levels drawn."""
        uniform = (torch.arange(1_024, dtype=torch.float64) + 0.5) / 1_024
        level, density = self.levels.draw(self.schedule, uniform)
        _, scale = self.parameterisation.coefficients(self.schedule, self.schedule.time(level))
        weight = self.weighting.weight(level, scale, density)
        carried = torch.stack([weight * scale**2, weight * level**2 / (1 + level**2)])
        return float((carried.mean(1) ** 2 / carried.square().mean(1)).amin())

    def denoise(self, network: Network, y: Float[Tensor, "*rows dim"], level: Times) -> Float[Tensor, "*rows dim"]:
        """D at y = x_t / alpha and level s, of shape () or (*rows)."""
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
        """The objective for each datum, at one level each; levels of a batch are spread evenly, noise is drawn.

        Args:
            network: F.
            data: x_0, of about unit sd.
            generator: For noise and levels.
            counted: 1 for numbers that count and 0 for others, some in each row; all count where left out.
        """
        noise, level, density = self.noise(data, generator)
        _, scale = self.parameterisation.coefficients(self.schedule, self.schedule.time(level))
        off = self.denoise(network, data + level[:, None] * noise, level) - data
        mean = off.square().mean(-1) if counted is None else (counted * off.square()).sum(-1) / counted.sum(-1)
        return self.weighting.weight(level, scale, density) * mean

    def noise(self, data: Float[Tensor, "batch dim"], generator: torch.Generator) -> tuple[Tensor, Times, Times]:
        """Noise like data, a level for each, and the density of its logarithm; levels are spread over a batch."""
        device, uniform = data.device, torch.arange(len(data), device=data.device, dtype=data.dtype) + 0.5
        noise = torch.randn(data.shape, generator=generator, device=generator.device, dtype=data.dtype).to(device)
        shift = torch.rand(1, generator=generator, device=generator.device, dtype=data.dtype).to(device)
        level, density = self.levels.draw(self.schedule, (shift + uniform / len(data)) % 1.0)
        return noise, level, density
