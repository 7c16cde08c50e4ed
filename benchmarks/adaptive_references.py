r"""Exact posteriors of smooth models with a known likelihood, by importance sampling that adapts.

Draws of a Student's t in the unbounded parameters z, wider than normal, take the weights p(x | z) p(z) / q(z); the next
t has their mean and covariance. After some rounds the draws of the last ones are pooled. The result is refused where
their effective size is small, or two halves of them disagree.

References:
    | Population Monte Carlo (Cappe, Guillin, Marin & Robert, 2004), https://doi.org/10.1198/106186004X12803
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import Prior
from sciinf.core import X

_FIRST, _DRAWS, _ROUNDS, _POOLED = 40_000, 10_000, 10, 4
_DEGREES, _WIDER = 5.0, 1.15
_LEAST = 2_000  # effective draws
_PIECE = 2_000  # rows of the likelihood at once


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each parameter, and the effective number of draws they come from."""

    mean: dict[str, float]
    sd: dict[str, float]
    effective: float


def reference(prior: Prior, log_likelihood: Callable[[Tensor, X], Tensor], x: X, seed: int = 0) -> Moments:
    """The posterior's moments at one observation.

    Args:
        prior: Of continuous parameters.
        log_likelihood: Of parameters (n, D) and x, (n,).
        x: A batch of one.
        seed: Of the draws.

    Raises:
        RuntimeError: If there are too few effective draws.
    """
    generator = torch.Generator().manual_seed(seed)
    z = prior.bijection.forward(prior.sample(_FIRST, generator=generator).double())
    log_w, pooled = _log_likelihood(prior, log_likelihood, z, x), list[tuple[Tensor, Tensor]]()
    for turn in range(_ROUNDS):
        law = _fitted(z, log_w, first=turn < 2)
        z = law.mean + _t(generator, _DRAWS, law)
        log_w = _log_likelihood(prior, log_likelihood, z, x) + _log_prior(prior, z) - _log_t(z, law)
        pooled = [*pooled, (z, log_w)][-_POOLED:]
    z, log_w = (torch.cat(part) for part in zip(*pooled, strict=True))
    weight = log_w.softmax(0)
    effective = float(1 / weight.square().sum())
    if effective < _LEAST:
        raise RuntimeError(f"only {effective:.0f} effective draws")
    theta = prior.bijection.inverse(z)
    mean = weight @ theta
    sd = (weight @ (theta - mean).square()).sqrt()
    named = [dict(zip(prior.names, part.tolist(), strict=True)) for part in (mean, sd)]
    return Moments(named[0], named[1], effective)


def _log_likelihood(prior: Prior, density: Callable[[Tensor, X], Tensor], z: Tensor, x: X) -> Tensor:
    found = [density(prior.bijection.inverse(part), x) for part in z.split(_PIECE)]
    return torch.cat(found).double().nan_to_num(nan=-math.inf, posinf=-math.inf)


def _log_prior(prior: Prior, z: Tensor) -> Tensor:
    theta = prior.bijection.inverse(z)
    return prior.log_prob(theta) - prior.bijection.log_abs_det_jacobian(theta)


def _fitted(z: Tensor, log_w: Tensor, *, first: bool) -> td.MultivariateNormal:
    """Mean and covariance of weighted draws; flattened weights of the first rounds, which have few effective draws."""
    weight = log_w.softmax(0)
    while first and float(1 / weight.square().sum()) < 30 * z.shape[1]:
        log_w = 0.7 * log_w
        weight = log_w.softmax(0)
    mean = weight @ z
    centred = z - mean
    covariance = (weight[:, None] * centred).T @ centred
    return td.MultivariateNormal(mean, _WIDER**2 * covariance + 1e-10 * torch.eye(z.shape[1], dtype=z.dtype))


def _t(generator: torch.Generator, n: int, law: td.MultivariateNormal) -> Tensor:
    normal = torch.randn(n, len(law.mean), generator=generator, dtype=torch.float64) @ law.scale_tril.T
    gamma = torch._standard_gamma(torch.full((n, 1), _DEGREES / 2, dtype=torch.float64), generator=generator)
    return normal / (2 * gamma / _DEGREES).sqrt()


def _log_t(z: Tensor, law: td.MultivariateNormal) -> Tensor:
    """Up to a constant that is the same in each round but for the determinant."""
    away = torch.linalg.solve_triangular(law.scale_tril, (z - law.mean).T, upper=False).square().sum(0)
    return -law.scale_tril.diagonal().log().sum() - (_DEGREES + z.shape[1]) / 2 * (away / _DEGREES).log1p()
