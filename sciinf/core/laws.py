r"""Truncated and joint distributions, and the map of a distribution to the standard normal.

A distribution with a distribution function F and a quantile function is mapped to the standard normal by

    z = Phi^{-1}(F(theta)),      d z / d theta = p(theta) / N(z; 0, 1).

The map is exact for every prior mass, up to the edge of a bounded support. The prior itself becomes N(0, 1)
in the unbounded space. Both tails are computed from the smaller of F and 1 - F, so that neither tail loses
digits. torch has no quantile function for some distributions (Gamma, Beta, StudentT, ...). These are mapped
by the smooth bijection from their support, `torch.distributions.biject_to`. A `JointLaw` of several
parameters has its own map to as many independent standard normals.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

# Beyond |z| = 37 the tail probability underflows, and the quantile of an unbounded distribution is infinite.
_FAR = 37.0
_EDGE = 1e-15  # smallest tail probability that is distinguished from the edge; it corresponds to |z| = 7.9


class Truncated(td.Distribution):
    """A distribution restricted to [low, high] and renormalised.

    Args:
        base: A univariate distribution with `cdf` and `icdf` (Normal, LogNormal, Cauchy, Laplace,
            Exponential, ...).
        low: Lower bound in the parameter's unit; None for no bound.
        high: Upper bound in the parameter's unit; None for no bound.

    Raises:
        TypeError: If `base` is not a univariate distribution of torch with `cdf` and `icdf`.
        ValueError: If `low` is not below `high`, or if there is no probability between the bounds.

    Examples:
        >>> Truncated(td.Normal(1.0, 0.5), low=0.0).support.check(torch.tensor(-0.1)).item()
        False
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False

    def __init__(self, base: td.Distribution, low: float | None = None, high: float | None = None) -> None:
        if not isinstance(base, td.Distribution) or base.batch_shape or base.event_shape:
            raise TypeError(f"Truncated takes a univariate distribution, like Normal(1.0, 0.5), got {base!r}")
        lower = -math.inf if low is None else float(low)
        upper = math.inf if high is None else float(high)
        if not lower < upper:
            raise ValueError(f"Truncated needs low < high, got low={low} and high={high}")
        self.base = base
        self.low = None if lower == -math.inf else lower
        self.high = None if upper == math.inf else upper
        try:
            base.icdf(torch.tensor(0.5))
            self.below = _cdf(base, lower)
            self.above = _sf(base, upper)
        except NotImplementedError as error:
            raise TypeError(
                f"{type(base).__name__} has no cdf/icdf, so it cannot be truncated; take a distribution "
                "with both, such as Normal, LogNormal or Exponential"
            ) from error
        self.upper_tail, self.lower_tail = lower >= _median(base), upper <= _median(base)
        self.mass = _sf(base, lower) - self.above if self.upper_tail else _cdf(base, upper) - self.below
        if not self.mass > 0:
            raise ValueError(f"{base!r} has no mass between low={low} and high={high}; take other bounds")
        super().__init__(validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        if self.low is not None and self.high is not None:
            return constraints.interval(self.low, self.high)
        if self.low is not None:
            return constraints.greater_than_eq(self.low)
        if self.high is not None:
            return constraints.less_than(self.high)
        return constraints.real

    def log_prob(self, value: Tensor) -> Tensor:
        inside = self.support.check(value) & _check(support(self.base), value)
        safe = torch.where(inside, value, _inside_point(self, value))
        return torch.where(inside, self.base.log_prob(safe) - math.log(self.mass), -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        """The distribution function, computed from the tail of `base` in which the interval lies."""
        if self.upper_tail:
            below = (self.above + self.mass) - sf_of(self.base, value)
        else:
            below = cdf_of(self.base, value) - self.below
        return (below / self.mass).clamp(0, 1)

    def sf(self, value: Tensor) -> Tensor:
        """The survival function, 1 - cdf, accurate in the upper tail."""
        if self.lower_tail:
            above = (self.below + self.mass) - cdf_of(self.base, value)
        else:
            above = sf_of(self.base, value) - self.above
        return (above / self.mass).clamp(0, 1)

    def icdf(self, value: Tensor) -> Tensor:
        return quantile_of(self.base, self.below + value * self.mass, self.above + (1 - value) * self.mass)

    def isf(self, value: Tensor) -> Tensor:
        """The quantile at 1 - value, accurate in the upper tail."""
        return quantile_of(self.base, self.below + (1 - value) * self.mass, self.above + value * self.mass)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.icdf(torch.rand(sample_shape, dtype=torch.float64)).to(torch.get_default_dtype())

    def __repr__(self) -> str:
        return f"Truncated({self.base!r}, low={self.low}, high={self.high})"


class Edge(NamedTuple):
    """A bound of a distribution, and the probability between this bound and each of some values.

    Args:
        side: "lower" or "upper".
        bound: The bound itself, in the parameter's unit.
        of: Index of the parameter that is bounded there. Several indices mean that the sum of these
            parameters is bounded.
        between: Probability between each value and the bound, (n,).
    """

    side: str
    bound: float
    of: tuple[int, ...]
    between: Tensor


class JointLaw(td.Distribution, ABC):
    """A distribution of several dependent parameters, with its own map to independent standard normals."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False

    @abstractmethod
    def to_normal(self, value: Tensor) -> Tensor:
        """z ~ N(0, I), (..., n), of values in the support, (..., n), float64."""

    @abstractmethod
    def from_normal(self, z: Tensor) -> Tensor:
        """The values in the support, (..., n), of z ~ N(0, I), (..., n), float64."""

    @abstractmethod
    def inside(self, value: Tensor) -> Tensor:
        """The values, (..., n), any dtype, moved inside if rounding put them on or beyond an edge."""

    @abstractmethod
    def edges(self, value: Tensor) -> list[Edge]:
        """The fixed bounds of the parameters, as `Edge`s for values, (n, k), float64.

        Bounds that one parameter sets for another one are left out.
        """

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        z = torch.randn(*sample_shape, *self.event_shape, dtype=torch.float64)
        return self.from_normal(z).to(torch.get_default_dtype())


def support(law: td.Distribution) -> constraints.Constraint:
    """The support of a distribution, corrected for mixtures and for VonMises.

    A mixture has the support of its components. The support of VonMises is [-pi, pi]; torch says all of R.
    """
    if isinstance(law, td.MixtureSameFamily):
        return support(law.component_distribution)
    if isinstance(law, td.VonMises):
        return constraints.interval(-math.pi, math.pi)
    if law.support is None:
        raise TypeError(f"{law!r} has no support, so it cannot be a prior; take another distribution")
    return law.support


def is_normalisable(law: td.Distribution) -> bool:
    """Whether a distribution maps to the standard normal: by its `cdf` and `icdf`, or as a `JointLaw`."""
    if law.event_shape:
        return isinstance(law, JointLaw)
    half = torch.tensor(0.5, dtype=torch.float64)
    try:
        law.cdf(law.icdf(half))
    except NotImplementedError:
        return False
    return True


def to_normal(law: td.Distribution, theta: Tensor) -> Tensor:
    """z ~ N(0, 1) of theta ~ law, float64, any shape. Values beyond an edge count as the edge."""
    theta = theta.to(torch.float64)
    if isinstance(law, JointLaw):
        return law.to_normal(theta)
    if type(law) is td.Normal:
        return (theta - law.loc) / law.scale
    if type(law) is td.LogNormal:
        return (theta.clamp_min(1e-300).log() - law.loc) / law.scale
    lower = cdf_of(law, theta).clamp_min(_EDGE)
    upper = sf_of(law, theta).clamp_min(_EDGE)
    z = torch.special.ndtri(torch.minimum(lower, upper).clamp_max(0.5))
    return torch.where(lower < upper, z, -z)


def from_normal(law: td.Distribution, z: Tensor) -> Tensor:
    """theta ~ law of z ~ N(0, 1), float64, any shape; the inverse of `to_normal`."""
    z = z.to(torch.float64)
    if isinstance(law, JointLaw):
        return law.from_normal(z)
    if type(law) is td.Normal:
        return law.loc + law.scale * z
    if type(law) is td.LogNormal:
        return (law.loc + law.scale * z).exp()
    z = z.clamp(-_FAR, _FAR)
    return quantile_of(law, _phi(z), _phi(-z))


def inside(law: td.Distribution, theta: Tensor) -> Tensor:
    """theta, with values that rounding put on or beyond an edge moved to the nearest value inside.

    "Nearest" means the next number of theta's dtype. Any shape.
    """
    if isinstance(law, JointLaw):
        return law.inside(theta)
    low, high = bounds(law)
    if low is not None:
        edge = torch.tensor(low, dtype=theta.dtype, device=theta.device)
        theta = torch.maximum(theta, torch.nextafter(edge, torch.full_like(edge, math.inf)))
    if high is not None:
        edge = torch.tensor(high, dtype=theta.dtype, device=theta.device)
        theta = torch.minimum(theta, torch.nextafter(edge, torch.full_like(edge, -math.inf)))
    return theta


def bounds(law: td.Distribution) -> tuple[float | None, float | None]:
    """Finite lower and upper bounds of a univariate distribution's support; None for no bound."""
    if isinstance(law, Truncated):
        low, high = bounds(law.base)
        lows = [b for b in (low, law.low) if b is not None]
        highs = [b for b in (high, law.high) if b is not None]
        return max(lows, default=None), min(highs, default=None)
    low = getattr(support(law), "lower_bound", None)
    high = getattr(support(law), "upper_bound", None)
    return (None if low is None else float(low)), (None if high is None else float(high))


def edges_of(law: td.Distribution, value: Tensor) -> list[Edge]:
    """The bounds at which a distribution is cut off, as `Edge`s for values, (n, k), float64.

    The result is empty for a distribution that is discrete or has no map to the standard normal.
    """
    if isinstance(law, JointLaw):
        return law.edges(value)
    if law.event_shape or support(law).is_discrete or bounds(law) == (None, None) or not is_normalisable(law):
        return []
    between = (torch.special.ndtr(to_normal(law, value[:, 0])), torch.special.ndtr(-to_normal(law, value[:, 0])))
    sides = zip(("lower", "upper"), cut_off(law), between, strict=True)
    return [Edge(side, bound, (0,), v) for side, bound, v in sides if bound is not None]


def cut_off(law: td.Distribution) -> tuple[float | None, float | None]:
    """The lower and upper bounds at which a density does not vanish; None for every other bound.

    For instance, the density of a LogNormal vanishes at 0, so its lower bound gives None. The distribution
    needs a quantile function. The test compares the widths of the outermost 0.5 % and 1 % of the probability.
    For a constant density the ratio of these widths is 0.5. A bound counts if the ratio is at most 0.6, which
    is the ratio for a density that falls to 0.4 of itself over the last per cent.
    """
    few, more = torch.tensor([0.005, 0.01]).double(), torch.tensor([0.995, 0.99]).double()
    low, high = bounds(law)
    if low is not None:
        half, whole = (quantile_of(law, few, more) - low).tolist()
        low = low if half <= 0.6 * whole else None
    if high is not None:
        half, whole = (high - quantile_of(law, more, few)).tolist()
        high = high if half <= 0.6 * whole else None
    return low, high


# --- distribution functions with both tails exact -------------------------------------------------------------


def _phi(z: Tensor) -> Tensor:
    """The standard normal distribution function; torch's ndtr, 1 + erf, has no correct digit below z = -8."""
    return 0.5 * torch.special.erfc(z * -math.sqrt(0.5))


def cdf_of(law: td.Distribution, value: Tensor) -> Tensor:
    """The probability below each value, any shape, float64; 0 and 1 beyond the support."""
    if type(law) is td.Uniform:
        return ((value - law.low) / (law.high - law.low)).clamp(0, 1)
    if type(law) is td.Normal:
        return _phi((value - law.loc) / law.scale)
    if type(law) is td.LogNormal:
        return _phi((value.clamp_min(0).log() - law.loc) / law.scale)
    if type(law) is td.HalfNormal:
        return torch.special.erf(value.clamp_min(0) / law.scale / math.sqrt(2))
    if type(law) is td.Exponential:
        return -torch.special.expm1(-law.rate * value.clamp_min(0))
    valid = _check(support(law), value)
    safe = torch.where(valid, value, _inside_point(law, value))
    return torch.where(valid, law.cdf(safe), (value > safe).to(value.dtype))


def sf_of(law: td.Distribution, value: Tensor) -> Tensor:
    """The probability above each value, any shape, float64; accurate in the upper tail where possible."""
    if isinstance(law, Truncated):
        return law.sf(value)
    if type(law) is td.Uniform:
        return ((law.high - value) / (law.high - law.low)).clamp(0, 1)
    if type(law) is td.Normal:
        return _phi((law.loc - value) / law.scale)
    if type(law) is td.LogNormal:
        return _phi((law.loc - value.clamp_min(0).log()) / law.scale)
    if type(law) is td.HalfNormal:
        return torch.special.erfc(value.clamp_min(0) / law.scale / math.sqrt(2))
    if type(law) is td.Exponential:
        return torch.exp(-law.rate * value.clamp_min(0))
    return 1 - cdf_of(law, value)


def quantile_of(law: td.Distribution, lower: Tensor, upper: Tensor) -> Tensor:
    """The value with probability `lower` below it and `upper` above it; the smaller of both is used."""
    if isinstance(law, Truncated):
        return torch.where(lower < upper, law.icdf(lower.clamp_max(0.5)), law.isf(upper.clamp_max(0.5)))
    if type(law) is td.Uniform:
        return torch.where(
            lower < upper, law.low + (law.high - law.low) * lower, law.high - (law.high - law.low) * upper
        )
    if isinstance(law, td.Normal | td.LogNormal):
        z = torch.where(lower < upper, torch.special.ndtri(lower), -torch.special.ndtri(upper))
        value = law.loc + law.scale * z
        return value.exp() if isinstance(law, td.LogNormal) else value
    if type(law) is td.HalfNormal:
        return -law.scale * torch.special.ndtri(upper / 2)
    if type(law) is td.Exponential:
        return torch.where(lower < upper, -torch.log1p(-lower), -upper.log()) / law.rate
    return law.icdf(lower.clamp(_EDGE, 1 - 1.2e-16))


def _cdf(law: td.Distribution, value: float) -> float:
    if math.isinf(value):
        return float(value > 0)
    return float(cdf_of(law, torch.tensor(value, dtype=torch.float64)))


def _sf(law: td.Distribution, value: float) -> float:
    if math.isinf(value):
        return float(value < 0)
    return float(sf_of(law, torch.tensor(value, dtype=torch.float64)))


def _median(law: td.Distribution) -> float:
    return float(law.icdf(torch.tensor(0.5)))


def _check(support: constraints.Constraint, value: Tensor) -> Tensor:
    return support.check(value) & value.isfinite()


def _inside_point(law: td.Distribution, like: Tensor) -> Tensor:
    return law.icdf(torch.tensor(0.5, dtype=torch.float64)).to(like.dtype)


def never_negative(law: td.Distribution) -> bool:
    """Whether a distribution has no negative values, apart from a probability of 1e-19."""
    return float(from_normal(law, torch.tensor(-9.0))) >= 0
