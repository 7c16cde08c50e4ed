r"""The residual flow z + g(z; c) with a contraction g: inverse by iteration, log-determinant exact or by a series.

From data to noise, the flow is a chain of K blocks. Each block is a diagonal affine map, set by the context, and a
residual step:

    z_0 = z,    u = exp(s_k(c)) z_{k-1} + t_k(c),    z_k = u + g_k(u; c),    e = z_K,
    g(u; c) = W_L phi(W_{L-1} ... phi(W_1 u + b_1(c)) ... + b_{L-1}(c)),    Lip_u(g) <= kappa < 1.

By Banach's theorem, u -> u + g(u) is then invertible. The affine maps are the paper's activation normalisation, made
dependent on the context. A residual step alone stretches no direction by more than 1 + kappa. Narrow posteriors need
more.

*Lipschitz bound.* Every matrix is divided by max(1, |W|_2 / kappa^{1/L}), and phi is the LipSwish function,

    phi(a) = a sigmoid(beta a) / 1.1,    sup |phi'| = 0.99985 < 1,    beta > 0 learned.

The spectral norm |W|_2 is exact, from singular values. The paper uses power iteration, which approaches the norm from
below. So its bound holds only after the iteration has converged. Its vectors are also state that an interrupted
training must restore. Here the matrices have at most some hundred rows, and singular values take only a few per cent of
a training step. The context only shifts the input of phi, so this shift needs no bound. One ordinary network of c
computes b_k, s_k and t_k, once per row of the context, for any number of samples.

*Log-determinant.* J = dg/du is a product of the matrices W and of diagonal matrices of phi'. J is computed as this
product, without nested differentiation:

    log det(I + J) = sum_{k >= 1} (-1)^{k+1} / k tr(J^k) = E_{v, N} sum_{k=1}^{N} (-1)^{k+1} / k  v'J^k v / P(N >= k),
    d log det(I + J) = sum_{k >= 0} (-1)^k tr(J^k dJ)   = E_{v, N} [ sum_{k=0}^{N} (-1)^k / P(N >= k)  v'J^k ] dJ v,

where v is a vector of random signs (Hutchinson) and N = m + a geometric number, P(N >= m + j) = q^j (Russian roulette).
Both estimates are unbiased. The second one is the paper's Neumann series. It differentiates one product with J for any
N, so memory does not grow with N. The terms decrease like kappa^k. The variance is finite if kappa^2 < q, which the
constructor checks. N is drawn for each row, not once per batch as in the paper's code. So the batch mean also averages
over the values of N. The cost is the same, since rows whose series has ended are no longer computed.

`exact` computes J by D products, and then its determinant. This has no variance, and is also cheaper in few dimensions.
Evaluation (`encode`, `log_prob`, and `loss` in evaluation mode) is always exact, for any D, at O(K D H (H + D) + K D^3)
per row. A truncated series would need the same D products for its traces. All computations use the precision of z, also
under autocast, because half precision would break the bound and the series.

*Inverse.* To solve u + g(u) = y, let r = y - u - g(u). A fixed-point step u + r shrinks |r| by a factor of kappa or
less. Newton's step u + (I + J)^{-1} r usually shrinks |r| much more. Each iteration takes Newton's step. Rows where
this step leaves more than kappa |r| take the fixed-point step instead. The iteration ends when |r| reaches rounding
error, and then |u - u*| <= |r| / (1 - kappa).

Shapes: z, u, e (n, batch, D); c (batch, C); J (..., D, D); H hidden width. |s| < 5.

References:
    | Residual Flows for Invertible Generative Modeling (Chen et al., 2019), https://arxiv.org/abs/1906.02735
    | Invertible Residual Networks (Behrmann et al., 2019), https://arxiv.org/abs/1811.00995
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.networks.flows.conditional import (
    Architecture,
    ConditionalFlow,
    Context,
    Logs,
    Points,
    Row,
    RowContext,
    log_normal,
    single_precision,
)

LOG_DETS = ("exact", "roulette")
"""How training may find log det(I + J)."""

EXACT_UP_TO = 16  # Number of dimensions up to which roulette is no faster than the exact determinant.
STEEPEST = 1.1  # Bound of the slope of a sigmoid(a), whose largest value is 1.0998.
LOG_SCALE = 5.0  # Upper limit of |s|.
# Largest number of Jacobian entries that are computed at once, if nothing is differentiated.
MEMORY = 2**24
MOST = 1000  # Guard: largest number of iterations of the inverse, which ends earlier, at rounding error.


class Residual(Architecture):
    """Residual flow: smooth and without masks, with all dimensions mixed in every block; sampling needs an iteration.

    Args:
        blocks: K, the number of residual steps in the chain.
        hidden: Widths of the hidden layers of each g.
        lipschitz: kappa, the bound of each g's Lipschitz constant, between 0 and 1.
        network: Width of the two hidden layers of the context's network.
        log_det: How training computes log det(I + J): "exact", or estimated by "roulette". None is "exact" up to
            `EXACT_UP_TO` dimensions and "roulette" for more. Densities are always exact.
        exact_terms: m, the number of terms of the series that roulette always computes.
        continuation: q, the probability that roulette computes a further term; above kappa^2 and below 1.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> flow = Residual(blocks=2, hidden=(16,)).build(dim=2, context=3)
        >>> flow.log_prob(torch.zeros(5, 2), torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        blocks: int = 8,
        hidden: Sequence[int] = (64,),
        lipschitz: float = 0.9,
        network: int = 64,
        log_det: str | None = None,
        exact_terms: int = 4,
        continuation: float = 0.85,
    ) -> None:
        if blocks < 1 or not hidden or min(hidden) < 1 or network < 1 or exact_terms < 1:
            raise ValueError(
                "Residual needs blocks, network and exact_terms >= 1 and positive hidden widths; got "
                f"blocks={blocks}, network={network}, exact_terms={exact_terms}, hidden={tuple(hidden)}"
            )
        if log_det is not None and log_det not in LOG_DETS:
            raise ValueError(f"Residual(log_det=...) is None or one of {LOG_DETS}; got {log_det!r}")
        if not 0 < lipschitz < 1 or not lipschitz**2 < continuation < 1:
            raise ValueError(
                "Residual needs 0 < lipschitz < 1, or its steps have no inverse, and lipschitz^2 < continuation < 1, "
                f"or the estimate has no variance; got lipschitz={lipschitz}, continuation={continuation}"
            )
        self.blocks, self.hidden, self.lipschitz, self.network = blocks, tuple(hidden), lipschitz, network
        self.log_det, self.exact_terms, self.continuation = log_det, exact_terms, continuation

    def build(self, dim: int, context: int) -> ConditionalFlow:
        return _ResidualFlow(self, dim, context)


@dataclass(frozen=True)
class _Step:
    """One block of the flow, for a given context.

    Args:
        log_scale: s(c), the log scale of the affine map, (batch, D).
        offset: t(c), the offset of the affine map, (batch, D).
        weights: Normalised matrices W_1, ..., W_L, (out, in) each.
        betas: beta of each hidden layer.
        shifts: beta b(c) of each hidden layer, (batch, width).
    """

    log_scale: Tensor
    offset: Tensor
    weights: Sequence[Tensor]
    betas: Tensor
    shifts: Sequence[Tensor]

    def value(self, u: Tensor) -> tuple[Tensor, list[Tensor]]:
        """g(u), and the derivative phi' at every hidden unit."""
        hidden, slopes = u, []
        for weight, beta, shift in zip(self.weights[:-1], self.betas, self.shifts, strict=True):
            bent = F.linear(hidden, beta * weight) + shift
            gate = torch.sigmoid(bent)
            product = bent * gate
            hidden = product / (STEEPEST * beta)
            slopes.append((gate + product * (1 - gate)) / STEEPEST)
        return F.linear(hidden, self.weights[-1]), slopes

    def jacobian(self, slopes: Sequence[Tensor]) -> Tensor:
        """The Jacobian I + J of u + g(u), (..., D, D)."""
        first, second, *rest = self.weights
        paths = (second[:, None, :] * first.T).flatten(0, 1)  # W_2 diag(slope) W_1 is linear in the slope.
        product = F.linear(slopes[0], paths).unflatten(-1, (len(second), first.shape[1]))
        for slope, weight in zip(slopes[1:], rest, strict=True):
            product = weight @ (slope[..., None] * product)
        return product + torch.eye(first.shape[1], dtype=product.dtype, device=product.device)

    def vjp(self, v: Tensor, slopes: Sequence[Tensor]) -> Tensor:
        """The vector-Jacobian product v'J, (..., D)."""
        for slope, weight in zip(reversed(slopes), reversed(self.weights[1:]), strict=True):
            v = (v @ weight) * slope
        return v @ self.weights[0]


class _ResidualFlow(ConditionalFlow):
    def __init__(self, plan: Residual, dim: int, context: int) -> None:
        super().__init__(dim, context)
        self.plan = plan
        self.exact = dim <= EXACT_UP_TO if plan.log_det is None else plan.log_det == "exact"
        widths = [dim, *plan.hidden, dim]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(plan.blocks, after, before) / math.sqrt(before))
            for before, after in itertools.pairwise(widths)
        )
        self.log_betas = nn.Parameter(torch.zeros(plan.blocks, len(plan.hidden)))
        self.parts = [*plan.hidden, dim, dim]
        self.given = nn.Sequential(
            nn.Linear(context, plan.network),
            nn.SiLU(),
            nn.Linear(plan.network, plan.network),
            nn.SiLU(),
            nn.Linear(plan.network, plan.blocks * sum(self.parts)),
        )
        self._begin()

    @torch.no_grad()
    def _begin(self) -> None:
        """Set initial weights: no affine map and a small last layer, so that the flow is close to the identity.

        Hidden units are nonlinear within the spread of z.
        """
        self.weights[-1].mul_(0.1)
        # The rows of W_1 have length sqrt(D / H) when the norm of W_1 is 1.
        self.log_betas.fill_(0.5 * math.log(max(1.0, self.plan.hidden[0] / self.dim)))
        last, hidden = cast(nn.Linear, self.given[-1]), sum(self.plan.hidden)
        weight, bias = (value.unflatten(0, (self.plan.blocks, -1)) for value in (last.weight, last.bias))
        weight.mul_(0.3)
        weight[:, hidden:], bias[:, hidden:] = 0, 0
        bias[:, :hidden].normal_()

    def encode(self, z: Points, context: Context) -> tuple[Points, Logs]:
        """Noise e = f(z; c) and the exact log |det df/dz|."""
        with single_precision(z):
            steps = self._steps(context.to(z.dtype))
            parts = [self._forward(part, steps, _exact_log_det) for part in self._chunks(z)]
        return torch.cat([e for e, _ in parts]), torch.cat([log_det for _, log_det in parts])

    def decode(self, noise: Points, context: Context) -> Points:
        """Data z = f^{-1}(noise; c) up to rounding; NaN if the noise is not finite. Differentiable once."""
        parts = []
        with single_precision(noise):
            steps = self._steps(context.to(noise.dtype))
            for z in self._chunks(noise):
                for step in reversed(steps):
                    z = (_solution(step, z, self.plan.lipschitz) - step.offset) * torch.exp(-step.log_scale)
                parts.append(z)
        return torch.cat(parts)

    def loss(self, z: Row, context: RowContext, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """-log q(z | c) of each row; in training possibly an estimate, without bias in value and gradient."""
        self._check("z", z, context)
        if self.exact or not self.training:
            return -self.log_prob(z, context)
        terms, going_on = self.plan.exact_terms, self.plan.continuation

        def estimate(step: _Step, slopes: Sequence[Tensor]) -> Tensor:
            return _roulette_log_det(step, slopes, terms, going_on, generator)

        with single_precision(z):
            noise, log_det = self._forward(z, self._steps(context.to(z.dtype)), estimate)
            return -log_normal(noise) - log_det

    def _forward(
        self, z: Tensor, steps: Sequence[_Step], log_det: Callable[[_Step, Sequence[Tensor]], Tensor]
    ) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(z.shape[:-1])
        for step in steps:
            u = torch.exp(step.log_scale) * z + step.offset
            g, slopes = step.value(u)
            z, total = u + g, total + step.log_scale.sum(-1) + log_det(step, slopes)
        return z, total

    def _steps(self, context: Tensor) -> list[_Step]:
        weights = [_bounded(weight, self.plan.lipschitz ** (1 / len(self.weights))) for weight in self.weights]
        given = self.given(context).unflatten(-1, (self.plan.blocks, -1))
        steps = []
        for k, beta in enumerate(torch.exp(self.log_betas)):
            *shifts, raw, offset = given[:, k].split(self.parts, dim=-1)
            log_scale = LOG_SCALE * torch.tanh(raw / LOG_SCALE)
            steps.append(_Step(log_scale, offset, [weight[k] for weight in weights], beta, shifts))
        return steps

    def _chunks(self, value: Tensor) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled():
            return (value,)
        per_draw = value.shape[1] * self.dim * max(self.dim, *self.plan.hidden)
        return value.split(max(1, MEMORY // per_draw))


def _bounded(weights: Float[Tensor, "block out in"], bound: float) -> Float[Tensor, "block out in"]:
    """Matrices rescaled so that their largest singular value is at most `bound`; smaller matrices stay unchanged."""
    return weights / (torch.linalg.matrix_norm(weights, ord=2, keepdim=True) / bound).clamp_min(1)


def _exact_log_det(step: _Step, slopes: Sequence[Tensor]) -> Tensor:
    return torch.linalg.slogdet(step.jacobian(slopes)).logabsdet


def _roulette_log_det(
    step: _Step, slopes: Sequence[Tensor], terms: int, going_on: float, generator: torch.Generator
) -> Float[Tensor, " batch"]:
    """Unbiased estimate of log det(I + J), with an unbiased gradient.

    Args:
        step: Block with the matrices W.
        slopes: Derivatives phi' at every hidden unit, (batch, width) for each layer.
        terms: m, the number of terms that are always computed.
        going_on: q, the probability of each further term.
        generator: Source of the random numbers v and N.
    """
    like, where = slopes[0].detach(), {"generator": generator, "device": generator.device}
    rows, dim = len(like), step.weights[0].shape[1]
    with torch.no_grad():
        uniform = 1 - torch.rand(rows, dtype=torch.float64, **where)  # Values in (0, 1] have a finite logarithm.
        last = (terms + torch.floor(torch.log(uniform) / math.log(going_on))).long().to(like.device)
        last, order = last.sort(descending=True)
        v = 2 * torch.randint(2, (rows, dim), **where).to(like) - 1
        ordered = [slope[order] for slope in slopes]
        left = (last[:, None] >= torch.arange(1, int(last[0]) + 1, device=last.device)).sum(0).tolist()
        power, neumann, value = v, v.clone(), v.new_zeros(rows)
        for k, count in enumerate(left, 1):
            power = step.vjp(power[:count], [slope[:count] for slope in ordered])
            weight = (-1) ** k / going_on ** max(0, k - terms)
            neumann[:count] += weight * power
            value[:count] -= weight / k * (power * v[:count]).sum(-1)
        back = order.argsort()
        v, neumann, value = v[back], neumann[back], value[back]
    slope = (step.vjp(neumann, slopes) * v).sum(-1)
    return value + (slope - slope.detach())


def _solution(step: _Step, y: Tensor, lipschitz: float) -> Tensor:
    """The u that solves u + g(u) = y.

    Its gradient is the gradient of one Newton step at the solution.
    """
    with torch.no_grad():
        u = _root(step, y, lipschitz)
    if not torch.is_grad_enabled():
        return u
    g, slopes = step.value(u)
    return u + _solve(step.jacobian(slopes).detach(), y - u - g)


def _root(step: _Step, y: Tensor, lipschitz: float) -> Tensor:
    u, (residual, slopes) = y, _residual(step, y, y)
    size, least = residual.norm(dim=-1), 8 * torch.finfo(y.dtype).eps * (1 + y.norm(dim=-1))
    for _ in range(MOST):
        found = u + _solve(step.jacobian(slopes), residual)
        left, bent = _residual(step, found, y)
        far = ~(left.norm(dim=-1) <= lipschitz * size)  # NaN counts as too far.
        if bool(far.any()):
            found = torch.where(far[..., None], u + residual, found)
            left, bent = _residual(step, found, y)
        new = left.norm(dim=-1)
        closer = new < size
        going = (new < 0.5 * (1 + lipschitz) * size) & (new > least)  # The other rows are done.
        u, residual = torch.where(closer[..., None], found, u), torch.where(closer[..., None], left, residual)
        slopes = [torch.where(closer[..., None], b, s) for b, s in zip(bent, slopes, strict=True)]
        size = torch.where(closer, new, size)
        if not bool(going.any()):
            break
    return torch.where(size.isfinite()[..., None], u, torch.nan)


def _residual(step: _Step, u: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Residual y - u - g(u), and the derivatives phi' at u."""
    g, slopes = step.value(u)
    return y - u - g, slopes


def _solve(matrix: Float[Tensor, "*rows dim dim"], right: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """Solution matrix^{-1} right; a result that is not finite becomes NaN instead of an error."""
    return torch.linalg.solve_ex(matrix, right[..., None])[0][..., 0]
