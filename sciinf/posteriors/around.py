r"""Laws around an answer, somewhat wider than it, and mixtures of them, to simulate from.

With z the unbounded parameters, m and C mean and covariance of an answer, and a width k,

    r(z) ~ N(z; m, k^2 C) N(z; 0, I)^(1 - 1/k^2),

the second factor only where the prior of z is N(0, I): r is then wider than the answer, but not than the prior.

Where parameters are discrete, or exist sometimes only, each discrete parameter has the probabilities

    r(d) ~ q(d)^(1/k^2) p(d)^(1 - 1/k^2)

by itself, with q those of the answer and p the prior's, which is the same formula; and m and C are those of draws in
which a parameter exists, whatever the discrete values are.

Shapes: theta (*n, D); z (*n, D), float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.core import Prior, Proposal
from sciinf.core.existence import check_apart
from sciinf.core.mixed_bijection import MixedBijection
from sciinf.posteriors.mcmc import PriorInZ

_TINY = 1e-9  # of the variance, added to it
_PRIOR = 20.0  # draws of the prior that are added to those of an answer, for the probabilities of discrete values
_FEW = 100  # draws in which a parameter exists, below which its law is the prior's


class LawOfZ(Protocol):
    """A law of z around an answer."""

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """n draws of z."""
        ...

    def squares(self, z: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """Squared distances from the centre, in sds: in the mean as many as there are continuous parameters."""
        ...

    def log_prob(self, z: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """Log density of z."""
        ...

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        ...


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

    def of(self, places: Tensor) -> Law:
        """The law of some of its numbers."""
        covariance = (self.factor @ self.factor.T)[places][:, places]
        return Law(self.centre[places], torch.linalg.cholesky(covariance))

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """n draws of z."""
        noise = torch.randn(n, len(self.centre), generator=generator, dtype=torch.float64)
        return self.centre + noise @ self.factor.T

    def squares(self, z: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """Squared distances from the centre, in sds."""
        flat = (z - self.centre).reshape(math.prod(z.shape[:-1]), len(self.centre))
        u = torch.linalg.solve_triangular(self.factor, flat.T, upper=False)
        return u.square().sum(0).reshape(z.shape[:-1])

    def log_prob(self, z: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """Log density of z."""
        scale = self.factor.diagonal().log().sum() + 0.5 * len(self.centre) * math.log(2 * math.pi)
        return -0.5 * self.squares(z) - scale

    def to_json(self) -> dict[str, Any]:
        return {"centre": self.centre.tolist(), "factor": self.factor.tolist()}


@dataclass(frozen=True)
class MixedLaw:
    """A law of z with the codes of discrete parameters (`core.mixed_bijection`).

    Args:
        bijection: The prior's.
        log_p: Log probabilities of the values of each discrete parameter, float64.
        normal: The law of z of the continuous parameters, all of which it has, whether they exist or not.
    """

    bijection: MixedBijection
    log_p: tuple[Tensor, ...]
    normal: Law

    @classmethod
    def around(cls, bijection: MixedBijection, theta: Float[Tensor, "n theta"], wider: float) -> MixedLaw | None:
        """r of unweighted draws of an answer; None where what is continuous does not vary.

        Args:
            bijection: The prior's.
            theta: The draws.
            wider: k.
        """
        z, present = bijection.split(theta.double())
        log_p = []
        for spot, law in zip(bijection.discrete_in_z.tolist(), bijection.levels.values(), strict=True):
            prior = law.log_probs.double().exp()
            seen = z[:, spot][present[:, spot]].long().bincount(minlength=len(prior)).double() + _PRIOR * prior
            raised = (seen / seen.sum()).log() / wider**2 + (1 - wider**-2) * prior.log()
            log_p.append(raised.log_softmax(0))
        filled = [_filled(z[:, k], present[:, k], k) for k in bijection.in_z.tolist()]
        if not filled:
            return cls(bijection, tuple(log_p), Law(z.new_zeros(0), z.new_zeros(0, 0)))
        normal = Law.around(torch.stack(filled, 1), wider, normal=bijection.inner.normal)
        return normal and cls(bijection, tuple(log_p), normal)

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """n draws of z; what does not exist is drawn, too."""
        z = torch.zeros(n, self.bijection.size, dtype=torch.float64)
        for spot, log_p in zip(self.bijection.discrete_in_z.tolist(), self.log_p, strict=True):
            z[:, spot] = torch.multinomial(log_p.exp(), n, replacement=True, generator=generator).double()
        z[:, self.bijection.in_z] = self.normal.sample(n, generator=generator)
        return z

    def squares(self, z: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """Squared distances from the centre, in sds; each parameter that does not exist adds one, the mean."""
        return self._of_what_exists(z, squares=True)

    def log_prob(self, z: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """Log density of what exists in z."""
        return self._of_what_exists(z, squares=False)

    def to_json(self) -> dict[str, Any]:
        return {"log_p": [one.tolist() for one in self.log_p], **self.normal.to_json()}

    def _of_what_exists(self, z: Tensor, *, squares: bool) -> Tensor:
        flat = z.reshape(-1, z.shape[-1])
        codes = self.bijection.codes_in(flat)
        there = self.bijection.spots_present(codes)[:, self.bijection.in_z]
        found = flat.new_zeros(len(flat))
        if not squares:
            for k, log_p in enumerate(self.log_p):
                found += torch.where(codes[:, k] < 0, 0.0, log_p[codes[:, k].clamp_min(0)])
        numbers = flat[:, self.bijection.in_z]
        for pattern in there.unique(dim=0) if there.shape[1] else ():
            mine, places = (there == pattern).all(1), pattern.nonzero().flatten()
            law, some = self.normal.of(places), numbers[mine][:, places]
            of_it = law.squares(some) + (len(pattern) - len(places)) if squares else law.log_prob(some)
            found[mine] += of_it
        return found.reshape(z.shape[:-1])


def _filled(z: Float[Tensor, " n"], there: Bool[Tensor, " n"], column: int) -> Float[Tensor, " n"]:
    """Numbers of a parameter in all draws: where it does not exist, those of other draws, or of the prior.

    Those of the prior are in an order of the column's own, so that two columns of them are not correlated.
    """
    some = z[there]
    if len(some) < _FEW:
        some = torch.special.ndtri((torch.arange(_FEW, dtype=z.dtype) + 0.5) / _FEW)
        some = some.repeat(-(-len(z) // _FEW))
        some = some[torch.randperm(len(some), generator=torch.Generator().manual_seed(column))]
        there = torch.zeros_like(there)
    taken = some.repeat(-(-len(z) // len(some)))[: len(z)]
    return torch.where(there, z, taken)


def law_around(prior: Prior, theta: Float[Tensor, "n theta"], wider: float) -> LawOfZ | None:
    """r of unweighted draws of an answer; None where they do not vary.

    Args:
        prior: The prior.
        theta: The draws; those that are not finite where they exist are left out.
        wider: k.
    """
    theta = theta[(theta.isfinite() | ~prior.present(theta)).all(1)]
    if isinstance(prior.bijection, MixedBijection):
        return MixedLaw.around(prior.bijection, theta, wider)
    return Law.around(prior.bijection.forward(theta.double()), wider, normal=prior.bijection.normal)


def _law_from_json(prior: Prior, data: Mapping[str, Any]) -> LawOfZ:
    """The law that `to_json` told."""
    bijection, size, log_p = prior.bijection, len(prior), tuple[Tensor, ...]()
    if isinstance(bijection, MixedBijection):
        size, log_p = len(bijection.in_z), tuple(torch.tensor(one, dtype=torch.float64) for one in data["log_p"])
        if [len(one) for one in log_p] != [len(one.values) for one in bijection.levels.values()]:
            raise ValueError("the laws are of other discrete parameters")
    centre, factor = (torch.tensor(data[name], dtype=torch.float64) for name in ("centre", "factor"))
    law = Law(centre, factor if size else torch.zeros(0, 0, dtype=torch.float64))
    if law.factor.shape != (size, size) or law.centre.shape != (size,):
        raise ValueError("the laws are of another number of parameters")
    return MixedLaw(bijection, log_p, law) if isinstance(bijection, MixedBijection) else law


class Mixture(Proposal):
    """A mixture of laws of z, as a law of theta within the prior's support.

    Args:
        prior: The prior.
        parts: Weight and law of each part; weights sum to one.
        about: What else is said of it, as JSON values.
    """

    def __init__(self, prior: Prior, parts: Sequence[tuple[float, LawOfZ]], about: Mapping[str, Any]) -> None:
        check_apart(prior, "a proposal around an observation")
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
        centre = self.prior.bijection.inverse(theta.new_zeros(self.prior.bijection.size))
        safe = torch.where(inside[..., None], theta, centre).double()
        z = self.prior.bijection.forward(safe)
        logs = torch.stack([law.log_prob(z) + math.log(weight) for weight, law in self.parts])
        return torch.where(inside, log_prior(self.prior, z, safe) - logs.logsumexp(0), -math.inf)

    def to_json(self) -> dict[str, Any]:
        parts = [{"weight": weight, **law.to_json()} for weight, law in self.parts]
        return {"kind": "normal laws around an answer", **self.about, "parts": parts}

    @classmethod
    def from_json(cls, prior: Prior, data: Mapping[str, Any]) -> Mixture:
        """The mixture that `to_json` told.

        Raises:
            KeyError, TypeError, ValueError: If it did not.
        """
        parts = [(float(part["weight"]), _law_from_json(prior, part)) for part in data["parts"]]
        return cls(prior, parts, {key: data[key] for key in data if key not in ("kind", "parts")})


def log_prior(prior: Prior, z: Float[Tensor, "*n theta"], theta: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
    """Log density of z, and of discrete values, under the prior.

    Args:
        prior: The prior.
        z: Where.
        theta: The same within the prior's support.
    """
    if isinstance(prior.bijection, MixedBijection):
        return prior.log_prob(theta) - prior.log_jacobian(theta)
    return PriorInZ(prior).log_prob(z, theta)
