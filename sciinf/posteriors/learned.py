"""What posteriors that follow from a learned density have in common.

A flow may put a thousandth of its draws anywhere: that costs a thousandth of a nat, which no training sees, and ten
draws of ten thousand that lie ten sds out make an sd 1.4 times too large. So the draws of an answer are those in the
flow's region of highest density that holds 99.9 %, as truncated rounds of training have it (Deistler et al., 2022,
https://arxiv.org/abs/2210.04815). Of a normal law that takes .6 % of the sd, and less in each of several dimensions;
quantiles to 99 % hardly move. Draws of batches, on which calibration and weights by a likelihood rest, are all of them.
"""

from __future__ import annotations

from abc import ABC

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Draws, Posterior, X
from sciinf.core.categories import categories_of


class LearnedPosterior(Posterior, ABC):
    """A posterior whose draws are unweighted draws of a learned density.

    Beside what every posterior has, a subclass sets `only` (which observations it holds for, in words; empty where for
    all), `whole` (whether its density is above zero wherever the prior's is) and `failed` (how many simulations failed,
    and were not learned from). What else `scope` says is about the law that was learned, which weights mend.
    """

    only: str = ""
    whole: bool = True
    failed: int = 0

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        """n unweighted draws for one observation, without those that a flow may put anywhere.

        Raises:
            ValueError: If the posterior does not hold for it.
        """
        return self.unweighted(self.draw_within(x, n, generator=generator)[:, 0])

    def draw_within(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """The same for a batch, as `draw_batched`; here all draws."""
        return self.draw_batched(x, n, generator=generator)

    def draw_all(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        """n unweighted draws for one observation, all of them: to be given weights."""
        return self.unweighted(self.draw_batched(x, n, generator=generator)[:, 0])

    def unweighted(self, theta: Float[Tensor, "n theta"]) -> Draws:
        """Draws of one weight."""
        log_weight, prior = torch.zeros(len(theta), dtype=torch.float64), self.prior
        return Draws(prior.names, prior.units, theta, log_weight, categories=categories_of(prior))


def holds_for(posterior: Posterior) -> str:
    """Which observations alone a posterior holds for, in words; empty if for all."""
    return posterior.only if isinstance(posterior, LearnedPosterior) else posterior.scope


def covers(posterior: Posterior) -> bool:
    """Whether a posterior has a density above zero wherever the prior has one, as far as is known."""
    return posterior.whole if isinstance(posterior, LearnedPosterior) else True


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator on a device: the same, or one that it seeds."""
    if generator.device.type == device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.Generator(device).manual_seed(seed)
