r"""The log-uniform distribution: every decade between two positive bounds is equally likely.

With L = log(high / low), for low <= value <= high:

    p(value) = 1 / (value L),      F(value) = log(value / low) / L,      F^{-1}(u) = low exp(u L).

The density is finite at both ends, so rounding in 1 - F is no larger there than the rounding of the values.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from sciinf.core.law_arguments import Number, finite, positive


class LogUniform(td.Distribution):
    """The log-uniform distribution on [low, high], with the density 1 / (value log(high / low)).

    All orders of magnitude between the bounds are equally likely.

    Args:
        low: Smallest value, above 0, in the parameter's unit.
        high: Largest value, above `low`, in the parameter's unit.

    Raises:
        TypeError: If an argument is not one number.
        ValueError: If a bound is not positive and finite, `low` is not below `high`, or high / low overflows.

    Examples:
        >>> float(LogUniform(0.01, 100.0).cdf(torch.tensor(1.0)))
        0.5
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False

    def __init__(self, low: Number, high: Number) -> None:
        call = "LogUniform(low, high)"
        below, above = finite(call, "low", low), finite(call, "high", high)
        positive(call, "low", below, "where values may be 0 or less, take Uniform or Normal")
        if not below < above:
            raise ValueError(f"{call}: low = {below:g} must be below high = {above:g}")
        if math.isinf(above / below):
            raise ValueError(f"{call}: high / low = {above:g} / {below:g} is too large; take narrower bounds")
        self.low, self.high = (torch.tensor(bound, dtype=torch.float64) for bound in (below, above))
        self.length = math.log1p((above - below) / below)
        super().__init__(validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    def log_prob(self, value: Tensor) -> Tensor:
        density = -value.clamp(float(self.low), float(self.high)).log() - math.log(self.length)
        return torch.where(self.support.check(value), density, -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        return (((value - self.low) / self.low).clamp_min(0).log1p() / self.length).clamp_max(1)

    def icdf(self, value: Tensor) -> Tensor:
        return self.low * (value * self.length).exp()

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.icdf(torch.rand(sample_shape, dtype=torch.float64)).to(torch.get_default_dtype())

    def __repr__(self) -> str:
        return f"LogUniform(low={float(self.low):g}, high={float(self.high):g})"
