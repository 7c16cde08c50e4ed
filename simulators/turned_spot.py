r"""A long spot of light somewhere in an image, turned by any angle.

With (u, v) the pixels' places from (x, y), turned by phi,

    I = exp(-(u / a)^2 / 2 - (v / b)^2 / 2),    a = sqrt(q) r,    b = r / sqrt(q),

in 32 x 32 pixels, each with noise N(0, 0.15^2) added. The likelihood is tractable. An image that is turned and moved is
that of another angle and place, up to what lies beyond its edges and to the noise between pixels: a symmetry that holds
nearly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Prior, Simulator, X
from sciinf.simulators.poses import ImageMotion, Periodic, Pose

SIZE, NOISE = 32, 0.15
POSES = (
    Pose(("x", "y"), ImageMotion("shift"), td.Normal(0.0, 0.3), exact=False),
    Pose("phi", ImageMotion("turn"), td.Normal(0.0, 0.1), exact=False, group=Periodic(-math.pi / 2, math.pi)),
)


class TurnedSpot(Simulator):
    """Image of a spot with size, axis ratio, angle and place."""

    name = "turned_spot"
    prior = Prior(
        r=(td.Uniform(1.5, 4.0), "pix"),
        q=td.Uniform(1.3, 3.0),
        phi=(td.Uniform(-math.pi / 2, math.pi / 2), "rad"),
        x=(td.Normal(0.0, 3.0), "pix"),
        y=(td.Normal(0.0, 3.0), "pix"),
    )
    observables: Mapping[str, Observable] = {"image": Observable((SIZE, SIZE), "", ("y", "x"))}
    block = 4096

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        noise = torch.randn(len(theta), SIZE, SIZE, generator=generator, dtype=theta.dtype, device=theta.device)
        return {"image": light(theta) + NOISE * noise}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        parts = []
        data = x["image"].to(theta.device).expand(len(theta), SIZE, SIZE)
        for some, seen in zip(theta.double().split(2_000), data.split(2_000), strict=True):
            parts.append(-0.5 * ((seen - light(some)) / NOISE).square().sum((1, 2)))
        return torch.cat(parts) - SIZE**2 * math.log(NOISE * math.sqrt(2 * math.pi))

    def reference(self, x: X, n: int, generator: torch.Generator) -> Tensor:
        """By population Monte Carlo: from the best of many prior draws, Gaussians that follow the weights."""
        data = {"image": x["image"].reshape(1, SIZE, SIZE)}
        theta = self.prior.sample(20_000, generator=generator).double()
        weight = _tempered(self.log_likelihood(theta, data))
        best = theta[weight.argmax(), 2]
        theta[:, 2] = best + (theta[:, 2] - best + 0.5 * math.pi) % math.pi - 0.5 * math.pi
        for turn in range(7):
            mean = weight @ theta
            covariance = (theta - mean).mT @ ((theta - mean) * weight[:, None]) + 1e-6 * torch.eye(5)
            law = td.MultivariateNormal(mean, (1.3 if turn == 6 else 2.0) * covariance)
            noise = torch.randn(20_000 if turn == 6 else 4_000, 5, generator=generator, dtype=torch.float64)
            theta = mean + noise @ law.scale_tril.mT
            inside = theta.clone()
            inside[:, 2] = (theta[:, 2] + 0.5 * math.pi) % math.pi - 0.5 * math.pi
            log = self.prior.log_prob(inside) + self.log_likelihood(inside, data) - law.log_prob(theta)
            log = log.nan_to_num(nan=-math.inf)
            weight = log.softmax(0) if turn == 6 else _tempered(log)
        return inside[torch.multinomial(weight, n, replacement=True, generator=generator)].float()


def _tempered(log: Tensor) -> Tensor:
    """Weights to a power at which at least 100 draws count, 1 if it can be."""
    power = 1.0
    while power > 1e-6 and float(1 / (power * log).softmax(0).square().sum()) < 100:
        power *= 0.7
    return (power * log).softmax(0)


def light(theta: Tensor) -> Tensor:
    """I, for theta (batch, 5): (batch, 32, 32)."""
    r, q, phi, x, y = (value[:, None, None] for value in theta.unbind(-1))
    at = torch.arange(SIZE, dtype=theta.dtype, device=theta.device) - (SIZE - 1) / 2
    right, down = at[None, None, :] - x, at[None, :, None] - y
    u = (right * phi.cos() + down * phi.sin()) / (q.sqrt() * r)
    v = (down * phi.cos() - right * phi.sin()) / (r / q.sqrt())
    return (-0.5 * (u**2 + v**2)).exp()


simulator = TurnedSpot()
