r"""Evolution equations in one direction as sums of terms, and families of equations with different terms.

    du/dt = sum_j c_j T_j(u),     T_j one of u, u^2, du/dx, u du/dx, d^2u/dx^2, d^3u/dx^3, d^4u/dx^4,

on a ring. A pattern of non-zero coefficients selects a known equation, such as those of Burgers, Kuramoto and
Sivashinsky, Korteweg and de Vries, Fisher, or advection and diffusion. In Fourier space, a term of first degree and
order d is a factor (ik)^d. The terms u^2 and u du/dx = d(u^2/2)/dx need one product.

A distribution of equations has atoms at coefficients of 0, which a `Prior` cannot have. Therefore the parameters are
latent numbers with uniform distributions. `family` runs from 0 to the number of families, and its whole part is the
number of the family. `share_1`, `share_2` and so on run from 0 to 1. Each share says where in its range one coefficient
of the family lies, in the order of the family's terms. Shares beyond the family's last term have no effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch import distributions as td

from sciinf.core import Prior
from sciinf.core.component import Component
from sciinf.simulators.dynamics.grid import BoxGrid


@dataclass(frozen=True)
class Term:
    """One term T_j(u) of an equation: a derivative of a power of u.

    The term is d^order/dx^order of u^power. A derivative is divided by the power, so that power 2 gives u^2 or u du/dx.

    Attributes:
        name: Name of the term as in written equations, such as "u u_x".
        power: Power of u, 1 or 2.
        order: Order of the derivative; 0 or 1 for power 2.
    """

    name: str
    power: int
    order: int


TERMS = (
    Term("u", 1, 0),
    Term("u^2", 2, 0),
    Term("u_x", 1, 1),
    Term("u u_x", 2, 1),
    Term("u_xx", 1, 2),
    Term("u_xxx", 1, 3),
    Term("u_xxxx", 1, 4),
)
NAMES = tuple(term.name for term in TERMS)


class Families(Component):
    """Families of equations with equal prior probabilities.

    Args:
        ranges: Name of a family -> name of a term (`NAMES`) -> lowest and highest coefficient, not both of them 0.

    Raises:
        ValueError: If there are no families or terms, a term is unknown, or a range is invalid.

    Attributes:
        prior: Prior of the latent numbers `family`, `share_1`, `share_2` and so on.
    """

    def __init__(self, ranges: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        self.ranges = {name: dict(terms) for name, terms in ranges.items()}
        if not self.ranges or not all(self.ranges.values()):
            raise ValueError(f"families of equations have a name and terms each, got {self.ranges}")
        for name, terms in self.ranges.items():
            if unknown := set(terms) - set(NAMES):
                raise ValueError(f"the family {name!r} has the terms {sorted(unknown)}; there are {NAMES}")
            for term, found in terms.items():
                if len(found) != 2 or not -math.inf < found[0] <= found[1] < math.inf or found[0] == found[1] == 0:
                    raise ValueError(f"the range of {term!r} in {name!r} is {found}: give a lowest and highest number")
        shares = max(map(len, self.ranges.values()))
        named = {f"share_{k + 1}": td.Uniform(0.0, 1.0) for k in range(shares)}
        self.prior = Prior(family=td.Uniform(0.0, float(len(self.ranges))), **named)
        self._tables: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the families."""
        return tuple(self.ranges)

    @property
    def patterns(self) -> list[tuple[str, ...]]:
        """The terms of each family, in the order of `NAMES`."""
        return [tuple(name for name in NAMES if name in terms) for terms in self.ranges.values()]

    def number(self, theta: Float[Tensor, "batch theta"]) -> Int[Tensor, " batch"]:
        """Number of each row's family, counted from 0."""
        return theta[:, 0].floor().long().clamp(0, len(self.ranges) - 1)

    def coefficients(self, theta: Float[Tensor, "batch theta"]) -> Float[Tensor, "batch term"]:
        """Coefficient of each term in `TERMS`, 0 for terms outside the family.

        The coefficients are float64 and differentiable in the shares.
        """
        low, high, place = self._on(theta.device)
        at = self.number(theta)
        share = theta[:, 1:].double().gather(1, place[at].clamp_min(0))
        found = low[at] + (high[at] - low[at]) * share
        return torch.where(place[at] >= 0, found, torch.zeros_like(found))

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Tables (family, term) on a device: lower ends and upper ends of the ranges, and numbers of the shares.

        The number of the share is -1 for a term that the family does not have.
        """
        if device not in self._tables:
            low, high = torch.zeros(2, len(self.ranges), len(TERMS), dtype=torch.float64)
            place = torch.full(low.shape, -1)
            for k, terms in enumerate(self.ranges.values()):
                for j, (name, (first, last)) in enumerate(terms.items()):
                    at = (k, NAMES.index(name))
                    low[at], high[at], place[at] = first, last, j
            self._tables[device] = (low.to(device), high.to(device), place.to(device))
        return self._tables[device]


def split(coefficients: Float[Tensor, "batch term"], grid: BoxGrid) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Linear and nonlinear part of an equation, in the form that `spectral.solve` takes.

    Products are truncated at two thirds of the grid's highest wave number.

    Returns:
        The factor L of every mode, (batch, 1, modes), and the rest N, a function of modes.
    """
    device, slope = coefficients.device, grid.slope(0).to(coefficients.device)
    waves, kept = 1j * grid.wave_numbers[0].to(device), grid.kept.to(device)
    linear, product = torch.zeros_like(waves), torch.zeros_like(waves)
    for term, c in zip(TERMS, coefficients.double().unbind(1), strict=True):
        factor = c[:, None] * (slope if term.order % 2 else waves) ** term.order
        if term.power == 1:
            linear = linear + factor
        else:
            product = product + factor / (term.power if term.order else 1)
    cut = (kept * product)[:, None]

    def rest(v: Tensor) -> Tensor:
        return cut * grid.transformed(grid.back(v * kept).square())

    return linear[:, None], rest


def rate(
    coefficients: Float[Tensor, "batch term"], field: Float[Tensor, "batch *more x"], grid: BoxGrid
) -> Float[Tensor, "batch *more x"]:
    """Time derivative du/dt of a field according to the equation. Differentiable."""
    total = torch.zeros_like(field)
    for term, c in zip(TERMS, coefficients.to(field).unbind(1), strict=True):
        value = field**term.power
        if term.order:
            value = grid.derivative(value, -1, term.order) / term.power
        total = total + c.reshape(-1, *[1] * (field.ndim - 1)) * value
    return total
