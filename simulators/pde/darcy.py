r"""Pressure of water that seeps through two kinds of ground: Darcy's equation on the unit square.

    -∇·(a ∇u) = f,     0 < x, y < 1,     u = 0 on the boundary,

a the permeability, here `low` or `high` at every point according to the sign of a Gaussian random field, f a constant
inflow.

Finite volumes around the inner points, h apart: what flows from a point to its neighbour is c (u_there - u_here) / h, c
the harmonic mean of the two values of a, which is exact for ground in layers that change halfway. Errors are of order
h^2 where a is smooth. The linear systems of all rows are solved together by conjugate gradients; the preconditioner is
the same operator at a = 1, inverted by sine transforms S (matrices, for sides this short):

    u = S ((S r S) / (λ_i + λ_j)) S * 4 h^2,     S_ij = sin(pi i j h),  λ_i = 4 / h^2 sin(pi i h / 2)^2.

With it the condition number is at most high / low, on any grid. Rows whose residual has not fallen by `tolerance` after
`iterations` are NaN.

Good values: high / low up to 100, 29 to 64 points: 14 iterations at a ratio of 2, 21 at 4 and fewer than 80 at 100.

References:
    | Fourier Neural Operator for Parametric Partial Differential Equations, section 5.2 (Li et al., 2021),
      https://arxiv.org/abs/2010.08895
    | Use of Fast Direct Methods for the Efficient Numerical Solution of Nonseparable Elliptic Equations
      (Concus & Golub, 1973), https://doi.org/10.1137/0710092
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributions as td

from sciinf.core import Prior, X
from sciinf.simulators.dynamics.field_equation import FieldEquation, column, described
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.random_field import RandomField, Start

TOGETHER = 30_000  # points on a processor at a time, which its cache holds


class Darcy(FieldEquation):
    """Darcy's equation.

    Args:
        points: Of each side, both ends included.
        initial: The field that chooses: `high` where it is positive.
        low: Law of a's lower value; even from 3 to 7 where left out.
        high: Law of the higher; even from 8 to 14 where left out.
        inflow: f.
        tolerance: What residuals fall by.
        iterations: At most.
    """

    name = "darcy"
    block = 1_024
    times = (0.0,)

    def __init__(
        self,
        points: int = 29,
        initial: Start | None = None,
        low: td.Distribution | None = None,
        high: td.Distribution | None = None,
        inflow: float = 10.0,
        tolerance: float = 1e-10,
        iterations: int = 300,
    ) -> None:
        self.grid = BoxGrid((points, points), (1.0, 1.0), periodic=False)
        self.initial = initial or RandomField(1.0, tau=3.0, alpha=2.0)
        self.random = self.initial.random
        self.inflow, self.tolerance, self.iterations = inflow, tolerance, iterations
        self.prior = Prior(low=low or td.Uniform(3.0, 7.0), high=high or td.Uniform(8.0, 14.0))
        self.given, self.observables = described({"coefficient": (1,)}, 1, 1, self.grid)

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        field = self.initial.draw(len(theta), 1, self.grid, generator=generator).to(theta.device)
        low, high = (column(theta, self.prior, name, field) for name in ("low", "high"))
        return {"coefficient": torch.where(field > 0, high, low)}

    def solve(self, theta: Tensor, given: X) -> Tensor:
        a = given["coefficient"].double()[:, 0]
        together = max(1, TOGETHER // a[0].numel()) if a.device.type == "cpu" else len(a)
        inflow = torch.full_like(a, self.inflow)
        parts = zip(a.split(together), inflow.split(together), strict=True)
        found = [pressure(*part, tolerance=self.tolerance, iterations=self.iterations) for part in parts]
        return torch.cat(found)[:, None, None]

    def residual(self, trajectory: Tensor, theta: Tensor, given: X) -> Tensor:
        """-∇·(a ∇u) - f at inner points, u on the boundary."""
        a = given["coefficient"].to(trajectory)[:, None]
        left = trajectory.clone()
        left[..., 1:-1, 1:-1] = -divergence(faces(a), trajectory) - self.inflow
        return left


def pressure(
    a: Float[Tensor, "batch y x"], f: Float[Tensor, "batch y x"], *, tolerance: float = 1e-10, iterations: int = 300
) -> Float[Tensor, "batch y x"]:
    """u on the unit square, given a and f at its points."""
    between, sine = faces(a), _Sine(a)
    u, along, left = torch.zeros_like(a), torch.zeros_like(a), f[:, 1:-1, 1:-1].clone()
    inner, forward = u[:, 1:-1, 1:-1], along[:, 1:-1, 1:-1]
    ahead = sine.solved(left)
    forward.copy_(ahead)
    size = (left * ahead).sum((-2, -1), keepdim=True)
    goal, done = tolerance**2 * size, size == 0
    for _ in range(iterations):
        bent = -divergence(between, along)
        step = (size / (forward * bent).sum((-2, -1), keepdim=True)).masked_fill(done, 0.0)
        inner.add_(step * forward)
        left = left - step * bent
        ahead = sine.solved(left)
        before, size = size, (left * ahead).sum((-2, -1), keepdim=True)
        done = done | (size <= goal)
        if bool(done.all()):
            break
        forward.mul_((size / before).masked_fill(done, 0.0)).add_(ahead)
    inner.masked_fill_(~done, math.nan)
    return u


def faces(a: Float[Tensor, "*batch y x"]) -> tuple[Tensor, Tensor]:
    """Harmonic means of a between inner points and their neighbours, along y and along x."""
    low, high = a[..., :-1, 1:-1], a[..., 1:, 1:-1]
    left, right = a[..., 1:-1, :-1], a[..., 1:-1, 1:]
    return 2 * low * high / (low + high), 2 * left * right / (left + right)


def divergence(between: tuple[Tensor, Tensor], u: Float[Tensor, "*batch y x"]) -> Tensor:
    """∇·(a ∇u) at inner points."""
    up = between[0] * u[..., 1:-1].diff(dim=-2)
    right = between[1] * u[..., 1:-1, :].diff(dim=-1)
    return (up.diff(dim=-2) + right.diff(dim=-1)) * (u.shape[-1] - 1) ** 2


class _Sine:
    """The equation at a = 1, solved by sine transforms."""

    def __init__(self, like: Tensor) -> None:
        n = like.shape[-1] - 1
        i = torch.arange(1, n, dtype=torch.float64)
        self.waves = torch.sin(math.pi / n * i * i[:, None]).to(like)
        squared = (2 * n * torch.sin(math.pi / (2 * n) * i)).square()
        self.weights = (4 / n**2 / (squared + squared[:, None])).to(like)

    def solved(self, right: Float[Tensor, "batch y x"]) -> Float[Tensor, "batch y x"]:
        return self._turned(self._turned(right) * self.weights)

    def _turned(self, field: Tensor) -> Tensor:
        """Transformed in both directions, and transposed; twice is upright again."""
        return (field @ self.waves).mT.contiguous() @ self.waves


simulator = Darcy()
