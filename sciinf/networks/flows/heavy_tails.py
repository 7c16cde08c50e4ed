r"""A flow whose noise is Student-t, for posteriors with heavy tails.

A flow with a bounded Jacobian turns Gaussian noise into a distribution with Gaussian tails, however long it is trained.
Splines and affine maps, and coupling and autoregressive flows made of them, have such a Jacobian. Here heavy tails come
from the noise of an inner flow g,

    u = g(z; c) / s(c),   u_d ~ t_{nu_d(c)} independently,
    log q(z | c) = sum_d [ log t_{nu_d}(u_d) - log s_d ] + log |det dg/dz|,

    log t_nu(u) = lgamma((nu + 1) / 2) - lgamma(nu / 2) - log(nu pi) / 2 - (nu + 1) / 2 log(1 + u^2 / nu).

The degrees of freedom nu_d in (1, 1000) and the scales s_d in (1/20, 20) are learned together with g. The scale is
needed because a spline is the identity outside [-B, B]: beyond B, z has exactly the tails of the noise. If g is made of
splines, only the few simulations beyond B determine nu. So if the tail index is known, pass `degrees`. From 1,000
degrees on, a Student-t distribution is indistinguishable from a Gaussian.

Every flow takes Gaussian noise e ~ N(0, 1). So the last step from data to noise is the monotone map between the two
distributions,

    e = Phi^{-1}(T_nu(u)),   de/du = t_nu(u) / N(e),

with T_nu the distribution function of t_nu. Training does not need this map. T_nu follows from the regularised
incomplete beta function I and its continued fraction. With y = u^2 / nu, a = nu / 2, for u >= 0

    1 - T_nu(u) = I_{1 / (1 + y)}(a, 1/2) / 2      far out, as a logarithm,
    2 T_nu(u) - 1 = I_{y / (1 + y)}(1/2, a)        near the centre,
    I_x(a, b) = x^a (1 - x)^b / (a B(a, b)) / (1 + d_1 x / (1 + d_2 x / (1 + ...))),
    d_{2m} = m (b - m) / ((a + 2m - 1)(a + 2m)),  d_{2m+1} = -(a + m)(a + b + m) / ((a + 2m)(a + 2m + 1)),

so that no digits cancel in either range. The inverse solves e(v) = e by Newton's method for v = sqrt(log(1 + y)),
because e is nearly linear in v. The start is Wallace's approximation e = v sqrt(nu) (8 nu + 1) / (8 nu + 3).

References:
    | Marginal Tail-Adaptive Normalizing Flows (Laszkiewicz et al., 2022), https://arxiv.org/abs/2206.10311
    | Tails of Lipschitz Triangular Flows (Jaini et al., 2020), https://arxiv.org/abs/1907.04481
    | Bounds on Normal Approximations to Student's and the Chi-Square Distributions (Wallace, 1959),
      https://doi.org/10.1214/aoms/1177706093
    | NIST Digital Library of Mathematical Functions, 8.17(v), https://dlmf.nist.gov/8.17
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sciinf.networks.flows.conditional import (
    Architecture,
    ConditionalFlow,
    Context,
    ExactFlow,
    Logs,
    Points,
    Row,
    RowContext,
    log_normal,
)

LEAST, MOST = 1.0, 1000.0  # Range of the degrees of freedom: from a Cauchy to nearly a Gaussian.
START = 5.0  # Degrees of freedom before training.
_LOG_SCALE = math.log(20.0)  # Upper limit of |log s|.
_TERMS = 40  # Terms of the continued fractions. The error of e is 1e-9 up to MOST degrees.
_NEWTON = 4
_LOG_2PI = math.log(2.0 * math.pi)


class StudentT(Architecture):
    """A flow with Student-t noise, whose degrees of freedom and scales differ between dimensions.

    Args:
        flow: Architecture of the inner flow, which must be trained by its exact log density.
        degrees: Degrees of freedom of every dimension, from 1 to 1000. None learns them.
        contextual: Whether the scales, and the degrees if learned, depend on the context, log-linearly within bounds.

    Raises:
        ValueError: If `degrees` is outside [1, 1000].
        TypeError: If `flow` is not an architecture. `build` also raises it if the flow is not trained by its exact log
            density.
    """

    def __init__(self, flow: Architecture, degrees: float | None = None, *, contextual: bool = True) -> None:
        if not isinstance(flow, Architecture):
            raise TypeError(f"StudentT(flow={flow!r}): expected an architecture, such as NSF()")
        if degrees is not None and not LEAST <= degrees <= MOST:
            raise ValueError(
                f"StudentT(degrees={degrees}): expected degrees of freedom from {LEAST:g} (Cauchy) to {MOST:g} "
                "(Gaussian in all but name), or None to learn them"
            )
        self.flow, self.degrees, self.contextual = flow, degrees, contextual

    def build(self, dim: int, context: int) -> ConditionalFlow:
        return _StudentT(self, dim, context)


class _StudentT(ConditionalFlow):
    def __init__(self, plan: StudentT, dim: int, context: int) -> None:
        super().__init__(dim, context)
        self.inner = plan.flow.build(dim, context)
        if not isinstance(self.inner, ExactFlow):
            raise TypeError(
                f"StudentT changes the noise of a flow that is trained by its exact log density; "
                f"{type(plan.flow).__name__} is not: wrap another one, such as NSF()"
            )
        self.fixed = plan.degrees
        outputs = dim * (1 if plan.degrees is not None else 2)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.weight = nn.Parameter(torch.zeros(outputs, context)) if plan.contextual else None

    def base(self, context: Float[Tensor, "batch feature"]) -> tuple[Tensor, Tensor]:
        """Degrees of freedom, in float64, and log scales of the noise, each (batch, D)."""
        raw = self.bias.expand(len(context), -1)
        if self.weight is not None:
            raw = raw + context @ self.weight.T
        log_scale = _LOG_SCALE * torch.tanh(raw[:, : self.dim] / _LOG_SCALE)
        if self.fixed is not None:
            return torch.full_like(log_scale, self.fixed, dtype=torch.float64), log_scale
        low, high, start = math.log(LEAST), math.log(MOST), math.log(START)
        share = torch.sigmoid(raw[:, self.dim :].double() + math.log((start - low) / (high - start)))
        return torch.exp(low + (high - low) * share), log_scale

    def _inner(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Student-t noise u, its degrees of freedom, and log q(z | c)."""
        degrees, log_scale = self.base(context)
        u, log_det = self.inner.encode(z, context)
        u = u * torch.exp(-log_scale)
        return u, degrees, (log_student_t(u, degrees) - log_scale).sum(-1) + log_det

    def encode(self, z: Points, context: Context) -> tuple[Points, Logs]:
        u, degrees, log_q = self._inner(z, context)
        noise = student_t_to_normal(u, degrees)
        return noise, log_q - log_normal(noise)

    def decode(self, noise: Points, context: Context) -> Points:
        degrees, log_scale = self.base(context)
        return self.inner.decode(normal_to_student_t(noise, degrees) * torch.exp(log_scale), context)

    def loss(self, z: Row, context: RowContext, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """-log q(z | c) per row, without the map to Gaussian noise; nothing is drawn."""
        self._check("z", z, context)
        return -self._inner(z[None], context)[2][0]


def log_student_t(u: Float[Tensor, "*shape"], degrees: Float[Tensor, "*degrees"]) -> Float[Tensor, "*shape"]:
    """log t_nu(u), in u's dtype; `degrees` is float64 and broadcasts against u.

    The normalising constant is a difference of large numbers, so it is computed in float64. This is cheap, because the
    constant has the shape of `degrees` only.
    """
    constant = torch.lgamma((degrees + 1) / 2) - torch.lgamma(degrees / 2) - 0.5 * torch.log(degrees * math.pi)
    degrees = degrees.to(u.dtype)
    return constant.to(u.dtype) - 0.5 * (degrees + 1) * torch.log1p(u.square() / degrees)


def student_t_to_normal(u: Float[Tensor, "*shape"], degrees: Float[Tensor, "*degrees"]) -> Float[Tensor, "*shape"]:
    """Gaussian noise e = Phi^{-1}(T_nu(u)) of Student-t noise u, computed in float64 and returned in u's dtype.

    Args:
        u: Student-t noise of any shape.
        degrees: Degrees of freedom nu in [1, 1000], float64, of a shape that broadcasts to u's shape.
    """
    return _ToNormal.apply(u, degrees)


def normal_to_student_t(e: Float[Tensor, "*shape"], degrees: Float[Tensor, "*degrees"]) -> Float[Tensor, "*shape"]:
    """Student-t noise u = T_nu^{-1}(Phi(e)) of Gaussian noise e; the inverse of `student_t_to_normal`."""
    return _FromNormal.apply(e, degrees)


class _ToNormal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, degrees: Tensor) -> Tensor:
        e = _score(u.double().abs(), degrees).copysign(u)
        ctx.save_for_backward(u.double(), e, degrees)
        return e.to(u.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        u, e, degrees = ctx.saved_tensors
        by_u, by_degrees = _slopes(u, e, degrees)
        gradient = gradients[0]
        return gradient * by_u.to(gradient.dtype), (gradient * by_degrees).sum_to_size(degrees.shape)


class _FromNormal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, e: Tensor, degrees: Tensor) -> Tensor:
        u = _quantile(e.double().abs(), degrees).copysign(e)
        ctx.save_for_backward(u, e.double(), degrees)
        return u.to(e.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        u, e, degrees = ctx.saved_tensors
        by_u, by_degrees = _slopes(u, e, degrees)
        gradient = gradients[0] / by_u
        return gradient.to(gradients[0].dtype), -(gradient * by_degrees).sum_to_size(degrees.shape)


def _slopes(u: Tensor, e: Tensor, degrees: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives de/du and de/dnu; de/dnu by central differences, with an error of order 1e-9 in float64."""
    by_u = torch.exp(log_student_t(u, degrees) + 0.5 * (e.square() + _LOG_2PI))
    step, size = 1e-4 * degrees, u.abs()
    by_degrees = (_score(size, degrees + step) - _score(size, degrees - step)) / (2 * step)
    return by_u, by_degrees.copysign(by_degrees * u)


def _score(u: Tensor, degrees: Tensor) -> Tensor:
    """Gaussian noise e >= 0 of Student-t noise u >= 0, in float64."""
    a = degrees / 2
    y = u.square() / degrees
    share = y / (1 + y)
    log_beta = torch.lgamma(a) + torch.lgamma(torch.full_like(a, 0.5)) - torch.lgamma(a + 0.5)
    log_factor = 0.5 * torch.log(share) - a * torch.log1p(y) - log_beta
    half = torch.full_like(a, 0.5)
    mass = 2 * torch.exp(log_factor) / _fraction(share, half, a)
    log_tail = log_factor - torch.log(degrees) - torch.log(_fraction(1 / (1 + y), a, half))
    near = math.sqrt(2.0) * torch.erfinv(mass)
    # The second fraction converges fast for x < (a + 1) / (a + 5/2), the first one for larger x.
    return torch.where(y * (a + 1) < 1.5, near, _normal_quantile(log_tail))


def _fraction(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The continued fraction 1 + d_1 x / (1 + d_2 x / (1 + ...)), computed from its last term to its first."""
    value = torch.ones_like(x)
    for k in range(_TERMS, 0, -1):
        m = k // 2
        d = -(a + m) * (a + b + m) / (a + 2 * m + 1) if k % 2 else m * (b - m) / (a + 2 * m - 1)
        value = (d / (a + 2 * m) * x).div_(value).add_(1)
    return value


def _normal_quantile(log_tail: Tensor) -> Tensor:
    """The e with log P(N > e) = log_tail; from an expansion of Mills' ratio if the probability underflows."""
    e = torch.sqrt(-2 * log_tail.clamp_max(-600.0))
    for _ in range(5):  # Each iteration reduces the error by a factor 1 / e^2 < 1e-3.
        mills = torch.log1p((3 / e.square() - 1) / e.square()) - torch.log(e) - 0.5 * _LOG_2PI
        e = torch.sqrt(2 * (mills - log_tail.clamp_max(-600.0)))
    return torch.where(log_tail > -600.0, -torch.special.ndtri(torch.exp(log_tail)), e)


def _quantile(e: Tensor, degrees: Tensor) -> Tensor:
    """Student-t noise u >= 0 of Gaussian noise e >= 0, in float64."""
    v = (e * (8 * degrees + 3) / (8 * degrees + 1) / degrees.sqrt()).clamp(1e-100, 26.0)
    for _ in range(_NEWTON):
        u = torch.sqrt(degrees * torch.expm1(v.square()))
        found = _score(u, degrees)
        log_slope = log_student_t(u, degrees) + 0.5 * (found.square() + _LOG_2PI)  # Log of de/du, without du/dv.
        slope = torch.exp(log_slope + v.square()) * degrees * v / u
        v = (v - (found - e) / slope).clamp(1e-100, 26.0)
    return torch.sqrt(degrees * torch.expm1(v.square()))
