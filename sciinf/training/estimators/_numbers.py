"""An observation as a row of numbers, for estimators that learn a density of each number.

Whole numbers k are spread over the interval [k + 1/2, k + 3/2], by uniform noise drawn anew at each training step. The
integral of the learned density over the interval is the probability of k. It is approximated by the density at the
middle, with an error of second order in the density's curvature within the interval. (Counts k >= 0 become at least
1/2, so that their logarithms are finite.)

References:
    | A note on the evaluation of generative models (Theis, van den Oord & Bethge, 2016), section 3.1,
      https://arxiv.org/abs/1511.01844
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Observable, X
from sciinf.networks.summaries.standardise import Standardise


def count(observables: Mapping[str, Observable], most: int, kind: str) -> int:
    """Number of numbers in an observation.

    Args:
        observables: Observables of the simulator.
        most: Largest allowed number.
        kind: Name of the estimator, for the message.

    Raises:
        ValueError: If the numbers are too many, or some cannot be given a density.
    """
    instead = "use Ratio or Flow, whose summary networks read {}, or have the simulator return summary statistics"
    for name, spec in observables.items():
        if spec.control:
            raise ValueError(
                f"{name!r} is a control, which has no law to be learned, and {kind} learns a density of all numbers; "
                + instead.format("it beside the data")
            )
        if spec.dtype == "bool":
            masked = name.endswith("_mask") and name.removesuffix("_mask") in observables
            what = f"{name!r} marks missing values" if masked else f"the observable {name!r} is bool"
            raise ValueError(
                f"{what}, and {kind} learns a density of numbers that are all there; "
                + instead.format("masks" if masked else "them")
            )
    numbers = sum(math.prod(spec.shape) for spec in observables.values())
    if numbers > most:
        raise ValueError(
            f"an observation has {numbers:,} numbers, and {kind} learns a density of at most {most:,}; "
            + instead.format("as many as there are")
        )
    return numbers


def middle(x: X) -> dict[str, Tensor]:
    """Copy of x with each whole number moved to the middle of its interval."""
    return {name: v if v.is_floating_point() else v.double() + 1.0 for name, v in x.items()}


def spread(x: X, generator: torch.Generator) -> dict[str, Tensor]:
    """Copy of x with each whole number moved to a random place in its interval."""
    values = {}
    for name, value in x.items():
        if not value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator, device=generator.device)
            value = value.double() + 0.5 + noise.to(value.device)
        values[name] = value
    return values


def flat(standardise: Standardise, x: X, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch number"]:
    """y: the standardised numbers of all observables side by side, from floats as `middle` or `spread` give them."""
    return torch.cat([value.reshape(len(value), -1) for value in standardise(x, dtype).values()], dim=-1)


def flat_with_slopes(standardise: Standardise, x: X) -> tuple[Float[Tensor, "batch number"], Tensor]:
    """y, and log |dy / dx| of each number, float64; the latter is 0 where y does not depend on x."""
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in x.items()}
        y = flat(standardise, leaves)
        slopes = torch.autograd.grad(y.sum(), list(leaves.values()))
    logs = [torch.where(slope > 0, slope, 1.0).double().log().reshape(len(y), -1) for slope in slopes]
    return y.detach(), torch.cat(logs, dim=-1)


def unflat(standardise: Standardise, y: Float[Tensor, "batch number"]) -> dict[str, Tensor]:
    """x in its own units and dtype, from standardised numbers; whole numbers are rounded."""
    specs, values, start = standardise.specs, {}, 0
    for name, spec in specs.items():
        stop = start + math.prod(spec.shape)
        values[name] = y[:, start:stop].reshape(len(y), *spec.shape)
        start = stop
    return {name: _own(specs[name], value) for name, value in standardise.inverse(values).items()}


def _own(spec: Observable, value: Tensor) -> Tensor:
    """Floats converted to the observable's dtype."""
    if spec.dtype != "int64":
        return value.to(spec.torch_dtype)
    whole = (value - 1.0).round().clamp(-(2.0**62), 2.0**62).long()
    return whole.clamp_min(0) if spec.scale == "log" else whole
