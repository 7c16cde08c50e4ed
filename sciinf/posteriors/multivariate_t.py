r"""A multivariate Student-t distribution fitted to weighted draws, as a proposal with heavier tails than theirs.

    t(z) = Gamma((v + D) / 2) / (Gamma(v / 2) (v pi)^(D / 2) |L|) (1 + |u|^2 / v)^(-(v + D) / 2),     u = L^-1 (z - m),

with m the draws' weighted mean, L a Cholesky factor of their weighted covariance, and v = 5. A draw is m + L e / s, e a
standard normal vector and v s^2 a chi-squared number with v degrees of freedom.

Shapes: z (n, D).

References:
    | Multivariate t-distributions and their applications (Kotz & Nadarajah, 2004)
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

FREEDOM = 5


class MultivariateT:
    """Multivariate Student-t distribution with 5 degrees of freedom.

    Args:
        mean: Centre m, float64, (D,).
        root: L, float64, lower triangular, (D, D).
    """

    def __init__(self, mean: Float[Tensor, " d"], root: Float[Tensor, "d d"]) -> None:
        self.mean, self.root = mean, root

    @classmethod
    def fit(cls, z: Float[Tensor, "n d"], log_weight: Float[Tensor, " n"]) -> MultivariateT:
        """Fit the distribution to the mean and covariance of weighted draws; log weights are known up to a constant."""
        # If few draws are effective, flattened weights keep the fit from collapsing onto the best of them.
        temperature = 1.0
        while effective_size(log_weight * temperature) < 20 * z.shape[1] and temperature > 1e-6:
            temperature *= 0.8
        weight = torch.softmax(log_weight * temperature, dim=0)
        mean = weight @ z
        centred = z - mean
        covariance = (centred * weight[:, None]).T @ centred
        covariance += 1e-6 * torch.diag(covariance.diagonal().clamp_min(1e-12))
        return cls(mean, torch.linalg.cholesky(covariance))

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n d"]:
        normal = torch.randn(n, len(self.mean), generator=generator, dtype=torch.float64)
        chi2 = torch.randn(n, FREEDOM, generator=generator, dtype=torch.float64).square().sum(1)
        return self.mean + (normal / (chi2 / FREEDOM).sqrt()[:, None]) @ self.root.T

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        d, v = len(self.mean), FREEDOM
        u = torch.linalg.solve_triangular(self.root, (z - self.mean).T, upper=False)
        scale = math.lgamma((v + d) / 2) - math.lgamma(v / 2) - d / 2 * math.log(v * math.pi)
        log_det = self.root.diagonal().log().sum()
        return scale - log_det - (v + d) / 2 * torch.log1p(u.square().sum(0) / v)


def effective_size(log_weight: Float[Tensor, " n"]) -> float:
    """Effective sample size of weights known up to a constant, (sum w)^2 / sum w^2 (Kish); 0 if it is undefined."""
    weight = torch.softmax(log_weight.double(), dim=0)
    value = float(1 / weight.square().sum())
    return value if math.isfinite(value) else 0.0
