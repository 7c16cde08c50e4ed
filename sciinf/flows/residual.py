r"""The residual flow: z + g(z; c) with a contraction g, inverted by iteration, its determinant a series or exact.

From data to noise, K blocks are chained, each a diagonal affine map decided by the context and a residual step:

    z_0 = z,    u = exp(s_k(c)) z_{k-1} + t_k(c),    z_k = u + g_k(u; c),    e = z_K,
    g(u; c) = W_L phi(W_{L-1} ... phi(W_1 u + b_1(c)) ... + b_{L-1}(c)),    Lip_u(g) <= kappa < 1.

By Banach's theorem u -> u + g(u) is then invertible. The affine maps are the paper's activation normalisation with the
context's say; a step alone stretches no direction by more than 1 + kappa, and narrow posteriors need more.

*Lipschitz bound.* Every matrix is divided by max(1, |W|_2 / kappa^{1/L}), and phi is LipSwish,

    phi(a) = a sigmoid(beta a) / 1.1,    sup |phi'| = 0.9999 < 1,    beta > 0 learned.

The spectral norm |W|_2 is exact, from singular values. The paper's power iteration approaches it from below, so its
bound holds only once that has converged, and its vectors are state that an interrupted training must restore. Matrices
here have at most some hundred rows, of which the singular values take a few per cent of a training step. The context
only shifts what enters phi, hence needs no bound: b_k, s_k, t_k come from one ordinary network of c, computed once per
row of the context, whatever the number of draws.

*Log-determinant.* With J = dg/du, a product of the W's and of diagonal matrices of phi', built as such (no nested
differentiation),

    log det(I + J) = sum_{k >= 1} (-1)^{k+1} / k tr(J^k) = E_{v, N} sum_{k=1}^{N} (-1)^{k+1} / k  v'J^k v / P(N >= k),
    d log det(I + J) = sum_{k >= 0} (-1)^k tr(J^k dJ)   = E_{v, N} [ sum_{k=0}^{N} (-1)^k / P(N >= k)  v'J^k ] dJ v,

where v is a vector of random signs (Hutchinson) and N = m + a geometric number, P(N >= m + j) = q^j (Russian roulette).
Both are unbiased; the second, the paper's Neumann series, differentiates one product with J whatever N is, so memory
does not grow with N. The terms fall like kappa^k, and the variance is finite where kappa^2 < q, which is asked for.
N is drawn for each row, not once per batch as in the paper's code: the batch's mean then averages over the roulette too,
at the same cost, since rows that have ended are no longer carried along.

`exact` builds J by D products and takes the determinant. It has no variance, and in few dimensions it is cheaper as
well. Evaluation (`encode`, `log_prob`, and `loss` in evaluation mode) is always exact, for any D, at
O(K D H (H + D) + K D^3) per row: a truncated series would need the same D products for its traces.

*Inverse.* To solve u + g(u) = y, let r = y - u - g(u). A fixed-point step u + r shrinks |r| by kappa at least; Newton's
u + (I + J)^{-1} r mostly by far more. Each iteration takes Newton's step, and the fixed-point step in rows where that
left more than kappa |r|; it ends with |r| at rounding, and |u - u*| <= |r| / (1 - kappa).

Shapes: z, u, e (n, batch, D); c (batch, C); J (..., D, D), kept transposed; H hidden width.

References:
    | Residual Flows for Invertible Generative Modeling (Chen et al., 2019), https://arxiv.org/abs/1906.02735
    | Invertible Residual Networks (Behrmann et al., 2019), https://arxiv.org/abs/1811.00995
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.flows.conditional import Architecture, ConditionalFlow

MEMORY = 2**24  # numbers in the Jacobians of the rows evaluated at once when nothing is differentiated
MOST = 500  # iterations of the inverse; kappa = 0.95 needs 350 where every step is a fixed-point step


class Residual(Architecture):
    """Residual flow: smooth, all dimensions mixed in every block, no masks; drawing solves equations.

    Args:
        blocks: K, how many residual steps are chained.
        hidden: Widths of the hidden layers of each g.
        lipschitz: kappa, the bound of each g's Lipschitz constant, between 0 and 1.
        network: Width of the two hidden layers of the network of the context.
        log_det: How training gets log det(I + J): "exact", or estimated by "roulette"; None is "exact" up to
            `EXACT_UP_TO` dimensions.
        exact_terms: m, terms of the series that roulette always computes.
        continuation: q, the chance that roulette goes on to another term; above kappa^2.
    """

    def __init__(
        self,
        blocks: int = 8,
        hidden: Sequence[int] = (64,),
        lipschitz: float = 0.9,
        network: int = 64,
        log_det: Literal["exact", "roulette"] | None = None,
        exact_terms: int = 4,
        continuation: float = 0.85,
    ) -> None:
        self.blocks, self.hidden, self.lipschitz, self.network = blocks, tuple(hidden), lipschitz, network
        self.log_det, self.exact_terms, self.continuation = log_det, exact_terms, continuation

    def build(self, dim: int, context: int) -> ConditionalFlow:
        return _ResidualFlow(self, dim, context)


class _LipSwish:
    pass


@dataclass(frozen=True)
class _Step:
    """One g with its context: matrices (out, in), beta per hidden layer, shifts (batch, width) per hidden layer."""

    weights: list[Tensor]
    betas: Tensor
    shifts: list[Tensor]

    def value(self, u: Tensor) -> tuple[Tensor, list[Tensor]]:
        """g(u), and phi' at every hidden unit."""
        hidden, slopes = u, []
        for weight, beta, shift in zip(self.weights, self.betas, self.shifts, strict=False):
            a = F.linear(hidden, weight) + shift
            gate = torch.sigmoid(beta * a)
            hidden = a * gate / 1.1
            slopes.append((gate + beta * hidden * 1.1 * (1 - gate)) / 1.1)
        return F.linear(hidden, self.weights[-1]), slopes

    def jacobian(self, slopes: list[Tensor]) -> Tensor:
        """J transposed, (..., D, D)."""
        rows = self.weights[0].mT
        for slope, weight in zip(slopes, self.weights[1:], strict=True):
            rows = (rows * slope[..., None, :]) @ weight.mT
        return rows

    def vjp(self, v: Tensor, slopes: list[Tensor]) -> Tensor:
        """v'J, (..., D)."""
        for slope, weight in zip(reversed(slopes), reversed(self.weights[1:]), strict=True):
            v = F.linear(v, weight.mT) * slope
        return F.linear(v, self.weights[0].mT)


class _ResidualFlow(ConditionalFlow):
    def __init__(self, plan: Residual, dim: int, context: int) -> None:
        super().__init__(dim, context)
        self.plan = plan
        self.exact = True if plan.log_det == "exact" else False if plan.log_det else dim <= 8
        widths = [dim, *plan.hidden, dim]
        self.weights = nn.ParameterList()
        K = plan.blocks
        for i, (a, b) in enumerate(zip(widths, widths[1:])):
            std = 1 / math.sqrt(a) if i == 0 else 1/math.sqrt(a) * (1 if i < len(plan.hidden) else 0.1)
            self.weights.append(nn.Parameter(std * torch.randn(K, b, a)))
        self.betas = nn.Parameter(torch.full((K, len(plan.hidden)), 0.5413))
        self.sizes = [*plan.hidden, dim, dim]
        H = plan.network
        self.net = nn.Sequential(nn.Linear(context, H), nn.SiLU(), nn.Linear(H, H), nn.SiLU(), nn.Linear(H, K * sum(self.sizes)))
        with torch.no_grad():
            last = self.net[-1]
            last.weight.mul_(0.3)
            w = last.weight.view(K, sum(self.sizes), H); b = last.bias.view(K, -1)
            w[:, -2*dim:] = 0; b[:, -2*dim:] = 0
            b[:, :-2*dim] = torch.randn(b[:, :-2*dim].shape)

    def steps(self, context):
        n = len(self.weights)
        kappa = self.plan.lipschitz ** (1 / n)
        ws = [w / (torch.linalg.matrix_norm(w, ord=2, keepdim=True) / kappa).clamp_min(1) for w in self.weights]
        betas = F.softplus(self.betas)
        out = self.net(context).unflatten(-1, (self.plan.blocks, -1))
        res = []
        for k in range(self.plan.blocks):
            *shifts, s, t = out[:, k].split(self.sizes, -1)
            s = s / (1 + s.abs() / 5)
            res.append((s, t, _Step([w[k] for w in ws], betas[k], shifts)))
        return res

    def encode(self, z, context):
        log_det = 0
        for s, t, step in self.steps(context):
            u = s.exp() * z + t
            g, slopes = step.value(u)
            J = step.jacobian(slopes)
            log_det = log_det + s.sum(-1) + torch.linalg.slogdet(J + torch.eye(self.dim)).logabsdet
            z = u + g
        return z, log_det

    def decode(self, noise, context):
        raise NotImplementedError

    def loss(self, z, context, *, generator):
        if self.exact or not self.training:
            return -self.log_prob(z, context)
        log_det = 0
        for s, t, step in self.steps(context):
            u = s.exp() * z + t
            g, slopes = step.value(u)
            log_det = log_det + s.sum(-1) + self.roulette(step, slopes, generator)
            z = u + g
        return 0.5*z.square().sum(-1) + 0.5*self.dim*math.log(2*math.pi) - log_det

    def roulette(self, step, slopes, generator):
        m, q = self.plan.exact_terms, self.plan.continuation
        n, D = slopes[0].shape[0], self.dim
        with torch.no_grad():
            uni = torch.rand(n, generator=generator)
            N = (m + torch.floor(torch.log1p(-uni) / math.log(q))).long()
            N, order = N.sort(descending=True)
            v = torch.randint(2, (n, D), generator=generator).float() * 2 - 1
            sl = [s[order] for s in slopes]
            w = v.clone(); row = v; value = torch.zeros(n)
            counts = (N[:, None] >= torch.arange(1, int(N[0]) + 1)).sum(0).tolist()
            for k, c in enumerate(counts, 1):
                row = step.vjp(row[:c], [s[:c] for s in sl])
                weight = (-1) ** k / q ** max(0, k - m)
                w[:c] += weight * row
                value[:c] -= weight / k * (row * v[:c]).sum(-1)
            back = order.argsort()
            v, w, value = v[back], w[back], value[back]
        grad = (step.vjp(w, slopes) * v).sum(-1)
        return value + grad - grad.detach()
