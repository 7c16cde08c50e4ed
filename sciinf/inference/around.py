r"""Normal laws around an answer, somewhat wider than it, and mixtures of them, to simulate from.

With z the unbounded parameters, m and C mean and covariance of an answer, and a width k,

    r(z) ~ N(z; m, k^2 C) N(z; 0, I)^(1 - 1/k^2),

the second factor only where the prior of z is N(0, I): r is then wider than the answer, but not than the prior.

Shapes: z, theta (*n, D); float64 for z.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Prior, Proposal
from sciinf.core.existence import check_free
from sciinf.inference.mcmc import PriorInZ

_TINY = 1e-9  # of the variance, added to it


@dataclass(frozen=True)
class Law:
    """A normal law of z.

    Args:
        centre: (D,), float64.
        factor: Cholesky factor of its covariance, (D, D), float64.
    """

    centre: Tensor
    factor: Tensor

    @classmethod
    def around(cls, z: Float[Tensor, "n theta"], wider: float, *, normal: bool) -> Law | None:
        """r of unweighted draws of an answer; None where they do not vary or are not finite.

        Args:
            z: The draws, float64.
            wider: k.
            normal: Whether the prior of z is N(0, I).
        """
        mean, size = z.mean(0), z.shape[1]
        covariance = torch.cov(z.T).reshape(size, size)
        covariance = covariance + _TINY * covariance.diagonal().mean() * torch.eye(size, dtype=z.dtype)
        factor, fault = torch.linalg.cholesky_ex(covariance)
        if int(fault) or not bool(factor.isfinite().all() and (factor.diagonal() > 0).all()):
            return None
        precision = torch.cholesky_inverse(factor) / wider**2
        whole = precision + (1 - wider**-2) * torch.eye(size, dtype=z.dtype) if normal else precision
        wide = torch.linalg.inv(whole)
        return cls(wide @ precision @ mean, torch.linalg.cholesky((wide + wide.T) / 2))

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """n draws of z."""
        noise = torch.randn(n, len(self.centre), generator=generator, dtype=torch.float64)
        return self.centre + noise @ self.factor.T

    def squares(self, z: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """Squared distances from the centre, in sds."""
        u = torch.linalg.solve_triangular(self.factor, (z - self.centre).reshape(-1, len(self.centre)).T, upper=False)
        return u.square().sum(0).reshape(z.shape[:-1])

    def log_prob(self, z: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """Log density of z."""
        scale = self.factor.diagonal().log().sum() + 0.5 * len(self.centre) * math.log(2 * math.pi)
        return -0.5 * self.squares(z) - scale


class Mixture(Proposal):
    """A mixture of normal laws of z, as a law of theta within the prior's support.

    Args:
        prior: The prior.
        parts: Weight and law of each part; weights sum to one.
        about: What else is said of it, as JSON values.
    """

    def __init__(self, prior: Prior, parts: Sequence[tuple[float, Law]], about: Mapping[str, Any]) -> None:
        check_free(prior, "a proposal around an observation")
        self.prior, self.parts, self.about = prior, tuple(parts), dict(about)

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """n draws; those that rounding puts outside the support are drawn again."""
        found = [torch.zeros(0, len(self.prior), dtype=self.prior.dtype)]
        while (left := n - sum(map(len, found))) > 0:
            weights = torch.tensor([weight for weight, _ in self.parts], dtype=torch.float64)
            which = torch.multinomial(weights, left, replacement=True, generator=generator)
            z = torch.stack([law.sample(left, generator=generator) for _, law in self.parts])
            theta = self.prior.bijection.inverse(z[which, torch.arange(left)].to(self.prior.dtype))
            found.append(theta[self.prior.log_prob(theta).isfinite()])
        return torch.cat(found)

    def log_ratio(self, theta: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """log prior / mixture, float64; -inf outside the prior's support."""
        inside = self.prior.log_prob(theta).isfinite()
        centre = self.prior.bijection.inverse(theta.new_zeros(len(self.prior)))
        safe = torch.where(inside[..., None], theta, centre).double()
        z = self.prior.bijection.forward(safe)
        logs = torch.stack([law.log_prob(z) + math.log(weight) for weight, law in self.parts])
        ratio = PriorInZ(self.prior).log_prob(z, safe) - logs.logsumexp(0)
        return torch.where(inside, ratio, -math.inf)

    def to_json(self) -> dict[str, Any]:
        parts = [
            {"weight": weight, "centre": law.centre.tolist(), "factor": law.factor.tolist()}
            for weight, law in self.parts
        ]
        return {"kind": "normal laws around an answer", **self.about, "parts": parts}

    @classmethod
    def from_json(cls, prior: Prior, data: Mapping[str, Any]) -> Mixture:
        """The mixture that `to_json` told.

        Raises:
            KeyError, TypeError, ValueError: If it did not.
        """
        parts = [
            (float(part["weight"]), Law(*(torch.tensor(part[k], dtype=torch.float64) for k in ("centre", "factor"))))
            for part in data["parts"]
        ]
        if any(law.factor.shape != (len(prior), len(prior)) or law.centre.shape != (len(prior),) for _, law in parts):
            raise ValueError("the laws are of another number of parameters")
        return cls(prior, parts, {key: data[key] for key in data if key not in ("kind", "parts")})
