r"""Test functions of compact support, for equations in their weak form on the unit square.

With r = |x - c| / R < 1 (the functions are 0 beyond), Wendland's functions of least degree that are positive definite
in up to three dimensions are

    C^2:  p = (1 - r)^4 (4 r + 1),                 dp/dx = -20 (1 - r)^3 (x - c) / R^2
    C^4:  p = (1 - r)^6 (35 r^2 + 18 r + 3) / 3,   dp/dx = -56/3 (1 - r)^5 (5 r + 1) (x - c) / R^2,

with p(c) = 1. In the plane, int p is pi R^2 / 7 and pi R^2 / 9. A test function has to be 0 on the boundary. If the
supports were kept inside the square, p would be almost 0 in a strip along the edges, and the equation would not be
tested there. So

    v = m p,    dv/dx = m dp/dx + p dm/dx,    m = sin(pi x) sin(pi y),

with c anywhere. Integrals are sums over a product of points on both axes. Each axis is divided into panels, which are
short pieces of [0, 1] with Gauss points in each. A random shift moves all panels together, so that the points may lie
anywhere.

References:
    | Piecewise polynomial, positive definite and compactly supported radial functions of minimal degree
      (Wendland, 1995), https://doi.org/10.1007/BF02123482
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SMOOTHNESS = (2, 4)
_PLACES = ((1 - math.sqrt(0.6)) / 2, 0.5, (1 + math.sqrt(0.6)) / 2)
_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)


@dataclass(frozen=True)
class Lattice:
    """Integration points on the unit square with their weights.

    Args:
        points: Coordinates.
        weights: Weight of each point in an integral over the unit square.
    """

    points: Float[Tensor, "point 2"]
    weights: Float[Tensor, " point"]


@dataclass(frozen=True)
class Bumps:
    """Test functions in the plane: Wendland's radial functions with their centres and radii.

    Args:
        centres: Centres c.
        radii: Radii R of the supports.
        smoothness: Smoothness, 2 or 4.
    """

    centres: Float[Tensor, "bump 2"]
    radii: Float[Tensor, " bump"]
    smoothness: int = 2

    def values_and_slopes(
        self, points: Float[Tensor, "point 2"]
    ) -> tuple[Float[Tensor, "bump point"], Float[Tensor, "bump 2 point"]]:
        """Values p and gradients dp/dx at points."""
        away = points.mT - self.centres[..., None]
        r = (away.square().sum(1).sqrt() / self.radii[:, None]).clamp_max(1.0)
        left = 1 - r
        cube = left * left * left
        if self.smoothness == 2:
            value, steep = cube * left * (4 * r + 1), -20 * cube
        else:
            value, steep = cube * cube * (35 * r * r + 18 * r + 3) / 3, -56 / 3 * cube * left * left * (5 * r + 1)
        return value, away * (steep / self.radii.square()[:, None])[:, None]

    def imbalance(
        self, flux: Float[Tensor, "batch 2 point"], lattice: Lattice, source: float
    ) -> Float[Tensor, "batch bump"]:
        """Normalised residual of the weak form of -div s = f for each test function v = m p with radius R,

            (int s . dv/dx - int f v) / (R sqrt(int |dv/dx|^2)),

        which is 0 if s satisfies the equation.

        Args:
            flux: The flux s at the lattice's points.
            lattice: The lattice.
            source: The source f.
        """
        value, slope = self.values_and_slopes(lattice.points)
        mode, steep = mollifier(lattice.points)
        slope = mode * slope + value[:, None] * steep
        size = (slope.square().sum(1) @ lattice.weights).sqrt() * self.radii
        brought = source * (value @ (mode * lattice.weights))
        return (flux.flatten(1) @ (slope * lattice.weights).flatten(1).mT - brought) / size


def mollifier(points: Float[Tensor, "point 2"]) -> tuple[Float[Tensor, " point"], Float[Tensor, "2 point"]]:
    """The factor m that vanishes on the boundary, and its gradient dm/dx."""
    sine, cosine = (math.pi * points).sin(), math.pi * (math.pi * points).cos()
    return sine.prod(-1), torch.stack([cosine[:, 0] * sine[:, 1], sine[:, 0] * cosine[:, 1]])


def draw_bumps(
    count: int, radii: tuple[float, float], smoothness: int, *, like: Tensor, generator: torch.Generator
) -> Bumps:
    """Draw test functions with uniform centres in the unit square, and log-uniform radii between two bounds."""
    where = torch.rand(count, 3, generator=generator, device=generator.device).to(like)
    return Bumps(where[:, :2], radii[0] * (radii[1] / radii[0]) ** where[:, 2], smoothness)


def draw_lattice(panels: int, *, like: Tensor, generator: torch.Generator) -> Lattice:
    """Draw a randomly shifted lattice of (3 (panels + 1))^2 points.

    On each axis, the first and the last panel together have the width of one panel.
    """
    shift = torch.rand(2, 1, generator=generator, device=generator.device).to(like)
    ends = torch.arange(panels, dtype=like.dtype, device=like.device) + shift
    ends = torch.cat([torch.zeros_like(shift), ends, torch.full_like(shift, panels)], 1) / panels
    places, weights = (torch.tensor(v, dtype=like.dtype, device=like.device) for v in (_PLACES, _WEIGHTS))
    axes = (ends[:, :-1, None] + ends.diff(dim=1)[..., None] * places).flatten(1)
    share = (ends.diff(dim=1)[..., None] * weights).flatten(1)
    points = torch.stack(torch.meshgrid(axes[0], axes[1], indexing="ij"), -1).flatten(0, 1)
    return Lattice(points, torch.outer(share[0], share[1]).flatten())
