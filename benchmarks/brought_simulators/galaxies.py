r"""Galaxies of a survey that is limited in flux: their luminosity function, by Schechter's three parameters.

Galaxies are a Poisson process in space and in absolute magnitude M, -24 < M < -16, of the density per Mpc^3 and mag

    phi(M) = 0.4 log(10) phi_star y^{alpha + 1} e^{-y},     y = 10^{-0.4 (M - M_star)}.

The survey sees a solid angle out to 200 Mpc, and of it the galaxies with an apparent magnitude

    m = M + 25 + 5 log10(distance / Mpc) < 15.

Luminous galaxies are seen further away, so they are more common in the catalogue than in space (Malmquist's bias). A
galaxy of magnitude M is seen out to r(M), and the catalogue has N galaxies, N of a Poisson distribution of the mean
solid angle times the integral of phi(M) r(M)^3 / 3. There is room for 400, and at most 280 are expected.

References:
    | An analytic expression for the luminosity function for galaxies (Schechter, 1976), https://doi.org/10.1086/154079
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciinf import LogUniform, Observable, Prior, Simulator, Uniform
from sciinf.core import X

ANGLE, DEPTH, LIMIT = 0.012, 200.0, 15.0  # sr, Mpc, apparent magnitude
BRIGHTEST, FAINTEST, CELLS = -24.0, -16.0, 400  # absolute magnitudes, and cells between them
MOST = 400  # galaxies


def furthest(magnitude: Tensor) -> Tensor:
    """The distance out to which galaxies of an absolute magnitude are seen, in Mpc."""
    return (10 ** ((LIMIT - 25 - magnitude) / 5)).clamp(max=DEPTH)


def log_schechter(magnitude: Tensor, m_star: Tensor, alpha: Tensor, phi_star: Tensor) -> Tensor:
    """Logarithm of the number of galaxies per Mpc^3 and mag, at absolute magnitudes."""
    log_y = 0.4 * math.log(10) * (m_star - magnitude)
    return math.log(0.4 * math.log(10)) + phi_star.log() + (alpha + 1) * log_y - log_y.exp()


class Galaxies(Simulator):
    """A catalogue: apparent magnitude and distance of each galaxy, and which entries of the catalogue there are."""

    name = "galaxies"
    prior = Prior(
        M_star=(Uniform(-21.0, -20.0), "mag"),
        alpha=Uniform(-1.4, -0.4),
        phi_star=(LogUniform(0.005, 0.02), "Mpc-3"),
    )
    observables = {
        "magnitude": Observable((MOST,), "mag", dims=("item",)),
        "magnitude_mask": Observable((MOST,), dims=("item",), dtype="bool"),
        "distance": Observable((MOST,), "Mpc", dims=("item",), scale="log"),
        "distance_mask": Observable((MOST,), dims=("item",), dtype="bool"),
    }

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        cells, edges = expected(theta.double())
        number = torch.poisson(cells.sum(1, keepdim=True), generator=generator)
        draws = torch.rand(3, len(theta), MOST, generator=generator, dtype=torch.float64)
        below = cells.cumsum(1)
        cell = torch.searchsorted(below, draws[0] * below[:, -1:]).clamp(max=CELLS - 1)
        absolute = edges[cell] + edges.diff()[cell] * draws[1]
        distance = furthest(absolute) * draws[2] ** (1 / 3)
        there = torch.arange(MOST) < number
        seen = {"magnitude": absolute + 25 + 5 * distance.log10(), "distance": distance}
        found = {name: torch.where(there, value, 0.0).to(theta.dtype) for name, value in seen.items()}
        return found | {f"{name}_mask": there for name in seen}

    def log_density(self, theta: Tensor, x: X) -> Tensor:
        """Log density of one observation (a batch of one) for parameters (n, 3), float64."""
        there, theta = x["magnitude_mask"], theta.double()
        magnitude, distance = x["magnitude"][there].double(), x["distance"][there].double()
        log = log_schechter(magnitude - 25 - 5 * distance.log10(), *theta[:, :, None].unbind(1))
        return (log + math.log(ANGLE) + 2 * distance.log()).sum(1) - expected(theta)[0].sum(1)


def expected(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Expected numbers of galaxies in cells of absolute magnitude, (n, CELLS), and the edges of the cells."""
    edges = torch.linspace(BRIGHTEST, FAINTEST, CELLS + 1, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2
    density = log_schechter(middles, *theta[:, :, None].unbind(1)).exp()
    return ANGLE / 3 * density * furthest(middles) ** 3 * edges.diff(), edges


simulator = Galaxies()
