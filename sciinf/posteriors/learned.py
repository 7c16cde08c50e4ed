"""Base class of posteriors that follow from a learned density.

A flow may put a thousandth of its draws anywhere. That costs a thousandth of a nat, which no training notices. But ten
draws of ten thousand that lie ten sds out make an sd 1.4 times too large. So the draws of an answer are those in the
flow's region of highest density that holds 99.9 %, as in truncated rounds of training (Deistler et al., 2022,
https://arxiv.org/abs/2210.04815). For a normal distribution this makes the sd .6 % smaller, and less in each of several
dimensions. Quantiles to 99 % hardly move. Draws of batches keep all draws, because calibration and weights by a
likelihood rest on them.
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

    Besides what every posterior has, a subclass sets three attributes. `only` describes the observations that the
    posterior holds for, in words; empty if for all. `whole` tells whether its density is above zero wherever the
    prior's is. `failed` is the number of simulations that failed, and were not learned from. Other parts of `scope` are
    about errors of the learned distribution, which weights correct.
    """

    only: str = ""
    whole: bool = True
    failed: int = 0

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        """n unweighted draws for one observation, without strays of a flow.

        Raises:
            ValueError: If the posterior does not hold for the observation.
        """
        return self.unweighted(self.draw_within(x, n, generator=generator)[:, 0])

    def draw_within(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """Draws for a batch of observations without strays; by default all draws of `draw_batched`."""
        return self.draw_batched(x, n, generator=generator)

    def draw_all(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        """n unweighted draws for one observation, strays included, to be weighted later."""
        return self.unweighted(self.draw_batched(x, n, generator=generator)[:, 0])

    def unweighted(self, theta: Float[Tensor, "n theta"]) -> Draws:
        """Draws whose weights are all equal."""
        log_weight, prior = torch.zeros(len(theta), dtype=torch.float64), self.prior
        return Draws(prior.names, prior.units, theta, log_weight, categories=categories_of(prior))


def holds_for(posterior: Posterior) -> str:
    """Description of the observations that alone a posterior holds for; empty if it holds for all."""
    return posterior.only if isinstance(posterior, LearnedPosterior) else posterior.scope


def covers(posterior: Posterior) -> bool:
    """Whether a posterior has a density above zero wherever the prior has one, as far as is known."""
    return posterior.whole if isinstance(posterior, LearnedPosterior) else True


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator on a device: the given one, or a new one that it seeds."""
    if generator.device.type == device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.Generator(device).manual_seed(seed)
