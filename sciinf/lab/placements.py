r"""Placement of the points at which a network learns an equation: evenly, or where its residual is large.

Points are in the unit cube c = (x / length, F(theta)), F the distribution functions of the prior. If their
density p_a is 1 everywhere, x is uniform in the box and theta is from the prior. p_a is a spline flow of
noise, followed by the map from the normal to the cube. It is thus normalised for any weights a:

    c = Phi(f_a^-1(e)),   e ~ N(0, I),      p_a(c) = q_a(Phi^-1(c)) / N(Phi^-1(c); 0, I).

**Adversarial.** The objective is max over a of E_{p_a}[s] - beta int |grad p_a|^2 with s = r^2 / mean r^2.
Points are drawn from p_a and are constants in the loss, so that d/da E_{p_a} s = E (s - 1) dlog p_a/da. No
further derivatives of the network are needed. |grad p_a|^2 is E_v [(p_a(c + h v) - p_a(c - h v)) / 2h]^2, v ~
N(0, I), over uniform c. Structure finer than h is therefore not penalised. Where p_a is small its gradients
are small, too, so that p_a does not return to places that it has left.

**Following.** p_a is fitted to the density proportional to r^2. The objective is max over a of E_m[(r^2 / m)
log p_a], where m is the density of the present points, a share of which is even. The optimum is the p that
maximises E_p[log r^2] + entropy. A large residual attracts p from anywhere in the cube. No point has more
than 50 times the mean weight.

The density of either method moves by a share of the network's learning rate. A density that moves as fast as
the network changes from place to place before the network has learned there, and training makes no progress.

References:
    | Adversarial Adaptive Sampling: Unify PINN and Optimal Transport for the Approximation of PDEs (Tang et al., 2024),
      https://arxiv.org/abs/2305.18702
    | DAS-PINNs: A deep adaptive sampling method for solving high-dimensional partial differential equations (Tang et
      al., 2023), https://doi.org/10.1016/j.jcp.2022.111868, for following
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.component import Component
from sciinf.networks.flows.conditional import ConditionalFlow
from sciinf.networks.flows.spline import SplineCoupling

EDGE = 1e-4  # Distance of points from the cube's faces, where the quantiles of the normal are infinite.
_LARGEST = 50.0  # Largest weight of a point, in units of the mean weight.
Squares = Callable[[Tensor], Tensor]
"""Points of the cube (n, size) -> r^2 there, (n,), without slopes."""


class Placing(nn.Module, ABC):
    """A density of points on the unit cube, with the loss that trains the density."""

    @abstractmethod
    def points(
        self, even: Float[Tensor, "n size"], squares: Squares, *, generator: torch.Generator
    ) -> Float[Tensor, "n size"]:
        """Place as many points as there are even ones, without gradients.

        Args:
            even: Even points of the cube.
            squares: Function that returns r^2 at points.
            generator: Source of randomness.
        """

    @abstractmethod
    def loss(
        self, points: Float[Tensor, "n size"], squares: Float[Tensor, " n"], *, generator: torch.Generator
    ) -> Float[Tensor, " n"]:
        """The loss of the density at each point.

        Args:
            points: Points of the cube, from `points`.
            squares: r^2 at the points, without gradients.
            generator: Source of randomness.
        """


class Placement(Component, ABC):
    """The settings of a placement of points."""

    @abstractmethod
    def build(self, size: int) -> Placing:
        """The placement for a cube with this number of directions."""


class EvenPoints(Placement):
    """Placement of points uniformly in the box, with parameters from the prior."""

    def build(self, size: int) -> Placing:
        return _Even()


class AdversarialPoints(Placement):
    """Placement of points where the residual is large, by a density that maximises the expected residual.

    Args:
        smooth: Weight beta of |grad p|^2, relative to the size of r^2. A larger weight keeps points more
            even.
        even: Share of points that stay even, so that no place is forgotten.
        flow: Spline flow of the density. By default a small one.
        reach: Length h of the differences for |grad p|^2, as a share of the box.
        slow: Learning rate of the density, as a share of the network's learning rate.

    Raises:
        ValueError: If smooth is negative, or even, reach or slow is outside the range that the message gives.
    """

    def __init__(
        self,
        smooth: float = 1e-5,
        even: float = 0.3,
        *,
        flow: SplineCoupling | None = None,
        reach: float = 0.01,
        slow: float = 0.1,
    ) -> None:
        shares = 0 <= even < 1 and 0 < reach < 0.5 and 0 < slow <= 1
        if not (smooth >= 0 and math.isfinite(smooth) and shares):
            raise ValueError(
                "AdversarialPoints needs smooth >= 0, 0 <= even < 1, 0 < reach < 0.5 and 0 < slow <= 1; "
                f"got smooth, even, reach and slow as {smooth}, {even}, {reach}, {slow}"
            )
        self.smooth, self.even, self.reach, self.slow = smooth, even, reach, slow
        self.flow = flow or _flow()

    def build(self, size: int) -> Placing:
        return _Adversarial(self, size)


class FollowingPoints(Placement):
    """Placement of points where the residual is large, by a density that is fitted to its square.

    Args:
        even: Share of points that are even, above 0. These points find large residuals in new places.
        flow: Spline flow of the density. By default a small one.
        slow: Learning rate of the density, as a share of the network's learning rate.

    Raises:
        ValueError: Unless 0 < even < 1 and 0 < slow <= 1.
    """

    def __init__(self, even: float = 0.3, *, flow: SplineCoupling | None = None, slow: float = 0.1) -> None:
        if not 0 < even < 1 or not 0 < slow <= 1:
            raise ValueError(f"FollowingPoints needs 0 < even < 1 and 0 < slow <= 1; got {even}, {slow}")
        self.even, self.slow, self.flow = even, slow, flow or _flow()

    def build(self, size: int) -> Placing:
        return _Following(self, size)


def _flow() -> SplineCoupling:
    return SplineCoupling(transforms=4, hidden=24, bins=8, blocks=1)


@final
class _Slow(nn.Module):
    """A flow without context whose weights are w_0 + share (w - w_0).

    w are the trained weights and w_0 their initial values. The flow thus learns at a share of the learning
    rate.
    """

    begin: Tensor

    def __init__(self, flow: ConditionalFlow, share: float) -> None:
        super().__init__()
        self.called, self.share = _Called(flow), share
        self.sizes = [value.numel() for value in self.called.parameters()]
        self.register_buffer("begin", torch.cat([value.detach().flatten() for value in self.called.parameters()]))

    def forward(self, what: str, value: Tensor) -> Any:
        parts = self.begin.split(self.sizes)
        named = zip(self.called.named_parameters(), parts, strict=True)
        weights = {n: (1 - self.share) * w0.view_as(w) + self.share * w for (n, w), w0 in named}
        return torch.func.functional_call(self.called, weights, (what, value))


@final
class _Called(nn.Module):
    """The encoder and decoder of a flow as one `forward`, as `torch.func.functional_call` requires."""

    def __init__(self, flow: ConditionalFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, what: str, value: Tensor) -> Any:
        one = value.new_ones(1, 1)
        return self.flow.encode(value, one) if what == "encode" else self.flow.decode(value, one)


@final
class _Even(Placing):
    def points(self, even: Tensor, squares: Squares, *, generator: torch.Generator) -> Tensor:
        return even

    def loss(self, points: Tensor, squares: Tensor, *, generator: torch.Generator) -> Tensor:
        return torch.zeros_like(squares)


class _Flowing(Placing, ABC):
    """A placement of points that are drawn from a learned density, except for a share of even ones."""

    flow: _Slow
    kept: float

    @final
    def points(self, even: Tensor, squares: Squares, *, generator: torch.Generator) -> Tensor:
        kept = round(self.kept * len(even))
        noise = torch.randn(len(even) - kept, even.shape[-1], generator=generator, device=generator.device).to(even)
        with torch.no_grad():
            drawn = self.flow("decode", noise[:, None])[:, 0]
        return torch.cat([even[:kept], torch.special.ndtr(drawn)])

    @final
    def density(self, points: Float[Tensor, "n size"]) -> Float[Tensor, " n"]:
        """The log density log p_a at points of the cube. It is 0 for a uniform density."""
        z = torch.special.ndtri(points.clamp(EDGE, 1 - EDGE))
        noise, log_det = self.flow("encode", z[:, None])
        return (log_det - 0.5 * noise.square().sum(-1))[:, 0] + 0.5 * z.square().sum(-1)


@final
class _Adversarial(_Flowing):
    def __init__(self, of: AdversarialPoints, size: int) -> None:
        super().__init__()
        self.of, self.kept, self.flow = of, of.even, _Slow(of.flow.build(size, 1), of.slow)

    def loss(self, points: Tensor, squares: Tensor, *, generator: torch.Generator) -> Tensor:
        kept = round(self.kept * len(points))
        drawn = squares[kept:]
        gain = drawn / drawn.mean().clamp_min(1e-30) - 1
        moved = torch.cat([squares.new_zeros(kept), -gain * self.density(points[kept:])]) * (len(points) / len(gain))
        if not self.of.smooth:
            return moved
        at = torch.rand(points.shape, generator=generator, device=generator.device).to(points)
        step = self.of.reach * torch.randn(points.shape, generator=generator, device=generator.device).to(points)
        more, less = self.density(at + step).exp(), self.density(at - step).exp()
        return moved + self.of.smooth * ((more - less) / (2 * self.of.reach)).square()


@final
class _Following(_Flowing):
    def __init__(self, of: FollowingPoints, size: int) -> None:
        super().__init__()
        self.kept, self.flow = of.even, _Slow(of.flow.build(size, 1), of.slow)

    def loss(self, points: Tensor, squares: Tensor, *, generator: torch.Generator) -> Tensor:
        log_p = self.density(points)
        weight = squares / (self.kept + (1 - self.kept) * log_p.detach().exp())
        weight = (weight / weight.mean().clamp_min(1e-30)).clamp(max=_LARGEST)
        return -weight / weight.mean().clamp_min(1e-30) * log_p
