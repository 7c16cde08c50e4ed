r"""Autoregressive neural spline flow, with the fast splines of `rational_quadratic`.

Each of K steps transforms every dimension by a spline. The earlier dimensions and the context determine its pieces,

    e_i = spline(z_i; h_i(z_1, ..., z_{i-1}, c)),     log |det de/dz| = sum_i log spline'(z_i),

and then each step reverses the order of the dimensions. One residual network with masked weights computes all h_i. Each
hidden unit has a degree m in 0..D-1, and gets the context and the dimensions up to m. The outputs for dimension i use
units of degree below i. Only units of degree i - 1 pass on dimension i - 1, and only units of degree 0 pass the context
to dimension 1. So each degree needs a unit, and the width must be at least D. The density takes one pass per step. A
sample takes D passes per step, because dimension i needs all earlier dimensions. The density is more flexible than with
coupling (`spline`), because each dimension is conditioned on all earlier ones. This pays off if D is small or samples
are rarely needed. A conditional Gaussian comes first, as in `spline`.

References:
    | Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
    | MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015), https://arxiv.org/abs/1502.03509
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sciinf.networks.flows import spline_loops
from sciinf.networks.flows.conditional import (
    Architecture,
    ConditionalFlow,
    Context,
    ExactFlow,
    Logs,
    Points,
    single_precision,
)
from sciinf.networks.flows.conditional_gaussian import ConditionalGaussian
from sciinf.networks.flows.gated import gated
from sciinf.networks.flows.rational_quadratic import EDGE
from sciinf.networks.flows.spline import check_settings, uniform


class SplineAutoregressive(Architecture):
    """Autoregressive neural spline flow.

    Args:
        transforms: K, the number of steps in the chain.
        hidden: Width of the networks that compute the splines, at least D.
        bins: Number of pieces of each spline.
        blocks: Number of residual blocks of each network.
        tail_bound: B. A spline is the identity outside [-B, B], so z should be standardised.
        gaussian: Whether a conditional Gaussian comes before the splines.
    """

    def __init__(
        self,
        transforms: int = 3,
        hidden: int = 64,
        bins: int = 10,
        blocks: int = 2,
        tail_bound: float = 5.0,
        gaussian: bool = True,
    ) -> None:
        check_settings("SplineAutoregressive", transforms, hidden, bins, blocks, tail_bound)
        self.transforms, self.hidden, self.bins = transforms, hidden, bins
        self.blocks, self.tail_bound, self.gaussian = blocks, tail_bound, gaussian

    def build(self, dim: int, context: int) -> ConditionalFlow:
        if self.hidden < dim:
            raise ValueError(
                f"SplineAutoregressive(hidden={self.hidden}) has too few units for {dim} dimensions: the last "
                f"would not see all others; take hidden >= {dim}, or SplineCoupling, whose networks may be narrower"
            )
        return _SplineAutoregressive(self, dim, context)


class _SplineAutoregressive(ExactFlow):
    """The flow that `SplineAutoregressive` builds.

    Internal tensors of z have the shape (width, n * batch), those of the context (width, batch).
    """

    def __init__(self, plan: SplineAutoregressive, dim: int, context: int) -> None:
        super().__init__(dim, context)
        self.plan = plan
        self.steps = nn.ModuleList(_MaskedNet(plan, dim, context) for _ in range(plan.transforms))
        self.gaussian = ConditionalGaussian(dim, context, plan.hidden) if plan.gaussian else None

    def encode(self, z: Points, context: Context) -> tuple[Points, Logs]:
        value, log_det = z.permute(2, 0, 1), z.new_zeros(())
        if self.gaussian is not None:
            with single_precision(z):
                value, log_det = self.gaussian(value, context.to(z.dtype))
        value = value.flatten(1)
        for step in self.steps:
            raw = step(value, context.T)
            value, change = spline_loops.spline(value, raw, self.plan.bins, self.plan.tail_bound)
            log_det = log_det + change.sum(0).view(z.shape[:-1])
            value = value.flip(0)
        return value.view(-1, *z.shape[:-1]).permute(1, 2, 0), log_det.expand(z.shape[:-1])

    def decode(self, noise: Points, context: Context) -> Points:
        value = noise.permute(2, 0, 1).flatten(1)
        for step in reversed(self.steps):
            value = value.flip(0)
            known = torch.zeros_like(value)
            for i in range(self.dim):
                raw = step(known, context.T)
                found = spline_loops.inverse(value, raw, self.plan.bins, self.plan.tail_bound)
                known = torch.cat([known[:i], found[i : i + 1], known[i + 1 :]])
            value = known
        value = value.view(-1, *noise.shape[:-1])
        if self.gaussian is not None:
            value = self.gaussian.inverse(value, context)
        return value.permute(1, 2, 0)


class _MaskedNet(nn.Module):
    """Masked network that computes raw spline parameters (D (3K - 1), n * batch) from earlier dimensions alone."""

    first_mask: Tensor
    inner_mask: Tensor
    last_mask: Tensor

    def __init__(self, plan: SplineAutoregressive, dim: int, context: int) -> None:
        super().__init__()
        width, shares, slopes = plan.hidden, 2 * dim * plan.bins, dim * (plan.bins - 1)
        self.given = nn.Linear(context, width * (1 + plan.blocks))
        self.first = nn.Parameter(uniform(width, dim, fan=dim + context))
        self.inner = nn.Parameter(uniform(plan.blocks, 2, width, width, fan=width))
        self.inner_bias = nn.Parameter(uniform(plan.blocks, 2, width, 1, fan=width))
        self.last = nn.Parameter(uniform(shares + slopes, width, fan=100 * width))  # Start near the identity.
        self.last_bias = nn.Parameter(torch.cat([torch.zeros(shares, 1), torch.full((slopes, 1), EDGE)]))
        with torch.no_grad():  # Each block starts close to the identity.
            self.inner[:, 1].uniform_(-1e-3, 1e-3)
        inputs, units = torch.arange(1, dim + 1), torch.arange(width) % dim
        outputs = torch.cat([inputs.repeat_interleave(2 * plan.bins), inputs.repeat_interleave(plan.bins - 1)])
        for name, after, before in (
            ("first_mask", units, inputs),
            ("inner_mask", units, units),
            ("last_mask", outputs - 1, units),
        ):
            self.register_buffer(name, (after[:, None] >= before).float(), persistent=False)

    def forward(self, value: Tensor, context: Tensor) -> Tensor:
        weights = [self.given.weight, self.first * self.first_mask]
        weights += [*(self.inner * self.inner_mask).flatten(0, 1).unbind(0), self.last * self.last_mask]
        biases = [self.given.bias[:, None], *self.inner_bias.flatten(0, 1).unbind(0), self.last_bias]
        return gated(value.unflatten(1, (-1, context.shape[1])), context, weights, biases)
