r"""A thrown ball: three parameters, a straight line of algebra to the data, and an exact Gaussian posterior.

The height of a ball is measured five times, with independent errors:

    x_k = z + v t_k + a t_k^2 / 2 + e_k,     e_k ~ N(0, s^2),     t = 0.2, 0.6, ..., 1.8 s,     s = 0.5 m,

that is x = A theta + e with A of shape (5, 3), and theta ~ N(m, diag(d^2)). The posterior is Gaussian,

    C = (A^T A / s^2 + diag(d^-2))^-1,     mean = C (A^T x / s^2 + m / d^2),

with strong correlations that the prior does not have.

References: Pattern Recognition and Machine Learning, section 2.3.3 (Bishop, 2006).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Prior, Simulator, X

LOC = (1.5, 8.0, -9.0)
SCALE = (0.5, 3.0, 3.0)
NOISE = 0.5
TIMES = (0.2, 0.6, 1.0, 1.4, 1.8)


class LinearGaussian(Simulator):
    """Height of a thrown ball from its height, velocity and acceleration at the start."""

    name = "linear_gaussian"
    prior = Prior(
        height=(td.Normal(LOC[0], SCALE[0]), "m"),
        velocity=(td.Normal(LOC[1], SCALE[1]), "m/s"),
        acceleration=(td.Normal(LOC[2], SCALE[2]), "m/s2"),
    )
    observables: Mapping[str, Observable] = {
        "x": Observable((5,), "m", ("time",), coords={"time": TIMES}, coord_units={"time": "s"})
    }
    block = 16384

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        noise = torch.randn(len(theta), 5, generator=generator, dtype=theta.dtype, device=theta.device)
        return {"x": theta @ design().to(theta).T + NOISE * noise}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        residual = (x["x"].to(theta) - theta @ design().to(theta).T) / NOISE
        return -0.5 * (residual**2).sum(-1) - 5 * (math.log(NOISE) + 0.5 * math.log(2 * math.pi))

    def exact(self, x: X | Tensor) -> tuple[Tensor, Tensor]:
        """Mean (*batch, 3) and covariance (3, 3) of the posterior given x (*batch, 5), in float64."""
        values = (x if isinstance(x, Tensor) else x["x"]).to("cpu", torch.float64)
        loc, scale = torch.tensor(LOC, dtype=torch.float64), torch.tensor(SCALE, dtype=torch.float64)
        a = design()
        covariance = torch.linalg.inv(a.T @ a / NOISE**2 + torch.diag(scale**-2))
        return (values @ a / NOISE**2 + loc / scale**2) @ covariance, covariance

    def reference(self, x: X, n: int, generator: torch.Generator) -> Tensor:
        mean, covariance = self.exact(x["x"].reshape(5))
        noise = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        return (mean + noise @ torch.linalg.cholesky(covariance).T).float()


def design() -> Tensor:
    """The matrix A, float64, (5, 3)."""
    t = torch.tensor(TIMES, dtype=torch.float64)
    return torch.stack([torch.ones_like(t), t, t**2 / 2], dim=-1)


simulator = LinearGaussian()
