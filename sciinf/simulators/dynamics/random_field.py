r"""Initial fields of a simulation: Gaussian random fields, and fixed waves.

A periodic Gaussian field of mean 0 has independent Fourier coefficients whose variances follow the spectrum

    S(k) ~ (tau^2 + L^2 |k|^2)^(-alpha),     k != 0,

where L is the longest side of the box. The smoothness of the field is alpha - d/2 in d directions, and its longest
waves have the length 2 pi L / tau. The field is scaled so that every point has the requested sd.

References:
    | Fourier Neural Operator for Parametric Partial Differential Equations, appendix A.3 (Li et al., 2021),
      https://arxiv.org/abs/2010.08895
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.component import Component
from sciinf.simulators.dynamics.grid import BoxGrid

Fields = Float[Tensor, "count channels *space"]


class Start(Component, ABC):
    """Distribution of the initial fields of a solution."""

    random: ClassVar[bool]

    @abstractmethod
    def draw(self, count: int, channels: int, grid: BoxGrid, *, generator: torch.Generator) -> Fields:
        """Draw initial fields, float64, on the generator's device.

        Args:
            count: Number of rows.
            channels: Number of channels of each row.
            grid: Grid of the fields.
            generator: Source of randomness.
        """


class RandomField(Start):
    """Gaussian random fields, drawn independently for each row and channel.

    Args:
        sd: Standard deviation at every point.
        tau: Inverse scale of the longest waves. Waves longer than 2 pi / tau of the box's longest side have about equal
            strength.
        alpha: Exponent by which shorter waves weaken; above half the number of directions.

    Raises:
        ValueError: If a number is not positive.
    """

    random = True

    def __init__(self, sd: float = 1.0, *, tau: float = 5.0, alpha: float = 2.0) -> None:
        if min(sd, tau, alpha) <= 0:
            raise ValueError(f"a random field takes positive numbers, got sd={sd}, tau={tau}, alpha={alpha}")
        self.sd, self.tau, self.alpha = sd, tau, alpha

    def draw(self, count: int, channels: int, grid: BoxGrid, *, generator: torch.Generator) -> Fields:
        if grid.periodic:
            return self._periodic(count, channels, grid, max(grid.lengths), generator)
        # The field is a corner of a periodic field in a box twice as long, so that opposite edges need not match.
        wide = BoxGrid(tuple(2 * n for n in grid.shape), tuple(2 * n * h for n, h in _each(grid)))
        part = (..., *(slice(0, n) for n in grid.shape))
        return self._periodic(count, channels, wide, max(grid.lengths), generator)[part]

    def filter(self, grid: BoxGrid, longest: float | None = None) -> Float[Tensor, "*modes"]:
        """Factor of each Fourier coefficient that turns white noise into a random field of sd 1.

        Args:
            grid: Periodic grid of the noise.
            longest: Length L to which tau refers; by default the longest side of the grid's box.
        """
        squared = grid.squared * (longest or max(grid.lengths)) ** 2
        spectrum = (self.tau**2 + squared) ** -self.alpha
        spectrum = torch.where(squared == 0, torch.zeros_like(spectrum), spectrum)
        twice = torch.full_like(spectrum, 2.0)  # A mode of a real transform also stands for its conjugate.
        twice[..., 0] = 1.0
        if grid.shape[-1] % 2 == 0:
            twice[..., -1] = 1.0
        return (spectrum / (twice * spectrum).sum() * math.prod(grid.shape)).sqrt()

    def _periodic(self, count: int, channels: int, grid: BoxGrid, longest: float, generator: torch.Generator) -> Tensor:
        shape, device = (count, channels, *grid.shape), generator.device
        noise = torch.randn(shape, generator=generator, dtype=torch.float64, device=device)
        return self.sd * grid.back(grid.transformed(noise) * self.filter(grid, longest).to(device))


class Waves(Start):
    """Fixed initial field: a sum of sines along the first direction, the same in every row and channel.

    Args:
        amplitudes: Amplitudes of the waves with 1, 2, ... periods in the box.
        phases: Phases of the waves, in units of a period; 0 for waves without a given phase.

    Raises:
        ValueError: If there are more phases than amplitudes, or no amplitudes.
    """

    random = False

    def __init__(self, amplitudes: Sequence[float] = (1.0,), phases: Sequence[float] = ()) -> None:
        if not amplitudes or len(phases) > len(amplitudes):
            raise ValueError(f"{len(amplitudes)} amplitudes and {len(phases)} phases: give a phase for each or none")
        self.amplitudes, self.phases = tuple(amplitudes), tuple(phases) + (0.0,) * (len(amplitudes) - len(phases))

    def draw(self, count: int, channels: int, grid: BoxGrid, *, generator: torch.Generator) -> Fields:
        x, total = grid.coordinates[0] / grid.lengths[0], torch.zeros((), dtype=torch.float64)
        for k, (amplitude, phase) in enumerate(zip(self.amplitudes, self.phases, strict=True)):
            total = total + amplitude * torch.sin(2 * math.pi * ((k + 1) * x + phase))
        return total.to(generator.device).expand(count, channels, *grid.shape)


class Known(Start):
    """Fixed initial field: one draw from another distribution, used in every row.

    Args:
        law: Distribution of initial fields from which the field is drawn.
        seed: Seed of the draw.
    """

    random = False

    def __init__(self, law: Start, seed: int = 0) -> None:
        self.law, self.seed = law, seed

    def draw(self, count: int, channels: int, grid: BoxGrid, *, generator: torch.Generator) -> Fields:
        one = self.law.draw(1, channels, grid, generator=torch.Generator().manual_seed(self.seed))
        return one.to(generator.device).expand(count, *one.shape[1:])


def _each(grid: BoxGrid) -> zip[tuple[int, float]]:
    return zip(grid.shape, grid.spacing, strict=True)
