r"""Distributions around an answer, somewhat wider than it, and their mixtures, from which simulations are made.

With z the unbounded parameters, m and C the mean and covariance of an answer, and k a width, the distribution is

    r(z) ~ N(z; m, k^2 C) N(z; 0, I)^(1 - 1/k^2).

The second factor is left out if the prior of z is not N(0, I). With it r is wider than the answer, but not wider than
the prior.

A discrete parameter d is independent of the others under r, and has the probabilities

    r(d) ~ q(d)^(1/k^2) p(d)^(1 - 1/k^2),

with q the probabilities of the answer and p those of the prior. For a parameter that exists only sometimes, m and C are
computed from the draws in which it exists, whatever the discrete values are.

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

_TINY = 1e-9  # This share of the mean variance is added to each variance.
_PRIOR = 20.0  # Probabilities of discrete values are estimated with so many draws of the prior added to the answer.
_FEW = 100  # A parameter that exists in fewer draws than this keeps its prior.


class LawOfZ(Protocol):
    """A distribution of z around an answer."""

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """n draws of z."""
        ...

    def squares(self, z: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """Squared distances from the centre, in sds; their mean is the number of continuous parameters."""
        ...

    def log_prob(self, z: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """Log density of z."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The distribution as plain JSON values."""
        ...


@dataclass(frozen=True)
class Law:
    """A normal distribution of z.

    Args:
        centre: Mean (D,), float64.
        factor: Cholesky factor of the covariance, (D, D), float64.
    """

    centre: Tensor
    factor: Tensor

    @classmethod
    def around(cls, z: Float[Tensor, "n theta"], wider: float, *, normal: bool) -> Law | None:
        """The distribution r around an answer, or None if its draws do not vary or are not finite.

        Args:
            z: Unweighted draws of the answer, float64.
            wider: Width k.
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
        """The marginal distribution of some entries of z."""
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
    """A distribution of z with the codes of discrete parameters (`core.mixed_bijection`).

    Args:
        bijection: Bijection of the prior.
        log_p: Log probabilities of the values of each discrete parameter, float64.
        normal: Distribution of z of all continuous parameters, whether they exist or not.
    """

    bijection: MixedBijection
    log_p: tuple[Tensor, ...]
    normal: Law

    @classmethod
    def around(cls, bijection: MixedBijection, theta: Float[Tensor, "n theta"], wider: float) -> MixedLaw | None:
        """The distribution r around an answer, or None if a continuous parameter does not vary in its draws.

        Args:
            bijection: Bijection of the prior.
            theta: Unweighted draws of the answer.
            wider: Width k.
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
        """n draws of z, with values for parameters that do not exist, too."""
        z = torch.zeros(n, self.bijection.size, dtype=torch.float64)
        for spot, log_p in zip(self.bijection.discrete_in_z.tolist(), self.log_p, strict=True):
            z[:, spot] = torch.multinomial(log_p.exp(), n, replacement=True, generator=generator).double()
        z[:, self.bijection.in_z] = self.normal.sample(n, generator=generator)
        return z

    def squares(self, z: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """Squared distances from the centre, in sds; a parameter that does not exist adds 1, its mean."""
        return self._of_what_exists(z, squares=True)

    def log_prob(self, z: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """Log density of the parameters that exist in z."""
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
    """Values z of a parameter in all draws; where it does not exist, values of other draws or of the prior.

    Values of the prior are put into an order that depends on the column, so that two such columns are not correlated.
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
    """The distribution r around an answer, or None if its draws do not vary.

    Args:
        prior: The prior.
        theta: Unweighted draws of the answer. Draws with an existing parameter that is not finite are left out.
        wider: Width k.
    """
    theta = theta[(theta.isfinite() | ~prior.present(theta)).all(1)]
    if isinstance(prior.bijection, MixedBijection):
        return MixedLaw.around(prior.bijection, theta, wider)
    return Law.around(prior.bijection.forward(theta.double()), wider, normal=prior.bijection.normal)


def _law_from_json(prior: Prior, data: Mapping[str, Any]) -> LawOfZ:
    """The distribution that `to_json` wrote."""
    bijection, size, log_p = prior.bijection, len(prior), tuple[Tensor, ...]()
    if isinstance(bijection, MixedBijection):
        size, log_p = len(bijection.in_z), tuple(torch.tensor(one, dtype=torch.float64) for one in data["log_p"])
        if [len(one) for one in log_p] != [len(one.values) for one in bijection.levels.values()]:
            raise ValueError("the distributions are of other discrete parameters")
    centre, factor = (torch.tensor(data[name], dtype=torch.float64) for name in ("centre", "factor"))
    law = Law(centre, factor if size else torch.zeros(0, 0, dtype=torch.float64))
    if law.factor.shape != (size, size) or law.centre.shape != (size,):
        raise ValueError("the distributions are of another number of parameters")
    return MixedLaw(bijection, log_p, law) if isinstance(bijection, MixedBijection) else law


class Mixture(Proposal):
    """A mixture of distributions of z, as a proposal for theta within the prior's support.

    Args:
        prior: The prior.
        parts: Weight and distribution of each part; the weights sum to 1.
        about: Further entries for `to_json`, as JSON values.
    """

    def __init__(self, prior: Prior, parts: Sequence[tuple[float, LawOfZ]], about: Mapping[str, Any]) -> None:
        check_apart(prior, "a proposal around an observation")
        self.prior, self.parts, self.about = prior, tuple(parts), dict(about)

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """n draws of theta; draws that rounding puts outside the support are replaced."""
        found = [torch.zeros(0, len(self.prior), dtype=self.prior.dtype)]
        while (left := n - sum(map(len, found))) > 0:
            weights = torch.tensor([weight for weight, _ in self.parts], dtype=torch.float64)
            which = torch.multinomial(weights, left, replacement=True, generator=generator)
            z = torch.stack([law.sample(left, generator=generator) for _, law in self.parts])
            theta = self.prior.bijection.inverse(z[which, torch.arange(left)].to(self.prior.dtype))
            found.append(theta[self.prior.log_prob(theta).isfinite()])
        return torch.cat(found)

    def log_ratio(self, theta: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
        """Logarithm of the prior's density over the mixture's, float64; -inf outside the prior's support."""
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
        """The mixture that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: If the data were not written by `to_json`.
        """
        parts = [(float(part["weight"]), _law_from_json(prior, part)) for part in data["parts"]]
        return cls(prior, parts, {key: data[key] for key in data if key not in ("kind", "parts")})


def log_prior(prior: Prior, z: Float[Tensor, "*n theta"], theta: Float[Tensor, "*n theta"]) -> Float[Tensor, "*n"]:
    """Log density of z under the prior, times the probabilities of discrete values.

    Args:
        prior: The prior.
        z: Unbounded parameters.
        theta: The same parameters, within the prior's support.
    """
    if isinstance(prior.bijection, MixedBijection):
        return prior.log_prob(theta) - prior.log_jacobian(theta)
    return PriorInZ(prior).log_prob(z, theta)
