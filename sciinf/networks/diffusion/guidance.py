r"""Classifier-free guidance: a conditional denoiser pushed further away from an unconditional one.

With D_c(y, s) = E[z | y, x], D_u(y, s) = E[z | y] and a weight w,

    D = D_u + w (D_c - D_u),    whose score is    grad log p_s(y) + w grad log (p_s(y | x) / p_s(y)).

At w = 1 it is the conditional denoiser, at w = 0 the unconditional one; the w of the first paper below is this one less
1. As the level falls to 0 it is the score of

    p(z) (p(z | x) / p(z))^w, proportional to p(z) p(x | z)^w:

the prior times the likelihood, raised to w. **So for w != 1 what is drawn is no posterior**, and it is not that tilted
density either, for at levels above 0 the guided score is not the score of the tilted density with noise: noise does not
commute with powers. For a prior N(0, 1) and a posterior N(m, v) the guided flow ends at variance v^w, where the tilted
density has v / (v + w (1 - v)). Use it where sharper draws are wanted and nobody reads a probability from them, as in a
surrogate's pictures or in proposals that are reweighted, never for an answer.

Guidance that acts at middle levels only does less harm to the variety of draws: outside `interval` D is D_c. Where the
prior of z is N(0, I), as that of Gaussianised parameters is up to standardisation, no second network is needed:
D_u = y / (1 + s^2) (`standard_normal`).

References:
    | Classifier-Free Diffusion Guidance (Ho & Salimans, 2022), https://arxiv.org/abs/2207.12598
    | Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models
      (Kynkäänniemi et al., 2024), https://arxiv.org/abs/2404.07724
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.networks.diffusion.solver import Denoiser


@dataclass(frozen=True)
class Guided:
    """The guided denoiser, for any solver.

    Attributes:
        conditional: D_c.
        unconditional: D_u.
        weight: w.
        interval: Lowest and highest level at which it guides; at all of them where left out.

    Raises:
        ValueError: If the weight is not finite, or the interval not 0 <= low < high.
    """

    conditional: Denoiser
    unconditional: Denoiser
    weight: float
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ValueError(f"the weight of Guided must be finite, got {self.weight}")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise ValueError(f"the interval of Guided must be (low, high) with 0 <= low < high, got {self.interval}")

    def __call__(self, y: Float[Tensor, "*rows dim"], level: Float[Tensor, "*level"]) -> Float[Tensor, "*rows dim"]:
        """D, at a level of shape () or (*rows)."""
        given = self.conditional(y, level)
        if self.interval is None:
            inside = torch.ones_like(level, dtype=torch.bool)
        else:
            inside = (level >= self.interval[0]) & (level <= self.interval[1])
        if not bool(inside.any()):
            return given  # as outside the interval one network is enough
        guided = given + (self.weight - 1) * (given - self.unconditional(y, level))
        return torch.where(inside[..., None], guided, given)


def standard_normal(y: Float[Tensor, "*rows dim"], level: Float[Tensor, "*level"]) -> Float[Tensor, "*rows dim"]:
    """The denoiser of N(0, I), y / (1 + s^2)."""
    return y / (1 + level**2)[..., None]
