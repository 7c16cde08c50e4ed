r"""Classifier-free guidance: a conditional denoiser extrapolated away from an unconditional one.

With D_c(y, s) = E[z | y, x], D_u(y, s) = E[z | y] and a weight w,

    D = D_u + w (D_c - D_u),    whose score is    grad log p_s(y) + w grad log (p_s(y | x) / p_s(y)).

At w = 1, D is the conditional denoiser; at w = 0, D is the unconditional one. The weight of the first paper below is w
- 1. As the level falls to 0, the guided score becomes the score of

    p(z) (p(z | x) / p(z))^w, proportional to p(z) p(x | z)^w:

the prior times a power w of the likelihood. **So for w != 1 the samples are not from the posterior.** They are not from
this tilted density either. At levels above 0, the guided score is not the score of the tilted density with noise,
because noise does not commute with powers. For a prior N(0, 1) and a posterior N(m, v), the guided flow ends at
variance v^w. The tilted density has the variance v / (v + w (1 - v)). Use guidance if you want sharper samples and
derive no probability from them. Examples are pictures of a surrogate, or proposals that are reweighted. Never use
guidance for a posterior.

Guidance at middle levels only reduces the variety of the samples less. Outside `interval`, D is D_c. If the prior of z
is N(0, I), no second network is needed: D_u = y / (1 + s^2) (`standard_normal`). Gaussianised parameters have this
prior, up to standardisation.

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
    """The guided denoiser, which any solver can use.

    Attributes:
        conditional: D_c, the conditional denoiser.
        unconditional: D_u, the unconditional denoiser.
        weight: w, the weight of the guidance.
        interval: Lowest and highest noise level at which guidance acts. None lets it act at all levels.

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
        """The guided denoiser D at points y, for a level of shape () or (*rows)."""
        given = self.conditional(y, level)
        if self.interval is None:
            inside = torch.ones_like(level, dtype=torch.bool)
        else:
            inside = (level >= self.interval[0]) & (level <= self.interval[1])
        if not bool(inside.any()):
            return given  # Outside the interval, the second network is not needed.
        guided = given + (self.weight - 1) * (given - self.unconditional(y, level))
        return torch.where(inside[..., None], guided, given)


def standard_normal(y: Float[Tensor, "*rows dim"], level: Float[Tensor, "*level"]) -> Float[Tensor, "*rows dim"]:
    """The denoiser y / (1 + s^2) of data with the distribution N(0, I)."""
    return y / (1 + level**2)[..., None]
