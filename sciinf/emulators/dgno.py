r"""DGNO: the solution, the flux and the coefficient of Darcy's equation from one latent code, learnt without solutions.

    -∇·(a ∇u) = f  in the unit square,    u = 0 on its boundary,    s = a ∇u.

f is a constant. An encoder e maps a coefficient field, given at the points of a grid, to a bounded code. Three
MultiONets (`multionet`) map the code and a point x to the solution, the flux and the coefficient,

    beta = tanh(e(a)),    u = f/a0 8/pi^4 m(x) (1 + N_u(beta, x)),    s = 8/pi^4 f ∇m + f/5 N_s(beta, x),    a: N_a.

The factor m = sin(pi x) sin(pi y) makes u 0 on the boundary. a0 is the mean of a, and 8/pi^4 m is the first mode of the
solution of -Δu = 1. Between the grid's points a is the value at the nearest point. The loss of a field is

    1/T a0/f^2 mean_x |s - a ∇u|^2 / a                        the flux is that of the solution,
    + w/T 1/f^2 mean_v ((int s·∇v - int f v) / R |∇v|)^2      and carries off what the source brings in,
    + b H(a, N_a),                                            and the code tells what a is.

The v are functions of small support. Their centres and radii R are drawn anew at every step. Integrals are sums over a
lattice that is shifted anew at every step too (`_wendland`). T = 0.0351 = int |∇u|^2 for a = f = 1, so that the first
term is a squared relative error. Where -div s = f, this term is the sum of the errors of u and s in the energy norm
(Prager & Synge),

    int |s - a ∇u|^2 / a = int a |∇(u - u*)|^2 + int |s - s*|^2 / a.

This is why |s - a ∇u|^2 is divided by a. Then the best u does not depend on the error of s. This error can be large,
because s jumps where a does and the network is smooth. With a small w the best u does depend on the error of s: the
first term also becomes smaller if u and s shrink together. The second term is divided by R and by the L2 norm |∇v|. So
it measures the residual of the divergence in the norm that corresponds to an error of the flux. For a coefficient of
two values, a = low + (high - low) sigmoid(N_a), H is the cross-entropy. Otherwise H is the squared error of N_a as an
estimate of (a - a0) / sd.

No solution has a part in the loss. Held-out simulations may contain solutions. These are compared with predictions
once, after training, to estimate the error (`error`). Means and sds of solutions are kept as for any surrogate, and are
not used. Fields that are rotated or mirrored have solutions that are rotated or mirrored. So training takes each field
in one of its eight orientations, which makes more of few fields.

From few noisy measurements of u, `inversion.Inversion` finds the code.

Good values: `Recipe(batch=32, optimiser="muon", learning_rate=5e-3)`.

References:
    | DGenNO: A Novel Physics-aware Neural Operator for Solving Forward and Inverse PDE Problems based on Deep,
      Generative Probabilistic Modeling (Zang & Koutsourelakis, 2025), https://arxiv.org/abs/2502.06250
    | Approximations in elasticity based on the concept of function space (Prager & Synge, 1947),
      https://doi.org/10.1090/qam/25902
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core import Batch, Observable, Prior, X
from sciinf.core.checks import check_positive
from sciinf.core.prior import global_seed
from sciinf.emulators._errors import Predicting
from sciinf.emulators._wendland import SMOOTHNESS, Bumps, Lattice, draw_bumps, draw_lattice, mollifier
from sciinf.emulators.multionet import MultiONet

COEFFICIENT = "coefficient"
_MODE = 8 / math.pi**4  # Coefficient of m in the solution of -Δu = 1.
_TORSION = 0.0351443  # Integral of the solution of -Δu = 1.
_LEAST = 0.01  # Lower bound of a, as a fraction of its mean.
_FLUX = 0.2  # Approximate size of s as a fraction of f.
_TOLD = 256  # Number of grid points at which a training step compares a with N_a.


@final
class DGNO(Predicting):
    """A surrogate of Darcy's equation that is trained without solutions.

    Args:
        prior: The simulator's prior.
        observables: The simulator's observables: the coefficient (1, y, x) and the solution (1, 1, y, x). Both ends of
            the unit square's sides are points.
        source: The source f, not 0.
        levels: Low and high value of a coefficient that has just two; None for any other.
        latent: Width of the code.
        width: W of the solution's network; the networks of flux and coefficient are twice as wide.
        hidden: Widths of the encoder's layers.
        panels: Number of panels of the lattice along each side, with three points each.
        bumps: Number of test functions in a training step.
        radii: Least and largest radius of the test functions; the least should be the width of one panel and a half, or
            more.
        smoothness: Smoothness of the test functions, 2 or 4.
        balance: w, the weight of the second term of the loss.
        told: b, the weight of the third term of the loss.
        turned: Whether training takes fields in any of their eight orientations.
        target: Name of the solution.
        coefficient: Name of the coefficient.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If layouts do not go together or a number is out of its range.
    """

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        source: float = 10.0,
        levels: Sequence[float] | None = None,
        latent: int = 96,
        width: int = 64,
        hidden: Sequence[int] = (256, 256),
        panels: int = 13,
        bumps: int = 128,
        radii: Sequence[float] = (0.12, 0.4),
        smoothness: int = 2,
        balance: float = 300.0,
        told: float = 0.3,
        turned: bool = True,
        target: str = "u",
        coefficient: str = COEFFICIENT,
        seed: int = 0,
    ) -> None:
        super().__init__(prior, observables, target, (coefficient,), seed)
        self._check_layout()
        check_positive(latent=latent, panels=panels, bumps=bumps)
        if source == 0 or not math.isfinite(source) or min(balance, told) < 0:
            raise ValueError(f"source={source}, balance={balance}, told={told}: f is not 0, weights are at least 0")
        if len(radii) != 2 or not 0.5 / panels <= radii[0] <= radii[1] <= 0.5:
            least = 0.5 / panels  # A test function with a smaller radius may contain no point of the lattice.
            raise ValueError(f"radii {tuple(radii)}: expected the least and the largest, between {least:.3g} and 1/2")
        if smoothness not in SMOOTHNESS:
            raise ValueError(f"smoothness is {smoothness}, expected one of {SMOOTHNESS}")
        if levels is not None and (len(levels) != 2 or not 0 < levels[0] < levels[1]):
            raise ValueError(f"levels {tuple(levels)}: expected a low and a high value, positive")
        self.source, self.levels, self.turned = source, None if levels is None else tuple(levels), turned
        self.panels, self.bumps, self.radii, self.smoothness = panels, bumps, (radii[0], radii[1]), smoothness
        self.balance, self.told = balance, told
        with global_seed(torch.Generator().manual_seed(seed)):
            widths = (math.prod(self.space), *hidden)
            layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.SiLU())]
            self.encoder = nn.Sequential(*layers, nn.Linear(widths[-1], latent))
            self.solution = MultiONet(latent, 2, 1, width=width, frequency=math.pi)
            self.flux = MultiONet(latent, 2, 2, width=2 * width)
            self.field = MultiONet(latent, 2, 1, width=2 * width)
        axes = [torch.linspace(0.0, 1.0, n) for n in self.space]
        self.register_buffer("grid", torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1), False)

    grid: Tensor

    def _check_layout(self) -> None:
        spec = self.observables[self.given[0]]
        if len(self.space) != 2 or spec.shape[0] != 1 or (self.frames, self.channels) != (1, 1):
            raise ValueError(
                f"{self.given[0]!r} has shape {spec.shape} and {self.target!r} {self.observables[self.target].shape}; "
                "expected (1, y, x) and (1, 1, y, x)"
            )

    # --- Maps from the coefficient to the code, and from the code to fields. -----------------------------------------

    def encode(self, coefficient: Float[Tensor, "batch 1 y x"]) -> Float[Tensor, "batch latent"]:
        """The unbounded encoder output e(a); its tanh is the code."""
        return self.encoder(((coefficient.to(self.given_mean) - self.given_mean) / self.given_sd).flatten(1))

    def solution_at(
        self, raw: Float[Tensor, "batch latent"], points: Float[Tensor, "point 2"]
    ) -> Float[Tensor, "batch point"]:
        """The solution u at points.

        Args:
            raw: Output of `encode`.
            points: Coordinates, in the order of the grid's axes.
        """
        return self.solution_of(self.solution(raw.tanh(), points), mollifier(points)[0])

    def solution_of(
        self, network: Float[Tensor, "batch 1 point"], mode: Float[Tensor, " point"]
    ) -> Float[Tensor, "batch point"]:
        """The solution u from N_u and m."""
        return self._scale * mode * (1 + network[:, 0])

    def coefficient_at(
        self, raw: Float[Tensor, "batch latent"], points: Float[Tensor, "point 2"]
    ) -> Float[Tensor, "batch point"]:
        """The positive coefficient a at points; if it has two values, their mean weighted by their probabilities."""
        told = self.field(raw.tanh(), points)[:, 0]
        if self.levels is None:
            mean = self.given_mean.flatten()
            return torch.maximum(mean + self.given_sd.flatten() * told, _LEAST * mean)
        return self.levels[0] + (self.levels[1] - self.levels[0]) * told.sigmoid()

    def flux_and_slope_at(
        self, raw: Float[Tensor, "batch latent"], points: Float[Tensor, "point 2"]
    ) -> tuple[Float[Tensor, "batch 2 point"], Float[Tensor, "batch 2 point"]]:
        """The flux s and the gradient ∇u at points."""
        code, (mode, steep) = raw.tanh(), mollifier(points)
        flux = self.source * (_MODE * steep + _FLUX * self.flux(code, points))
        value, slope = self.solution.with_slopes(code, points)
        return flux, self._scale * ((1 + value) * steep + mode * slope[:, 0])

    @property
    def _scale(self) -> Tensor:
        return _MODE * self.source / self.given_mean.flatten()

    def predict(self, theta: Float[Tensor, "batch theta"], given: X) -> Float[Tensor, "batch 1 1 y x"]:
        """The solution on the grid; theta has no effect."""
        found = self.solution_at(self.encode(given[self.given[0]]), self.grid)
        return found.unflatten(1, (1, 1, *self.space))

    # --- The loss and its terms. ------------------------------------------------------------------------------------

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        a = batch.x[self.given[0]].to(self.given_mean)
        if self.turned and self.training:
            a = _turned(a, generator)
        raw = self.encode(a)
        total = self.residual(raw, a, generator=generator)
        return total + self.told * self._untold(raw, a, generator) if self.told else total

    def residual(
        self,
        raw: Float[Tensor, "batch latent"],
        coefficient: Float[Tensor, "batch 1 y x"],
        *,
        generator: torch.Generator,
    ) -> Float[Tensor, " batch"]:
        """Residual of the equation: the first two terms of the loss.

        Args:
            raw: Output of `encode`.
            coefficient: The coefficient a at the grid's points.
            generator: Source of the lattice and of the test functions.
        """
        lattice = draw_lattice(self.panels, like=raw, generator=generator)
        bumps = draw_bumps(self.bumps, self.radii, self.smoothness, like=raw, generator=generator)
        flux, slope = self.flux_and_slope_at(raw, lattice.points)
        return self.residual_of(flux, slope, self._nearest(coefficient, lattice.points), lattice, bumps)

    def residual_of(
        self,
        flux: Float[Tensor, "batch 2 point"],
        slope: Float[Tensor, "batch 2 point"],
        coefficient: Float[Tensor, "batch point"],
        lattice: Lattice,
        bumps: Bumps,
    ) -> Float[Tensor, " batch"]:
        """The first two terms of the loss, for any flux and gradient of a solution at a lattice's points."""
        a = coefficient[:, None]
        off = ((flux - a * slope).square() / a).sum(1) @ lattice.weights
        amount = bumps.imbalance(flux, lattice, self.source)
        share = self.given_mean.flatten() * off + self.balance * amount.square().mean(1)
        return share / (_TORSION * self.source**2)

    def _untold(self, raw: Tensor, a: Tensor, generator: torch.Generator) -> Tensor:
        """The third term of the loss, H: the error of the coefficient that is decoded from the code."""
        some, true = self.grid, a.flatten(1)
        if self.training and len(some) > _TOLD:
            index = torch.randint(len(some), (_TOLD,), generator=generator, device=generator.device).to(a.device)
            some, true = some[index], true[:, index]
        told = self.field(raw.tanh(), some)[:, 0]
        if self.levels is None:
            return (told - (true - self.given_mean.flatten()) / self.given_sd.flatten()).square().mean(1)
        high = ((true - self.levels[0]) / (self.levels[1] - self.levels[0])).clamp(0.0, 1.0)
        return F.binary_cross_entropy_with_logits(told, high, reduction="none").mean(1)

    def _nearest(self, a: Tensor, points: Tensor) -> Float[Tensor, "batch point"]:
        """The coefficient at points, as the value at the grid's nearest point."""
        rows, columns = self.space
        index = (points[:, 0] * (rows - 1)).round().long() * columns + (points[:, 1] * (columns - 1)).round().long()
        return a.flatten(1)[:, index]


def _turned(a: Float[Tensor, "batch 1 y x"], generator: torch.Generator) -> Float[Tensor, "batch 1 y x"]:
    """Each field in a random one of its eight orientations; one of four, if its sides differ."""
    yes = torch.randint(2, (3, len(a), 1, 1, 1), generator=generator, device=generator.device).to(a.device) > 0
    for axis in (-1, -2):
        a = torch.where(yes[axis], a.flip(axis), a)
    return torch.where(yes[0], a.mT, a) if a.shape[-1] == a.shape[-2] else a
