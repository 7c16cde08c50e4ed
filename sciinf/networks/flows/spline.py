r"""A fast neural spline coupling flow, the default flow of the estimator `Flow`.

The map from data z to noise e is

    e = f(z; c) = (W_K o spline_K(.; c)) o ... o (W_1 o spline_1(.; c)) (A(c) z - a(c)).

Each spline acts on one half of the dimensions: every other one, in turns. A residual network of the other half and of
the context computes the spline's pieces. W_k = L_k U_k is a linear map of all dimensions. The conditional Gaussian in
front (`gaussian`; A is lower triangular with a positive diagonal) models the location, scale and correlation of the
posterior, which vary with the observation. So splines need to learn only the remaining shape.

Without the Gaussian, this is the function that sbi builds under the name "nsf" with nflows, number for number
(`nflows_flows.fused` copies its weights). The only difference is that B is 5 here and 3 in sbi. No spline transforms
noise beyond B. So in each dimension a fraction P(|e| > B) of the samples is as wide as the prior, however narrow the
posterior is. This fraction is 2.7e-3 at B = 3 and 6e-7 at B = 5. Quantiles hardly change, but means and sds do. At B =
3 the fraction adds about (0.17 s)^2 to the variance, with s the prior's sd. So the sd of a posterior of width 0.02 s
becomes many times too large.

The flow is fast for these reasons. The batch is the last, contiguous axis of every tensor. The whole flow is one
operation, compiled if a compiler is available (`couplings`). Otherwise the splines have no branches, and a gradient of
their own (`rational_quadratic`). The context enters all layers of a step through one matrix product, once per
observation for any number of samples. The maps W_k include the reordering of the dimensions between steps.

References:
    | Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.networks.flows import couplings, rational_quadratic
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
from sciinf.networks.flows.couplings import Shape, Weights
from sciinf.networks.flows.rational_quadratic import EDGE, LEAST


class SplineCoupling(Architecture):
    """Fast neural spline coupling flow.

    Args:
        transforms: K, the number of splines in the chain.
        hidden: Width of the networks that compute the splines.
        bins: Number of pieces of each spline.
        blocks: Number of residual blocks of each network.
        tail_bound: B. A spline is the identity outside [-B, B], so z should be standardised.
        gaussian: Whether a conditional Gaussian comes before the splines.
    """

    def __init__(
        self,
        transforms: int = 5,
        hidden: int = 50,
        bins: int = 10,
        blocks: int = 2,
        tail_bound: float = 5.0,
        gaussian: bool = True,
    ) -> None:
        check_settings("SplineCoupling", transforms, hidden, bins, blocks, tail_bound)
        self.transforms, self.hidden, self.bins = transforms, hidden, bins
        self.blocks, self.tail_bound, self.gaussian = blocks, tail_bound, gaussian

    def build(self, dim: int, context: int) -> ConditionalFlow:
        return SplineCouplingFlow(self, dim, context)


class SplineCouplingFlow(ExactFlow):
    """The flow that `SplineCoupling` builds.

    Samples with a gradient use torch operations on every device.
    """

    def __init__(self, plan: SplineCoupling, dim: int, context: int) -> None:
        super().__init__(dim, context)
        self.plan, self.shape = plan, Shape(plan.bins, plan.tail_bound)
        layers = plan.transforms * (1 + plan.blocks)
        self.context_map = nn.Linear(context, layers * plan.hidden)
        self.moved = [_moved(dim, step) for step in range(plan.transforms)]
        self.kept = [_kept(dim, step) for step in range(plan.transforms)]
        self.inputs = nn.ParameterList(uniform(plan.hidden, len(k), fan=dim + context) for k in self.kept if k)
        width = plan.hidden
        self.block_weight = nn.Parameter(uniform(plan.transforms, plan.blocks, 2, width, width, fan=width))
        self.block_bias = nn.Parameter(uniform(plan.transforms, plan.blocks, 2, width, fan=width))
        with torch.no_grad():  # Same initial weights as nflows: each block is close to the identity.
            self.block_weight[:, :, 1].uniform_(-1e-3, 1e-3)
            self.block_bias[:, :, 1].uniform_(-1e-3, 1e-3)
        rows = [len(chosen) * rational_quadratic.numbers(plan.bins) for chosen in self.moved]
        # Every spline starts close to the identity.
        self.output_weight = nn.ParameterList(uniform(r, width, fan=100 * width) for r in rows)
        slopes = [len(moved) * (plan.bins - 1) for moved in self.moved]
        flat = [(r - s, s) for r, s in zip(rows, slopes, strict=True)]
        self.output_bias = nn.ParameterList(
            torch.cat([torch.zeros(shares), torch.full((slopes,), EDGE)]) for shares, slopes in flat
        )
        self.linear = _Linear(plan.transforms, dim) if dim > 1 else None
        self.gaussian = ConditionalGaussian(dim, context, plan.hidden) if plan.gaussian else None

    def encode(self, z: Points, context: Context) -> tuple[Points, Logs]:
        log_det = z.new_zeros(()) if self.linear is None else self.linear.log_det()
        value, context = z.permute(2, 0, 1), context.to(z.dtype)
        with single_precision(z):
            weights = self._weights(*self._maps())
        if couplings.served(value, context, weights):
            value, change = couplings.noise_of(value, context, weights, self.shape)
            return value.permute(1, 2, 0), log_det + change
        with single_precision(z):
            if self.gaussian is not None:
                value, change = self.gaussian(value, context)
                log_det = log_det + change
        if self.linear is not None:  # Kept dimensions of the first step, then moved ones.
            value = torch.cat([value[1::2], value[::2]])
        value, change = couplings.by_torch(value, context, weights, self.shape)
        return value.permute(1, 2, 0), (log_det + change).expand(z.shape[:-1])

    def decode(self, noise: Points, context: Context) -> Points:
        maps, shifts = self._maps()
        if self.linear is not None:
            maps = torch.linalg.inv(maps)
            shifts = -(maps @ shifts[..., None])[..., 0]
        value, weights = noise.permute(2, 0, 1), self._weights(maps, shifts)
        if not torch.is_grad_enabled() and couplings.served(value, context, weights):
            return couplings.z_of(value, context, weights, self.shape).permute(1, 2, 0)
        value = couplings.inverse_by_torch(value, context, weights, self.shape)
        if self.linear is not None:
            value = value.index_select(0, self.linear.places)
        if self.gaussian is not None:
            value = self.gaussian.inverse(value, context)
        return value.permute(1, 2, 0)

    def _maps(self) -> tuple[Tensor, Tensor]:
        """Linear map, (K, D, D), and offset, (K, D), of each step, between the dimension orders of two steps."""
        if self.linear is None:
            one = self.context_map.weight.new_ones(self.plan.transforms, 1, 1)
            return one, torch.zeros_like(one[..., 0])
        return self.linear.ordered()

    def _weights(self, maps: Tensor, shifts: Tensor) -> Weights:
        first = tuple(self.inputs) or (maps.new_zeros(self.plan.hidden, 0),) * self.plan.transforms
        given, blocks = self.context_map, (self.block_weight, self.block_bias)
        last = tuple(self.output_weight), tuple(self.output_bias)
        gaussian = () if self.gaussian is None else tuple(self.gaussian.parameters())
        return Weights(given.weight, given.bias, *blocks, maps, shifts, gaussian, first, *last)


class _Linear(nn.Module):
    """K linear maps W = L U with a positive diagonal, and their biases.

    Indices that describe the order of dimensions are stored as buffers. An index made of Python numbers would be copied
    to the device in each step. The step would wait for this copy, and a CUDA graph cannot contain it.
    """

    below: Tensor
    above: Tensor
    entries: Tensor
    rows: Tensor
    places: Tensor

    def __init__(self, steps: int, dim: int) -> None:
        super().__init__()
        self.lower = nn.Parameter(torch.zeros(steps, dim * (dim - 1) // 2))
        self.upper = nn.Parameter(torch.zeros(steps, dim * (dim - 1) // 2))
        self.diagonal = nn.Parameter(torch.full((steps, dim), EDGE))
        self.bias = nn.Parameter(torch.zeros(steps, dim))
        for name, indices in (("below", torch.tril_indices(dim, dim, -1)), ("above", torch.triu_indices(dim, dim, 1))):
            self.register_buffer(name, indices[0] * dim + indices[1], persistent=False)
        orders = torch.tensor([*(_kept(dim, k) + _moved(dim, k) for k in range(steps)), list(range(dim))])
        entries = orders[1:, :, None] * dim + orders[:-1, None, :]
        self.register_buffer("entries", entries.flatten(1), persistent=False)
        self.register_buffer("rows", orders[1:].contiguous(), persistent=False)
        self.register_buffer("places", orders[0].argsort(), persistent=False)

    def ordered(self) -> tuple[Tensor, Tensor]:
        """W, (K, D, D), and biases, (K, D), from the dimension order of each step to that of the next step.

        In the order of a step, the kept dimensions come first, then the moved ones. After the last step, dimensions are
        in their original order.
        """
        lower, upper = self._factors()
        matrices = (lower @ upper).flatten(1).gather(1, self.entries)
        return matrices.view_as(lower), self.bias.gather(1, self.rows)

    def log_det(self) -> Tensor:
        """Sum of the log determinants of all K linear maps."""
        return self._scale().log().sum()

    def _scale(self) -> Tensor:
        return F.softplus(self.diagonal) + LEAST

    def _factors(self) -> tuple[Tensor, Tensor]:
        steps, d = self.bias.shape
        flat = self.bias.new_zeros(steps, d * d)
        lower = flat.index_add(1, self.below, self.lower).view(steps, d, d)
        upper = flat.index_add(1, self.above, self.upper).view(steps, d, d)
        return lower + torch.eye(d, dtype=flat.dtype, device=flat.device), upper + torch.diag_embed(self._scale())


def check_settings(name: str, transforms: int, hidden: int, bins: int, blocks: int, tail_bound: float) -> None:
    """Check the settings of an architecture made of splines and residual networks.

    Raises:
        ValueError: If a setting is out of range.
    """
    if transforms < 1 or hidden < 1 or not 2 <= bins <= 500 or blocks < 0 or not tail_bound > 0:
        raise ValueError(
            f"{name} needs transforms >= 1, hidden >= 1, 2 <= bins <= 500, blocks >= 0 and tail_bound > 0; "
            f"got transforms={transforms}, hidden={hidden}, bins={bins}, blocks={blocks}, tail_bound={tail_bound}"
        )


def _moved(dim: int, step: int) -> list[int]:
    """Dimensions on which the spline of a step acts: every other one, the even ones first; a single one always."""
    return [0] if dim == 1 else list(range(step % 2, dim, 2))


def _kept(dim: int, step: int) -> list[int]:
    """Dimensions on which the spline of a step does not act."""
    return [d for d in range(dim) if d not in _moved(dim, step)]


def uniform(*shape: int, fan: int) -> Tensor:
    """Random initial values with the same distribution as in torch.nn.Linear."""
    bound = 1 / math.sqrt(fan)
    return torch.empty(*shape).uniform_(-bound, bound)
