r"""Incompressible flow of a viscous fluid in two dimensions, on a torus: the vorticity that it carries along.

    dω/dt + u·∇ω = ν Δω - μ ω + s f(x, y),     u = ∂ψ/∂y,  v = -∂ψ/∂x,  -Δψ = ω,     0 <= x, y < L,  0 <= t <= T,

with the mean of ω and of the velocity zero. The observable "u" is ω. Products are made of momentum fluxes,

    u·∇ω = (∂_xx - ∂_yy)(u v) + ∂_xy (v^2 - u^2),

which takes four Fourier transforms, and keeps energy and enstrophy where ν = μ = s = 0: modes from two thirds of the
highest wave number on neither carry nor are carried. Exponential time differencing treats ν and μ exactly; the state is
held in double precision, velocities and their products in that of `dtype`.

f is `diagonal`, sin + cos of 2 pi (x + y), at s about 0.1; or it is `shear`, which drives the Kolmogorov flow (that is
what `kolmogorov` makes: L = 2 pi, μ = 0.1). ω starts from a Gaussian random field of spectrum (|k|^2 + 49)^-2.5 and sd
0.262, which is that of the fields the program of Li et al. draws (the factor 7^1.5 of their text would give 0.043).

Good values: ν from 4e-4 to 4e-3, s from 0.05 to 0.15, 64 points, up to t = 10: in 32 draws of the prior, halving the
step changed ω by less than 1e-6 of its norm, doubling the points by less than 2e-5. In 16 draws of the Kolmogorov flow
that was 2e-6 and 3e-3.

References:
    | Fourier Neural Operator for Parametric Partial Differential Equations, section 5.3 (Li et al., 2021),
      https://arxiv.org/abs/2010.08895
    | A gain in efficiency for two-dimensional pseudo-spectral codes (Basdevant, 1983),
      https://doi.org/10.1016/0021-9991(83)90045-8
    | Two-Dimensional Turbulence (Boffetta & Ecke, 2012), https://doi.org/10.1146/annurev-fluid-120710-101240
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributions as td

from sciinf.core import Prior, Truncated, X
from sciinf.simulators.dynamics.field_equation import Evolution, column, described
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.random_field import RandomField, Start
from sciinf.simulators.dynamics.spectral import solve

STEP = 3.2  # longest, times points: stable for speeds up to 0.3 in a box of 1
TOGETHER = 2**15  # points of solutions on a processor at a time, which its cache holds

Forcing = Callable[[BoxGrid], Float[Tensor, "y x"]]
"""f at the points of a grid."""


def diagonal(grid: BoxGrid) -> Float[Tensor, "y x"]:
    """sin + cos of 2 pi (x + y) / L."""
    y, x = (2 * math.pi * c / length for c, length in zip(grid.coordinates, grid.lengths, strict=True))
    return torch.sin(x + y) + torch.cos(x + y)


def shear(grid: BoxGrid) -> Float[Tensor, "y x"]:
    """-k cos(k y), the curl of a force sin(k y) along x, k being four waves of the box."""
    k = 4 * 2 * math.pi / grid.lengths[0]
    return -k * torch.cos(k * grid.coordinates[0])


class NavierStokes(Evolution):
    """The vorticity equation.

    Args:
        points: Of each side.
        times: Of the frames, increasing from 0 on.
        initial: ω at the beginning; its mean is taken out.
        forcing: f.
        viscosity: Law of ν; log-normal around 1.25e-3, cut, from 4e-4 to 4e-3 where left out.
        strength: Law of s; even from 0.05 to 0.15 where left out.
        drag: μ.
        length: L.
        longest: Longest step; 3.2 / points where left out, which is stable for speeds up to 0.3 L.
        dtype: Precision of velocities and their products: single takes about two thirds of the time.
    """

    name = "navier_stokes"
    block = 16

    def __init__(
        self,
        points: int = 64,
        times: Sequence[float] = tuple(float(t) for t in range(11)),
        initial: Start | None = None,
        forcing: Forcing = diagonal,
        viscosity: td.Distribution | None = None,
        strength: td.Distribution | None = None,
        drag: float = 0.0,
        length: float = 1.0,
        longest: float | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.grid, self.times = BoxGrid((points, points), (length, length)), tuple(times)
        self.longest = longest or STEP / points
        self.initial = initial or RandomField(0.262, tau=7.0, alpha=2.5)
        self.random = self.initial.random
        self.forcing, self.drag, self.dtype = forcing, drag, dtype
        self.prior = Prior(
            viscosity=viscosity or Truncated(td.LogNormal(math.log(1.25e-3), 1.0), 4e-4, 4e-3),
            strength=strength or td.Uniform(0.05, 0.15),
        )
        self.given, self.observables = described({"initial": (1,)}, len(self.times), 1, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        vorticity = self.initial.draw(len(theta), 1, self.grid, generator=generator).to(theta.device)
        return {"initial": vorticity - vorticity.mean((-2, -1), keepdim=True)}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        together = max(1, TOGETHER // math.prod(self.grid.shape)) if theta.device.type == "cpu" else len(theta)
        parts = zip(theta.double().split(together), given["initial"].double().split(together), strict=True)
        return torch.cat([self._solved(rows, vorticity) for rows, vorticity in parts])

    def _solved(self, theta: Tensor, vorticity: Tensor) -> Tensor:
        modes = self.grid.transformed(vorticity)
        nu = column(theta, self.prior, "viscosity", modes)
        carried = transport(self.grid, self.dtype, theta.device)
        push = column(theta, self.prior, "strength", modes) * self.grid.transformed(self.forcing(self.grid)).to(modes)

        def rest(v: Tensor) -> Tensor:
            return push - carried(v)

        linear = -nu * self.grid.squared.to(theta.device) - self.drag
        return self.grid.back(solve(modes, linear, rest, self.times, longest=self.longest))

    def rate(self, field: Tensor, theta: Tensor) -> Tensor:
        nu, strength = (column(theta, self.prior, name, field) for name in ("viscosity", "strength"))
        modes = self.grid.transformed(field)
        carried = self.grid.back(transport(self.grid, field.dtype, field.device)(modes))
        spread = self.grid.back(modes * self.grid.squared.to(field))
        return strength * self.forcing(self.grid).to(field) - nu * spread - self.drag * field - carried


def kolmogorov(
    points: int = 64,
    times: Sequence[float] = tuple(float(t) for t in range(11)),
    longest: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> NavierStokes:
    """The Kolmogorov flow: sheared with four waves in a box of 2 pi, with drag 0.1."""
    return NavierStokes(
        points,
        times,
        RandomField(1.0, tau=7.0, alpha=2.5),
        shear,
        viscosity=Truncated(td.LogNormal(math.log(0.04), 1.0), 0.02, 0.08),
        strength=td.Uniform(0.5, 1.5),
        drag=0.1,
        length=2 * math.pi,
        longest=longest or 1.28 / points,
        dtype=dtype,
    )


def velocity(grid: BoxGrid, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """What to multiply modes of ω by for those of u and of v, complex."""
    y, x = grid.slope(0), grid.slope(1)
    inverse = torch.where(grid.squared == 0, torch.zeros_like(grid.squared), 1 / grid.squared)
    made = torch.complex128 if dtype == torch.float64 else torch.complex64
    return (y * inverse).to(device, made), (-x * inverse).to(device, made)


def transport(grid: BoxGrid, dtype: torch.dtype, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The map from modes of ω to those of u·∇ω, in that precision."""
    u_of, v_of = (part * grid.kept.to(device) for part in velocity(grid, dtype, device))
    y, x = grid.slope(0), grid.slope(1)
    across, along = ((k.real * grid.kept).to(device, dtype) for k in (x * x - y * y, x * y))

    def carried(modes: Tensor) -> Tensor:
        modes = modes.to(u_of.dtype)
        u, v = grid.back(modes * u_of), grid.back(modes * v_of)
        return grid.transformed(u * v) * across + grid.transformed((v - u) * (v + u)) * along

    return carried


simulator = NavierStokes()
