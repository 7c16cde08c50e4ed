r"""Densities that are known exactly: draws, log density, entropy.

The entropy h = -E[log p(z)] is what the mean of -log q of the best flow comes to, so a flow's gap to it is its
Kullback-Leibler divergence from p, in nats.

    Mixture    K Gaussians of any covariances
    Rings      a mixture of radii r ~ N(R_k, s_k^2), r > 0, with a uniform angle: p(z) = p(r) / (2 pi r)
    Banana     z_1 ~ N(0, 1), z_2 | z_1 ~ N(b (z_1^2 - 1), s^2): h = log(2 pi e s)

The entropy of a mixture in two dimensions is an integral over a grid, that of the rings one over r, both by the
trapezoidal rule, which for densities as smooth as these is exact to many digits. In more dimensions a mixture's is
-E[log w_k N_k(z)] + E[log P(k | z)] over component k and z: the first term is known, the second a long Monte Carlo
mean, whose standard error is given.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

LONG = 1_000_000  # draws behind an entropy that has no quadrature


class KnownDensity(ABC):
    """A density of R^D."""

    dim: int

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """n draws, (n, D), float64."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z), (n,), of z (n, D), float64."""

    @abstractmethod
    def entropy(self) -> tuple[float, float]:
        """-E[log p(z)] in nats and its standard error, which is 0 where nothing is drawn."""


class Mixture(KnownDensity):
    """Gaussians of given weights (K,), means (K, D) and factors L (K, D, D) of their covariances L L^T."""

    def __init__(self, weights: Tensor, means: Tensor, factors: Tensor) -> None:
        self.weights, self.means, self.factors = weights.double(), means.double(), factors.double()
        self.dim = means.shape[1]

    def _joint(self, z: Tensor) -> Tensor:
        """log w_k N_k(z), (n, K)."""
        white = torch.linalg.solve_triangular(self.factors, (z - self.means[:, None]).mT, upper=False)
        log_det = self.factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = self.weights.log() - log_det - 0.5 * self.dim * math.log(2 * math.pi)
        return (constant[:, None] - 0.5 * white.square().sum(1)).T

    def _draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        eps = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        z = torch.empty(n, self.dim, dtype=torch.float64)
        for component in range(len(self.weights)):
            own = k == component
            z[own] = self.means[component] + eps[own] @ self.factors[component].T
        return z, k

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        return self._draw(n, generator)[0]

    def log_prob(self, z: Tensor) -> Tensor:
        return self._joint(z).logsumexp(1)

    def entropy(self) -> tuple[float, float]:
        if self.dim == 2:
            return self._entropy_on_grid(), 0.0
        log_det = self.factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        own = 0.5 * self.dim * math.log(2 * math.pi * math.e) + log_det - self.weights.log()
        z, k = self._draw(LONG, torch.Generator().manual_seed(0))
        known = torch.cat([self._joint(part).log_softmax(1) for part in z.split(100_000)]).gather(1, k[:, None])
        return float(self.weights @ own + known.mean()), float(known.std()) / math.sqrt(LONG)

    def _entropy_on_grid(self) -> float:
        widest = self.factors.norm(dim=-1).amax(0)
        low, high = self.means.amin(0) - 9 * widest, self.means.amax(0) + 9 * widest
        axes = [torch.linspace(float(a), float(b), 801, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
        cell = float(torch.stack([axis[1] - axis[0] for axis in axes]).prod())
        log_p = self.log_prob(torch.cartesian_prod(*axes))
        return float(-(log_p.exp() * log_p).sum()) * cell


class Rings(KnownDensity):
    """Circles of given weights and radii (K,), blurred by a Gaussian of given sd (K,) across."""

    dim = 2

    def __init__(self, weights: Tensor, radii: Tensor, sds: Tensor) -> None:
        self.weights, self.radii, self.sds = weights.double(), radii.double(), sds.double()
        self._mass = 0.5 * torch.special.erfc(-self.radii / self.sds / math.sqrt(2))  # P(r > 0)

    def _log_radial(self, r: Tensor) -> Tensor:
        score = (r[..., None] - self.radii) / self.sds
        log_each = (self.weights / self._mass / self.sds).log() - 0.5 * (score.square() + math.log(2 * math.pi))
        return log_each.logsumexp(-1)

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        u = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        r = self.radii[k] + self.sds[k] * torch.special.ndtri(1 - self._mass[k] * u[:, 0])
        return r[:, None] * torch.stack([torch.cos(2 * math.pi * u[:, 1]), torch.sin(2 * math.pi * u[:, 1])], dim=1)

    def log_prob(self, z: Tensor) -> Tensor:
        r = z.norm(dim=1)
        return self._log_radial(r) - torch.log(2 * math.pi * r)

    def entropy(self) -> tuple[float, float]:
        edge = float((self.radii + 12 * self.sds).max())
        r = torch.linspace(1e-9, edge, 200_001, dtype=torch.float64)
        log_p = self._log_radial(r)
        return float(torch.trapezoid(-log_p.exp() * (log_p - torch.log(2 * math.pi * r)), r)), 0.0


class Banana(KnownDensity):
    """A Gaussian bent along a parabola of curvature b, with sd s across."""

    dim = 2

    def __init__(self, bend: float, sd: float) -> None:
        self.bend, self.sd = bend, sd

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        e = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return torch.stack([e[:, 0], self.bend * (e[:, 0].square() - 1) + self.sd * e[:, 1]], dim=1)

    def log_prob(self, z: Tensor) -> Tensor:
        across = (z[:, 1] - self.bend * (z[:, 0].square() - 1)) / self.sd
        return -0.5 * (z[:, 0].square() + across.square()) - math.log(2 * math.pi * self.sd)

    def entropy(self) -> tuple[float, float]:
        return math.log(2 * math.pi * math.e * self.sd), 0.0


def known_densities() -> dict[str, KnownDensity]:
    """The densities of the benchmark, each with a width of about 1 in every dimension."""
    return {"moons": _moons(), "ring": _ring(), "banana": Banana(0.7, 0.4), "mixture 8-D": _mixture(8, 2)}


def _moons() -> Mixture:
    """Two half circles, one in the hollow of the other, each drawn by 16 Gaussians."""
    angle = math.pi * (torch.arange(16) + 0.5) / 16
    arc = torch.stack([angle.cos(), angle.sin()], dim=1)
    means = torch.cat([arc, torch.tensor([1.0, 0.4]) - arc]) - torch.tensor([0.5, 0.2])
    return Mixture(torch.full((32,), 1 / 32), 1.2 * means, 0.22 * torch.eye(2).expand(32, 2, 2))


def _ring() -> Rings:
    """A circle with a hole."""
    return Rings(torch.tensor([1.0]), torch.tensor([1.3]), torch.tensor([0.25]))


def _mixture(dim: int, modes: int) -> Mixture:
    """Correlated Gaussians with random centres."""
    generator = torch.Generator().manual_seed(8)
    means = 0.7 * torch.randn(modes, dim, generator=generator)
    correlated = torch.tril(0.1 * torch.randn(modes, dim, dim, generator=generator), -1)
    sds = torch.diag_embed(0.5 + 0.2 * torch.rand(modes, dim, generator=generator))
    return Mixture(torch.arange(modes, 0, -1) / (modes * (modes + 1) / 2), means, correlated + sds)
