r"""The neural spline flow that sbi builds under the name "nsf", made of nflows' transforms.

Each of K steps has two parts. A rational-quadratic spline on [-B, B] (the identity outside) transforms every other
dimension. A residual network of the remaining dimensions and the context computes the pieces of the spline. Then a
linear map W = L U acts on all dimensions and does not depend on the context:

    e = f(z; c) = (LU_K o spline_K(.; c)) o ... o (LU_1 o spline_1(.; c)) (z).

With one dimension, splines are conditioned on the context alone, a plain network replaces the residual one, and there
are no linear maps.

Two things differ from sbi. The context's contribution to each layer is computed once per observation and added for all
samples of it. This changes the time, not the result. And B is 5. sbi's B = 3 makes the sd of narrow posteriors wrong:
see `spline`.

References:
    | Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from nflows.nn.nets import ResidualNet
from nflows.transforms import CompositeTransform, LULinear, PiecewiseRationalQuadraticCouplingTransform
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.networks.flows.conditional import (
    Architecture,
    ConditionalFlow,
    Context,
    ExactFlow,
    Logs,
    Points,
    single_precision,
)
from sciinf.networks.flows.rational_quadratic import LEAST, numbers
from sciinf.networks.flows.spline import SplineCoupling, SplineCouplingFlow, check_settings


class CouplingNSF(Architecture):
    """sbi's neural spline coupling flow, without sbi's standardisation.

    Args:
        transforms: K, the number of splines in the chain.
        hidden: Width of the networks that compute the splines.
        bins: Number of pieces of each spline.
        blocks: Number of residual blocks of each network.
        tail_bound: B. A spline is the identity outside [-B, B], so z should be standardised.
    """

    def __init__(
        self, transforms: int = 5, hidden: int = 50, bins: int = 10, blocks: int = 2, tail_bound: float = 5.0
    ) -> None:
        check_settings("CouplingNSF", transforms, hidden, bins, blocks, tail_bound)
        self.transforms, self.hidden, self.bins = transforms, hidden, bins
        self.blocks, self.tail_bound = blocks, tail_bound

    def build(self, dim: int, context: int) -> ConditionalFlow:
        return _CouplingNSF(self, dim, context)


class _CouplingNSF(ExactFlow):
    def __init__(self, plan: CouplingNSF, dim: int, context: int) -> None:
        super().__init__(dim, context)

        def network(inputs: int, outputs: int) -> nn.Module:
            if dim == 1:
                return _ContextNet(outputs, plan.hidden, context)
            return _SharedContext(ResidualNet(inputs, outputs, plan.hidden, context, num_blocks=plan.blocks))

        splines, linear = [], []
        for step in range(plan.transforms):
            # Every other dimension is transformed, the even ones first; a single dimension in each step.
            chosen = [1] if dim == 1 else [int(d % 2 == step % 2) for d in range(dim)]
            splines.append(
                PiecewiseRationalQuadraticCouplingTransform(
                    mask=torch.tensor(chosen),
                    transform_net_create_fn=network,
                    num_bins=plan.bins,
                    tails="linear",
                    tail_bound=plan.tail_bound,
                )
            )
            if dim > 1:
                linear.append(LULinear(dim, identity_init=True))
        self.splines, self.linear = nn.ModuleList(splines), nn.ModuleList(linear)

    def encode(self, z: Points, context: Context) -> tuple[Points, Logs]:
        value = z.flatten(0, 1)
        log_det = value.new_zeros(len(value))
        for step, spline in enumerate(self.splines):
            value, change = spline(value, context)
            log_det = log_det + change
            if self.dim > 1:
                with single_precision(z):
                    value, change = self.linear[step](value)
                log_det = log_det + change
        return value.view(z.shape), log_det.view(z.shape[:-1])

    def decode(self, noise: Points, context: Context) -> Points:
        value = noise.flatten(0, 1)
        for step in reversed(range(len(self.splines))):
            if self.dim > 1:
                # LULinear.inverse calls a function that torch is about to remove.
                linear = cast(LULinear, self.linear[step])
                value = torch.linalg.solve(linear.weight(), (value - linear.bias).T).T
            spline = cast(PiecewiseRationalQuadraticCouplingTransform, self.splines[step])
            try:
                value = spline.inverse(value, context)[0]
            except AssertionError:  # Rounding made a discriminant negative in nflows; `push` tries again.
                return torch.full_like(noise, torch.nan)
        return value.view(noise.shape)


class _SharedContext(nn.Module):
    """nflows' residual network for inputs (n * batch, d), with one context (batch, C) shared by all n samples."""

    def __init__(self, net: ResidualNet) -> None:
        super().__init__()
        self.net = net
        # nflows divides widths and heights by the square root of this width.
        self.hidden_features = net.hidden_features

    def forward(self, inputs: Tensor, context: Tensor) -> Tensor:
        net, d = self.net, inputs.shape[1]
        weight, bias = net.initial_layer.weight, net.initial_layer.bias
        hidden = F.linear(inputs, weight[:, :d]).unflatten(0, (-1, len(context)))
        hidden = hidden + F.linear(context, weight[:, d:], bias)
        blocks: Any = net.blocks
        for block in blocks:
            change = block.linear_layers[0](F.relu(hidden))
            change = block.linear_layers[1](F.relu(change))
            hidden = hidden + change * torch.sigmoid(block.context_layer(context))
        return net.final_layer(hidden).flatten(0, 1).to(inputs.dtype)


class _ContextNet(nn.Module):
    """Network that computes the pieces of a one-dimensional spline from the context alone, once for all n samples."""

    def __init__(self, outputs: int, hidden: int, context: int) -> None:
        super().__init__()
        self.spline_predictor = nn.Sequential(
            nn.Linear(context, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )
        self.hidden_features = hidden

    def forward(self, inputs: Tensor, context: Tensor) -> Tensor:
        return self.spline_predictor(context).to(inputs.dtype).repeat(len(inputs) // len(context), 1)


def fused(transform: nn.Module, context: int) -> ConditionalFlow:
    """Convert a neural spline coupling flow of nflows, as sbi builds it, to the fast flow of `spline`.

    The result is the same function as the original flow in evaluation mode. Dropout acts in training only, so it is
    left out.

    Args:
        transform: nflows' transform from standardised parameters to noise: splines, each followed by an LU map. An sbi
            estimator has it in `estimator.net._transform`; leave out the standardisation there.
        context: C, the number of features in the context.

    Raises:
        ValueError: If `transform` contains other parts or unsupported splines; the message names them.
    """
    parts = list(_flat(transform))
    splines, maps = parts[::2], parts[1::2]
    expected = [PiecewiseRationalQuadraticCouplingTransform, LULinear] * (len(parts) // 2)
    if not parts or [type(part) for part in parts] != expected:
        raise ValueError(
            f"expected splines, each followed by a linear map ({[e.__name__ for e in expected[:2]]} by turns), got "
            f"{[type(part).__name__ for part in parts]}; leave standardisation out, and one dimension has no such flow"
        )
    kinds = [_kind(cast(Any, spline), cast(Any, linear), context) for spline, linear in zip(splines, maps, strict=True)]
    if unequal := [other for other in kinds if other != kinds[0]]:
        raise ValueError(f"the splines are not all alike: {kinds[0]} and {unequal[0]}")
    dim, hidden, bins, blocks, tail_bound = kinds[0].values()
    plan = SplineCoupling(len(splines), hidden, bins, blocks, tail_bound, gaussian=False)
    flow = cast(SplineCouplingFlow, plan.build(dim, context))
    if [spline.transform_features.tolist() for spline in cast(Any, splines)] != flow.moved:
        raise ValueError("the splines do not act on every other dimension by turns, the even ones first")
    with torch.no_grad():
        for step, (spline, linear) in enumerate(zip(cast(Any, splines), cast(Any, maps), strict=True)):
            _copy_network(flow, step, spline.transform_net)
            for name, theirs in (
                ("lower", linear.lower_entries),
                ("upper", linear.upper_entries),
                ("diagonal", linear.unconstrained_upper_diag),
                ("bias", linear.bias),
            ):
                flow.get_parameter(f"linear.{name}")[step] = theirs
    return flow


def _kind(spline: Any, linear: Any, context: int) -> dict[str, Any]:
    """Sizes of a spline and its network, by name.

    Raises:
        ValueError: If the fast flow does not support the spline, the network or the linear map.
    """
    net = spline.transform_net
    if type(net) is not ResidualNet or net.context_features != context:
        raise ValueError(
            f"expected splines behind nflows' ResidualNet of {context} features of context, got {type(net).__name__} "
            f"of {getattr(net, 'context_features', None)}"
        )
    minima = {name: getattr(spline, name) for name in ("min_bin_width", "min_bin_height", "min_derivative")}
    minima["eps of the linear map"] = linear.eps
    found = {
        "batch norm in a spline's network": any(block.use_batch_norm for block in net.blocks),
        "an activation other than ReLU": not all(_is_relu(block.activation) for block in net.blocks),
        f"minima other than {LEAST}: {minima}": any(value != LEAST for value in minima.values()),
        f"tails={spline.tails!r} of a spline, where only 'linear' is the identity": spline.tails != "linear",
        "a spline of the dimensions that are kept": spline.unconditional_transform is not None,
    }
    if wrong := [name for name, is_there in found.items() if is_there]:
        raise ValueError(f"the fast flow does not support {', nor '.join(wrong)}; keep the network as it is")
    return {
        "dimensions": spline.features,
        "hidden": net.hidden_features,
        "bins": spline.num_bins,
        "blocks": len(net.blocks),
        "tail_bound": float(spline.tail_bound),
    }


def _is_relu(activation: Any) -> bool:
    return activation in (F.relu, torch.relu) or isinstance(activation, nn.ReLU)


def _flat(transform: nn.Module) -> Iterator[nn.Module]:
    if isinstance(transform, CompositeTransform):
        for part in transform._transforms:
            yield from _flat(part)
    else:
        yield transform


def _copy_network(flow: SplineCouplingFlow, step: int, net: Any) -> None:
    """Copy the weights of one step's network from nflows to the fast flow.

    nflows stores K widths, K heights and K - 1 slopes for each dimension in turn. nflows divides widths and heights,
    but not slopes, by the square root of the network's width.
    """
    plan, kept, moved = flow.plan, len(flow.kept[step]), len(flow.moved[step])
    rows = slice(step * (1 + plan.blocks) * plan.hidden, (step + 1) * (1 + plan.blocks) * plan.hidden)
    layers = [block.context_layer for block in net.blocks]
    flow.inputs[step].copy_(net.initial_layer.weight[:, :kept])
    flow.context_map.weight[rows] = torch.cat([net.initial_layer.weight[:, kept:], *(layer.weight for layer in layers)])
    flow.context_map.bias[rows] = torch.cat([net.initial_layer.bias, *(layer.bias for layer in layers)])
    for number, block in enumerate(net.blocks):
        for half, layer in enumerate(block.linear_layers):
            flow.block_weight[step, number, half] = layer.weight
            flow.block_bias[step, number, half] = layer.bias
    own = torch.arange(moved * numbers(plan.bins)).view(moved, -1)
    order = torch.cat([own[:, : 2 * plan.bins].flatten(), own[:, 2 * plan.bins :].flatten()])
    scale = torch.ones(len(order))
    scale[: 2 * plan.bins * moved] /= math.sqrt(plan.hidden)
    flow.output_weight[step].copy_(net.final_layer.weight[order] * scale[:, None])
    flow.output_bias[step].copy_(net.final_layer.bias[order] * scale)
