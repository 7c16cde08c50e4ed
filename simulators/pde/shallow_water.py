r"""Waves and eddies in a shallow layer of water that rotates: the shallow-water equations on a torus.

    dh/dt + ∂_x(h u) + ∂_y(h v) = -D h,
    du/dt - (ζ + f) v + ∂_x(g h + (u^2 + v^2) / 2) = -D u,
    dv/dt + (ζ + f) u + ∂_y(g h + (u^2 + v^2) / 2) = -D v,     ζ = ∂_x v - ∂_y u,     0 <= x, y < 1,  0 <= t <= T,

h the depth, whose mean is 1, (u, v) the velocity, g gravity, f twice the rate of rotation; these are channels 0, 1, 2.
D is a hyperviscosity, d (|k| / k_c)^8 with k_c two thirds of the highest wave number, which stills what is smaller than
the points resolve. Mass is kept to rounding; energy, the mean of h (u^2 + v^2) / 2 + g (h - 1)^2 / 2, where d = 0.

Pseudo-spectral, products cut at k_c. Waves of small height, of frequency ω = sqrt(f^2 + g |k|^2), are the stiff part
and couple the three fields, d(h, u, v)/dt = A (h, u, v) in every mode, with A^3 = -ω^2 A. So

    e^{At} = 1 + sin(ωt) / ω A + (1 - cos(ωt)) / ω^2 A^2

moves them exactly, and Runge-Kutta steps of order four are taken of what is left (integrating factors): they resolve
how fast water moves, not how fast waves do.

Good values: g from 0.5 to 1.5, f from 0 to 10, heights of sd 0.05, 64 points, up to t = 1: in 32 draws of the prior,
halving the step changed h - 1, u and v by less than 3e-5 of their norm, doubling the points by less than 3e-4. Steeper
waves break.

References:
    | Atmospheric and Oceanic Fluid Dynamics, chapter 3 (Vallis, 2017), https://doi.org/10.1017/9781107588417
    | Generalized Runge-Kutta Processes for Stable Systems with Large Lipschitz Constants (Lawson, 1967),
      https://doi.org/10.1137/0704033
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch import distributions as td

from sciinf.core import Prior, X
from sciinf.simulators.dynamics.field_equation import Evolution, column, described
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.random_field import RandomField, Start

LONGEST = 0.02  # of a step
TOGETHER = 4  # solutions on a processor at a time, which its cache holds


class ShallowWater(Evolution):
    """The shallow-water equations, from rest.

    Args:
        points: Of each side.
        times: Of the frames, increasing from 0 on.
        initial: h - 1 at the beginning; its mean is taken out.
        gravity: Law of g; even from 0.5 to 1.5 where left out.
        coriolis: Law of f; even from 0 to 10 where left out.
        damping: d.
        longest: Longest step.
        dtype: Precision of fields and their products: single takes about two thirds of the time.
    """

    name = "shallow_water"
    block = 16

    def __init__(
        self,
        points: int = 64,
        times: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        initial: Start | None = None,
        gravity: td.Distribution | None = None,
        coriolis: td.Distribution | None = None,
        damping: float = 1.0,
        longest: float = LONGEST,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.grid, self.times, self.longest = BoxGrid((points, points), (1.0, 1.0)), tuple(times), longest
        self.initial = initial or RandomField(0.05, tau=3.0, alpha=4.0)
        self.random = self.initial.random
        self.dtype = dtype
        self.damped = damping * (self.grid.squared / (2 * math.pi * points / 3) ** 2) ** 4
        self.prior = Prior(gravity=gravity or td.Uniform(0.5, 1.5), coriolis=coriolis or td.Uniform(0.0, 10.0))
        self.given, self.observables = described({"initial": (3,)}, len(self.times), 3, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        height = self.initial.draw(len(theta), 1, self.grid, generator=generator).to(theta.device)
        height = height - height.mean((-2, -1), keepdim=True)
        return {"initial": torch.cat([1 + height, torch.zeros_like(height), torch.zeros_like(height)], dim=1)}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        together = TOGETHER if theta.device.type == "cpu" else len(theta)
        parts = zip(theta.double().split(together), given["initial"].double().split(together), strict=True)
        return torch.cat([self._solved(rows, fields) for rows, fields in parts])

    def _solved(self, theta: Tensor, fields: Tensor) -> Tensor:
        modes = self.grid.transformed(fields)
        modes[:, 0, 0, 0] -= fields[0, 0].numel()  # of h - 1
        rest, found, moves = beyond_waves(self.grid, self.dtype, theta.device), [], {}
        for before, after in itertools.pairwise((0.0, *self.times)):
            count = math.ceil((after - before) / self.longest - 1e-9)
            length = round((after - before) / max(count, 1), 15)
            if count and length not in moves:
                moves[length] = self.moved(theta, length / 2)
            for _ in range(count):
                modes = _step(modes, moves[length], rest, length)
            found.append(modes)
        return self.grid.back(torch.stack(found, dim=1)) + torch.eye(3).to(fields)[0].reshape(3, 1, 1)

    def moved(self, theta: Float[Tensor, "batch theta"], time: float) -> Complex[Tensor, "batch 3 3 ky kx"]:
        """e^{At} of every mode, hyperviscosity included."""
        y, x = (self.grid.slope(axis).to(theta.device) for axis in (0, 1))
        squared, like = self.grid.squared.to(theta), theta.new_zeros(len(theta), 1, 1, dtype=torch.complex128)
        g, f = (column(theta.double(), self.prior, name, like) for name in ("gravity", "coriolis"))
        rows = ((0 * x * y, -x, -y), (-g * x, 0 * f, f), (-g * y, -f, 0 * f))
        shape = torch.broadcast_shapes(g.shape, squared.shape)
        a = torch.stack([torch.stack([(e + 0j).expand(shape) for e in row], dim=1) for row in rows], dim=1)
        frequency = (f.square() - g * (x.square() + y.square()).real).sqrt()[:, None, None]
        once = time * torch.sinc(frequency * time / math.pi)
        twice = 0.5 * (time * torch.sinc(frequency * time / (2 * math.pi))).square()
        both = torch.einsum("bijyx,bjkyx->bikyx", a, a)
        one = torch.eye(3, dtype=a.dtype, device=a.device).reshape(3, 3, 1, 1)
        return (one + once * a + twice * both) * torch.exp(-time * self.damped.to(theta))

    def rate(self, field: Tensor, theta: Tensor) -> Tensor:
        grid, (h, u, v) = self.grid, field.unbind(-3)
        g, f = (column(theta, self.prior, name, h) for name in ("gravity", "coriolis"))
        spread = grid.derivative(u, -1) + grid.derivative(v, -2)
        waves = torch.stack([-spread, f * v - g * grid.derivative(h, -1), -f * u - g * grid.derivative(h, -2)], dim=-3)
        modes = grid.transformed(field - torch.eye(3).to(field)[0].reshape(3, 1, 1))
        rest = beyond_waves(grid, field.dtype, field.device)(modes)
        return waves + grid.back(rest - self.damped.to(field) * modes)


def beyond_waves(grid: BoxGrid, dtype: torch.dtype, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The map from modes of (h - 1, u, v), along axis -3, to those of what is not linear in their rates."""
    made = torch.complex128 if dtype == torch.float64 else torch.complex64
    y, x = (grid.slope(axis).to(device, made) for axis in (0, 1))
    kept = grid.kept.to(device, dtype)

    def rest(modes: Tensor) -> Tensor:
        h, u, v = (modes.to(made) * kept).unbind(-3)
        h, u, v, turning = grid.back(torch.stack([h, u, v, x * v - y * u], dim=-3)).unbind(-3)
        products = [h * u, h * v, turning * u, turning * v, (u * u + v * v) / 2]
        hu, hv, tu, tv, energy = (grid.transformed(torch.stack(products, dim=-3)) * kept).unbind(-3)
        return torch.stack([-x * hu - y * hv, tv - x * energy, -tu - y * energy], dim=-3)

    return rest


def _step(modes: Tensor, half: Tensor, rest: Callable[[Tensor], Tensor], length: float) -> Tensor:
    """One step of Lawson's method; `half` moves waves by half of it."""

    def move(v: Tensor) -> Tensor:
        return (half * v[:, None]).sum(2)

    start = rest(modes)
    moved, start = move(modes), move(start)
    middle = rest(moved + length / 2 * start)
    again = rest(moved + length / 2 * middle)
    last = rest(move(moved + length * again))
    return move(moved + length / 6 * start + length / 3 * (middle + again)) + length / 6 * last


simulator = ShallowWater()
