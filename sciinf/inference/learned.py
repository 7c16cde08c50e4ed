"""What posteriors that follow from a learned density have in common."""

from __future__ import annotations

from abc import ABC

import torch

from sciinf.core import Draws, Posterior, X


class Learned(Posterior, ABC):
    """A posterior whose draws are unweighted draws of a learned density.

    Beside what every posterior has, a subclass sets `only` (which observations it holds for, in words; empty where for
    all), `whole` (whether its density is above zero wherever the prior's is) and `failed` (how many simulations failed,
    and were not learned from). What else `scope` says is about the law that was learned, which weights mend.
    """

    only: str = ""
    whole: bool = True
    failed: int = 0

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        """n unweighted draws for one observation.

        Raises:
            ValueError: If the posterior does not hold for it.
        """
        theta = self.draw_batched(x, n, generator=generator)[:, 0]
        return Draws(self.prior.names, self.prior.units, theta, torch.zeros(n, dtype=torch.float64))


def holds_for(posterior: Posterior) -> str:
    """Which observations alone a posterior holds for, in words; empty if for all."""
    return posterior.only if isinstance(posterior, Learned) else posterior.scope


def covers(posterior: Posterior) -> bool:
    """Whether a posterior has a density above zero wherever the prior has one, as far as is known."""
    return posterior.whole if isinstance(posterior, Learned) else True


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator on a device: the same, or one that it seeds."""
    if generator.device.type == device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.Generator(device).manual_seed(seed)
