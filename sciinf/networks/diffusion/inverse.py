r"""A twist for particles that condition a field x on measurements o with Gaussian noise.

    p(o | x) = N(o; c(x), sd^2 I),      t(y, s) = N(o; c(D), sd^2 I + G V G^T),     G = dc/dx at D,

with V an estimate of the covariance of x given y = x + s e. `order=2` uses Tweedie's formula V = s^2 dD/dy. `order=1`
uses V = s^2 / (1 + s^2), the covariance for uncorrelated data of sd 1. With order 2, variances are at least a hundredth
of those with order 1, because gradients of a learned D may give negative variances. Both orders take one backward pass
per measurement. All computations use the noise sd as the unit, which may differ between measurements.

References:
    | Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023),
      https://arxiv.org/abs/2209.14687
    | Pseudoinverse-Guided Diffusion Models for Inverse Problems (Song et al., 2023),
      https://openreview.net/forum?id=9_gsMA8MRKQ
    | Tweedie Moment Projected Diffusions for Inverse Problems (Boys et al., 2023), https://arxiv.org/abs/2310.06721
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.networks.diffusion.particles import Twist
from sciinf.networks.diffusion.solver import Denoiser

_SHARE = 0.01  # Smallest variance given y, as a fraction of the variance for data of unit covariance.


class Measured(Twist):
    """Measurements of a field, with independent Gaussian noise.

    Args:
        of: Function c, from x (n, dim) to the k measured numbers (n, k), differentiable.
        seen: Measured values o, (k,).
        sd: Standard deviation of the noise, one for all measurements, or one for each, (k,).
        order: Order of the estimate of the covariance V, 1 or 2.

    Raises:
        ValueError: If measured values are not a row of finite numbers, an sd is not positive, the number of sds is
            wrong, or the order is neither 1 nor 2. Later use raises it if `of` returns another number of values.
    """

    def __init__(
        self,
        of: Callable[[Tensor], Tensor],
        seen: Float[Tensor, " k"],
        sd: float | Float[Tensor, " k"],
        *,
        order: int = 2,
    ) -> None:
        seen = torch.as_tensor(seen)
        if seen.ndim != 1 or not bool(seen.isfinite().all()):
            raise ValueError(f"measured values must be a row of finite numbers, (k,), and got {seen}")
        each = torch.as_tensor(sd)
        if not bool(((each > 0) & (each < math.inf)).all()):
            raise ValueError(f"the sd of measurements is a positive number, got {sd}")
        if each.ndim and each.shape != seen.shape:
            raise ValueError(
                f"there are {seen.numel()} measurements and {each.numel()} sds: one for each, or one for all"
            )
        if order not in (1, 2):
            raise ValueError(f"the order of Measured is 1 or 2, got {order}")
        self._of, self.seen, self.sd, self.order = of, seen, sd, order

    def of(self, x: Float[Tensor, "n dim"]) -> Float[Tensor, "n k"]:
        """c(x), the noise-free measurements of x.

        Raises:
            ValueError: If the result does not have the shape (n, k).
        """
        found = self._of(x)
        if found.shape != (len(x), len(self.seen)):
            raise ValueError(
                f"{len(self.seen)} numbers were seen: for {len(x)} samples, the function `of` must return the shape "
                f"{(len(x), len(self.seen))}, and has {tuple(found.shape)}"
            )
        return found

    def log_prob(self, x: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
        off, sd = self.seen.to(x) - self.of(x), self.noise(x)
        return -0.5 * (off / sd).square().sum(1) - (sd * math.sqrt(2 * math.pi)).log().sum()

    def noise(self, like: Tensor) -> Float[Tensor, " k"]:
        """Noise sd of each measurement, with the dtype and on the device of `like`."""
        return torch.as_tensor(self.sd).to(like).expand(self.seen.shape)

    def through(self, function: Callable[[Tensor], Tensor]) -> Measured:
        return Measured(lambda z: self.of(function(z)), self.seen, self.sd, order=self.order)

    def guess(self, denoise: Denoiser, y: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, found, slopes, back = slopes_through(denoise, self.of, y, level)
        if self.order == 2:
            spread = level**2 * back @ slopes.mT
            spread = (spread + spread.mT) / 2
        else:
            spread = level**2 / (1 + level**2) * slopes @ slopes.mT
        unit = self.noise(y)
        values, vectors = torch.linalg.eigh(spread / (unit[:, None] * unit))
        variance = values.maximum(least(((slopes / unit[:, None]).mT @ vectors).mT, level)) + 1
        off = (((self.seen.to(y) - found) / unit)[:, None] @ vectors)[:, 0]
        log_t = -0.5 * (off.square() / variance + (2 * math.pi * variance).log()).sum(1) - unit.log().sum()
        pull = ((off / variance)[:, None] @ vectors.mT @ (back / unit[:, None]))[:, 0]
        return log_t, pull, value


def least(slopes: Float[Tensor, "n k dim"], level: Tensor) -> Float[Tensor, "n k"]:
    """Smallest variance that a guess assigns at a noise level to numbers with the given gradients in x."""
    return _SHARE * level**2 / (1 + level**2) * slopes.square().sum(2)


def slopes_through(
    denoise: Denoiser, of: Callable[[Tensor], Tensor], y: Float[Tensor, "n dim"], level: Tensor
) -> tuple[Float[Tensor, "n dim"], Float[Tensor, "n k"], Float[Tensor, "n k dim"], Float[Tensor, "n k dim"]]:
    """D at y, c(D), the gradients of c in D, and its gradients in y."""
    with torch.enable_grad():
        start = y.detach().requires_grad_()
        value = denoise(start, level)
        middle = value.detach().requires_grad_()
        found = of(middle)
        slopes = torch.stack(
            [torch.autograd.grad(one.sum(), middle, retain_graph=True)[0] for one in found.unbind(1)], 1
        )
        back = torch.stack(
            [torch.autograd.grad(value, start, one, retain_graph=True)[0] for one in slopes.unbind(1)], 1
        )
    return value.detach(), found.detach(), slopes, back
