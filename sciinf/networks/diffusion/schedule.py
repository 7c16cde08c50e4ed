r"""How noise enters: a path from data to noise, and the clock along it.

At time t a datum x_0 in R^D has become

    x_t = alpha(t) x_0 + sigma(t) e,    e ~ N(0, I),

the law at time t of the linear SDE dx = f(t) x dt + g(t) dW with

    f = alpha'/alpha,    g^2 = 2 sigma^2 (log s)',    s(t) = sigma(t) / alpha(t),

s, the noise level, growing with t. In y = x_t / alpha all paths are one: y = x_0 + s e. So what solvers and objectives
need to know of a path is the level at a time and the time of a level; which path it is decides what a network is
shown, and how times in between are spread.

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
        least: Level at which data count as free of noise; well below the sd of what is to be resolved, in units of the
            sd of the data.
        most: Level at which nothing is left of them.

    Raises:
        ValueError: Unless 0 < least < most, both finite.
    """

    def __init__(self, least: float, most: float) -> None:
        if not 0 < least < most < math.inf:
            raise ValueError(f"noise levels go from least to most with 0 < least < most, got {least} and {most}")
        self.least, self.most = float(least), float(most)

    @abstractmethod
    def alpha(self, t: Times) -> Times:
        """How much of the data is left."""

    @abstractmethod
    def time(self, level: Times) -> Times:
        """The time at which the noise level is s."""

    @abstractmethod
    def level(self, t: Times) -> Times:
        """The noise level s = sigma / alpha."""

    @abstractmethod
    def rates(self, t: Times) -> tuple[Times, Times]:
        """f and g^2 of the SDE."""

    def sigma(self, t: Times) -> Times:
        """How much noise has come."""
        return self.level(t) * self.alpha(t)

    def span(self) -> tuple[float, float]:
        """The first and the last time."""
        first, last = self.time(torch.tensor([self.least, self.most], dtype=torch.float64)).tolist()
        return first, last


class VariancePreserving(NoiseSchedule):
    """The path of denoising diffusion whose rate of noise grows linearly.

    Args:
        slowest: b_0.
        fastest: b_1; where the level ends is exp(-(b_0 + b_1) / 4) of the data left.
        least: See `NoiseSchedule`.

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
    """The path with the drift of `VariancePreserving` and always less noise.

    Args:
        slowest: b_0.
        fastest: b_1.
        least: See `NoiseSchedule`.

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
        least: See `NoiseSchedule`.
        most: See `NoiseSchedule`.
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
    """The path that only adds noise, its level growing by a constant factor per time.

    Args:
        least: a.
        most: b.
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
    """The path whose time is the noise level itself, as in EDM.

    Args:
        least: See `NoiseSchedule`.
        most: See `NoiseSchedule`.
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
    """The straight line from data to noise, as in flow matching; its ends, where s is 0 and infinite, are cut.

    Args:
        least: See `NoiseSchedule`.
        most: See `NoiseSchedule`.
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
    """b(t), the integral of the rate."""
    return slowest * t + 0.5 * (fastest - slowest) * t**2


def _when(slowest: float, fastest: float, spent: Times) -> Times:
    """The time at which b(t) is as given; written so that nothing cancels where it is small."""
    return 2 * spent / (slowest + torch.sqrt(slowest**2 + 2 * (fastest - slowest) * spent))
