r"""A twist for particles that condition a field x on an event: a scalar function c of x exceeds a level.

    p(E | x) = 1 where c(x) > level, else 0,      t(y, s) = Phi((c(D) - level) / s_c),

with s_c the sd of c given y = x + s e. To first order, Tweedie's formula gives s_c^2 = s^2 (dc/dx)^T (dD/dy)^T dc/dx.
Errors in the gradients of a learned D can make this value too small or negative. So s_c^2 is at least a hundredth of
its value for data of unit covariance (`inverse.least`). Particles then give samples of the event and its probability,
even for rare events. If c is far from linear, the guess t is poor and the probability may come out far too small.
`splitting` does not need such a guess.

References:
    | User-defined Event Sampling and Uncertainty Quantification in Diffusion Models for Physical Dynamical Systems
      (Finzi et al., 2023), https://arxiv.org/abs/2306.07526
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.networks.diffusion.inverse import least, slopes_through
from sciinf.networks.diffusion.particles import Twist
from sciinf.networks.diffusion.solver import Denoiser

_LEAST = 1e-6  # Smallest sd of c.


class Event(Twist):
    """The event that c(x) is above a level.

    Args:
        of: Function c, from x (n, dim) to (n,), differentiable.
        level: Level that c must exceed.
    """

    def __init__(self, of: Callable[[Tensor], Tensor], level: float) -> None:
        self.of, self.level = of, float(level)

    def log_prob(self, x: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
        found = self.of(x)
        return torch.where(found > self.level, torch.zeros_like(found), torch.full_like(found, -math.inf))

    def through(self, function: Callable[[Tensor], Tensor]) -> Event:
        return Event(lambda z: self.of(function(z)), self.level)

    def guess(self, denoise: Denoiser, y: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, found, slopes, back = slopes_through(denoise, lambda x: self.of(x)[:, None], y, level)
        variance = (level**2 * (back * slopes).sum((1, 2))).maximum(least(slopes, level)[:, 0])
        sd = (variance + _LEAST**2).sqrt()
        z = ((found[:, 0] - self.level) / sd).double()
        log_t = torch.special.log_ndtr(z)
        ratio = (-0.5 * z.square() - 0.5 * math.log(2 * math.pi) - log_t).exp()
        return log_t.to(y), (ratio.to(y) / sd)[:, None] * back[:, 0], value
