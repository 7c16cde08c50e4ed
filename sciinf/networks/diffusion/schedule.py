r"""Noise schedules: paths from data to noise, with the time along each path.

At time t, a data point x_0 in R^D has become

    x_t = alpha(t) x_0 + sigma(t) e,    e ~ N(0, I),

distributed as the solution at time t of the linear SDE dx = f(t) x dt + g(t) dW with

    f = alpha'/alpha,    g^2 = 2 sigma^2 (log s)',    s(t) = sigma(t) / alpha(t),

The noise level s grows with t. In the variable y = x_t / alpha, all paths are equal: y = x_0 + s e. So solvers and
objectives need only the level at a time and the time of a level. The choice of the path determines the inputs of the
network, and the spacing of times.

| path | alpha | sigma | s |
|---|---|---|---|
| `VariancePreserving` | exp(-b/2), b(t) = b_0 t + (b_1 - b_0) t^2 / 2 | sqrt(1 - alpha^2) | sqrt(e^b - 1) |
| `Cosine` | cos(pi t / 2) | sin(pi t / 2) | tan(pi t / 2) |
| `SubVariancePreserving` | exp(-b/2) | 1 - alpha^2 | 2 sinh(b/2) |
| `VarianceExploding` | 1 | a^(1-t) b^t | sigma |
| `NoiseLevel` | 1 | t | t |
| `Straight` | 1 - t | t | t / (1 - t) |

References:
    | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021),
      https://arxiv.org/abs/2011.13456
    | Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), https://arxiv.org/abs/2102.09672
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
      https://arxiv.org/abs/2206.00364
    | Flow Matching for Generative Modeling (Lipman et al., 2023), https://arxiv.org/abs/2210.02747
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.component import Component

Times = Float[Tensor, "*batch"]


class NoiseSchedule(Component, ABC):
    """A path from data to noise.

    Args:
        least: Noise level at which data count as free of noise, in units of the data's sd. The level should be well
            below the sd of the finest structure of interest.
        most: Noise level at which no information on the data is left.

    Raises:
        ValueError: Unless 0 < least < most, both finite.
    """

    def __init__(self, least: float, most: float) -> None:
        if not 0 < least < most < math.inf:
            raise ValueError(f"noise levels go from least to most with 0 < least < most, got {least} and {most}")
        self.least, self.most = float(least), float(most)

    @abstractmethod
    def alpha(self, t: Times) -> Times:
        """Scale of the data at time t."""

    @abstractmethod
    def time(self, level: Times) -> Times:
        """The time at which the noise level is s."""

    @abstractmethod
    def level(self, t: Times) -> Times:
        """The noise level s = sigma / alpha."""

    @abstractmethod
    def rates(self, t: Times) -> tuple[Times, Times]:
        """Drift coefficient f and squared diffusion coefficient g^2 of the SDE at time t."""

    def sigma(self, t: Times) -> Times:
        """Standard deviation of the noise at time t."""
        return self.level(t) * self.alpha(t)

    def span(self) -> tuple[float, float]:
        """The first and the last time of the path."""
        first, last = self.time(torch.tensor([self.least, self.most], dtype=torch.float64)).tolist()
        return first, last


class VariancePreserving(NoiseSchedule):
    """The variance-preserving path of denoising diffusion, whose noise rate grows linearly in time.

    Args:
        slowest: b_0, the noise rate at time 0.
        fastest: b_1, the noise rate at time 1. At the highest level, the data have the scale exp(-(b_0 + b_1) / 4).
        least: Lowest noise level; see `NoiseSchedule`.

    Raises:
        ValueError: Unless 0 <= slowest < fastest.
    """

    def __init__(self, slowest: float = 0.1, fastest: float = 20.0, least: float = 1e-3) -> None:
        self.slowest, self.fastest = _rates("VariancePreserving", slowest, fastest)
        super().__init__(least, math.sqrt(math.expm1((slowest + fastest) / 2)))

    def alpha(self, t: Times) -> Times:
        return torch.exp(-0.5 * _spent(self.slowest, self.fastest, t))

    def level(self, t: Times) -> Times:
        return torch.expm1(_spent(self.slowest, self.fastest, t)).sqrt()

    def time(self, level: Times) -> Times:
        return _when(self.slowest, self.fastest, torch.log1p(level**2))

    def rates(self, t: Times) -> tuple[Times, Times]:
        rate = self.slowest + (self.fastest - self.slowest) * t
        return -0.5 * rate, rate


class SubVariancePreserving(NoiseSchedule):
    """The path with the same drift as `VariancePreserving` and less noise at all times.

    Args:
        slowest: b_0, the noise rate at time 0.
        fastest: b_1, the noise rate at time 1.
        least: Lowest noise level; see `NoiseSchedule`.

    Raises:
        ValueError: Unless 0 <= slowest < fastest.
    """

    def __init__(self, slowest: float = 0.1, fastest: float = 20.0, least: float = 1e-3) -> None:
        self.slowest, self.fastest = _rates("SubVariancePreserving", slowest, fastest)
        super().__init__(least, 2 * math.sinh((slowest + fastest) / 4))

    def alpha(self, t: Times) -> Times:
        return torch.exp(-0.5 * _spent(self.slowest, self.fastest, t))

    def level(self, t: Times) -> Times:
        return 2 * torch.sinh(0.5 * _spent(self.slowest, self.fastest, t))

    def time(self, level: Times) -> Times:
        return _when(self.slowest, self.fastest, 2 * torch.asinh(0.5 * level))

    def rates(self, t: Times) -> tuple[Times, Times]:
        rate = self.slowest + (self.fastest - self.slowest) * t
        return -0.5 * rate, -rate * torch.expm1(-2 * _spent(self.slowest, self.fastest, t))


class Cosine(NoiseSchedule):
    """The variance-preserving path along a quarter of a circle, which spends more time at middle levels.

    Args:
        least: Lowest noise level; see `NoiseSchedule`.
        most: Highest noise level; see `NoiseSchedule`.
    """

    def __init__(self, least: float = 1e-3, most: float = 1e3) -> None:
        super().__init__(least, most)

    def alpha(self, t: Times) -> Times:
        return torch.cos(0.5 * math.pi * t)

    def level(self, t: Times) -> Times:
        return torch.tan(0.5 * math.pi * t)

    def time(self, level: Times) -> Times:
        return torch.atan(level) * (2 / math.pi)

    def rates(self, t: Times) -> tuple[Times, Times]:
        rate = math.pi * torch.tan(0.5 * math.pi * t)
        return -0.5 * rate, rate


class VarianceExploding(NoiseSchedule):
    """The path that only adds noise, whose level grows by a constant factor per unit of time.

    Args:
        least: a, the lowest noise level.
        most: b, the highest noise level.
    """

    def __init__(self, least: float = 1e-3, most: float = 50.0) -> None:
        super().__init__(least, most)

    def alpha(self, t: Times) -> Times:
        return torch.ones_like(t)

    def level(self, t: Times) -> Times:
        return self.least * torch.exp(t * math.log(self.most / self.least))

    def time(self, level: Times) -> Times:
        return torch.log(level / self.least) / math.log(self.most / self.least)

    def rates(self, t: Times) -> tuple[Times, Times]:
        return torch.zeros_like(t), 2 * math.log(self.most / self.least) * self.level(t) ** 2


class NoiseLevel(NoiseSchedule):
    """The path whose time is the noise level itself, as in EDM (Karras et al.).

    Args:
        least: Lowest noise level; see `NoiseSchedule`.
        most: Highest noise level; see `NoiseSchedule`.
    """

    def __init__(self, least: float = 1e-3, most: float = 80.0) -> None:
        super().__init__(least, most)

    def alpha(self, t: Times) -> Times:
        return torch.ones_like(t)

    def level(self, t: Times) -> Times:
        return t

    def time(self, level: Times) -> Times:
        return level

    def rates(self, t: Times) -> tuple[Times, Times]:
        return torch.zeros_like(t), 2 * t


class Straight(NoiseSchedule):
    """The straight line from data to noise, as in flow matching, without its ends, where s is 0 or infinite.

    Args:
        least: Lowest noise level; see `NoiseSchedule`.
        most: Highest noise level; see `NoiseSchedule`.
    """

    def __init__(self, least: float = 1e-3, most: float = 1e3) -> None:
        super().__init__(least, most)

    def alpha(self, t: Times) -> Times:
        return 1 - t

    def level(self, t: Times) -> Times:
        return t / (1 - t)

    def time(self, level: Times) -> Times:
        return level / (1 + level)

    def rates(self, t: Times) -> tuple[Times, Times]:
        return -1 / (1 - t), 2 * t / (1 - t)


def _rates(name: str, slowest: float, fastest: float) -> tuple[float, float]:
    if not 0 <= slowest < fastest <= 1_000:
        raise ValueError(f"{name} needs 0 <= slowest < fastest <= 1000, got {slowest} and {fastest}")
    return float(slowest), float(fastest)


def _spent(slowest: float, fastest: float, t: Times) -> Times:
    """b(t), the integral of the noise rate from time 0 to t."""
    return slowest * t + 0.5 * (fastest - slowest) * t**2


def _when(slowest: float, fastest: float, spent: Times) -> Times:
    """The time at which b(t) has a given value, by a formula without cancellation for small values."""
    return 2 * spent / (slowest + torch.sqrt(slowest**2 + 2 * (fastest - slowest) * spent))
