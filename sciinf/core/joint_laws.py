r"""Joint distributions of parameters that have an order or a bounded sum: `Ordered` and `Simplex`.

Their densities are normalised, and their draws are exact.

**Ordered.** n independent values of a distribution with density p and distribution function F, sorted in
increasing order, have the density n! prod_k p(theta_k) where theta_1 <= ... <= theta_n. With u_k = F(theta_k)
and u_{n+1} = 1, the

    v_k = (u_k / u_{k+1})^k,      k = 1 ... n,

are independent and uniform: for given u_{k+1}, the largest of k values below u_{k+1} has P(u_k < u) = (u /
u_{k+1})^k. So z_k = Phi^{-1}(v_k) are independent standard normal variables.

**Simplex.** The density is uniform where theta_k >= 0 and sum_k theta_k <= S, and equals n! / S^n there. With
the remainders r_1 = S and r_{k+1} = r_k - theta_k, the

    v_k = (r_{k+1} / r_k)^{n-k+1},      k = 1 ... n,

are independent and uniform (stick breaking), and z_k = Phi^{-1}(1 - v_k) are independent standard normal
variables.

References:
    | Non-Uniform Random Variate Generation, chapter V (Devroye, 1986), http://luc.devroye.org/rnbookindex.html
"""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from sciinf.core.checks import check_whole
from sciinf.core.law_arguments import Number, finite, positive
from sciinf.core.laws import Edge, JointLaw, cdf_of, cut_off, inside, is_normalisable, quantile_of, sf_of, support

_FAR = 37.0  # The constant of the same name in `laws` explains this value.
_TINY = 1e-300
# Where neighbours are equal, or the remainder is 0, a probability of 0 is replaced by this one, so that |z|
# <= 7.9.
_EDGE = 1e-15


@final
class Ordered(JointLaw):
    """The joint distribution of n independent values of one distribution, sorted in increasing order.

    It is for parameters that can be told apart by their order only, such as two masses.

    Args:
        base: Distribution of each value before sorting. It is univariate and has a distribution function
            (Normal, Uniform, LogNormal, LogUniform, Truncated, ...).
        n: Number of values, at least 2.

    Raises:
        TypeError: If `base` is not such a distribution.
        ValueError: If `n` is not a whole number of at least 2.

    Examples:
        >>> law = Ordered(td.Uniform(5.0, 80.0), 2)
        >>> light, heavy = law.sample((1000,)).unbind(-1)
        >>> bool((light <= heavy).all())
        True
    """

    def __init__(self, base: td.Distribution, n: int) -> None:
        if not isinstance(base, td.Distribution) or base.batch_shape or base.event_shape:
            raise TypeError(
                "Ordered takes a univariate distribution and a number, such as Ordered(Uniform(5, 80), 2), "
                f"got {base!r}"
            )
        if not is_normalisable(base):
            raise TypeError(
                f"{base!r} has no quantile function, so its values cannot be ordered; take Normal, "
                "LogNormal, Uniform, LogUniform, ... or Truncated"
            )
        check_whole("n", n, 2)
        self.base, self.n = base, n
        td.Distribution.__init__(self, event_shape=torch.Size([n]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return _Increasing(support(self.base))

    def log_prob(self, value: Tensor) -> Tensor:
        valid = self.support.check(value)
        safe = torch.where(valid[..., None], value, self.from_normal(torch.zeros(self.n).double()).to(value))
        each = self.base.log_prob(safe) if not isinstance(self.base, td.Uniform) else _flat(self.base, safe)
        return torch.where(valid, each.sum(-1) + math.lgamma(self.n + 1), -math.inf)

    def to_normal(self, value: Tensor) -> Tensor:
        """Values of the support, (..., n), mapped to independent standard normal variables z, (..., n)."""
        lower, upper = (f(self.base, value).clamp_min(_TINY) for f in (cdf_of, sf_of))
        log_u = torch.where(lower < upper, lower.log(), torch.log1p(-upper.clamp_max(0.5)))
        above = torch.cat([log_u[..., 1:], torch.zeros_like(log_u[..., :1])], dim=-1)
        log_v = (log_u - above) * _counted(self.n, value)
        last = torch.arange(self.n, device=value.device) == self.n - 1
        return z_of(log_v, -torch.where(last, 0.0, _EDGE))

    def from_normal(self, z: Tensor) -> Tensor:
        """Independent standard normal variables z, (..., n), mapped to values of the support, (..., n)."""
        each = torch.special.log_ndtr(z.clamp(-_FAR, _FAR)) / _counted(self.n, z)
        log_u = each.flip(-1).cumsum(-1).flip(-1)
        return quantile_of(self.base, log_u.exp(), -torch.expm1(log_u))

    def inside(self, value: Tensor) -> Tensor:
        """The values, moved strictly inside the bounds of `base`; equal neighbours stay equal."""
        return inside(self.base, value)

    def edges(self, value: Tensor) -> list[Edge]:
        """The edges of the support: the lower bound for the smallest value, the upper bound for the largest.

        A bound of `base` counts only where the density is cut off.
        """
        low, high = cut_off(self.base)
        first, last = value[:, 0], value[:, -1]
        found = [] if low is None else [Edge("lower", low, (0,), _any_of(cdf_of(self.base, first), self.n))]
        return found + (
            [] if high is None else [Edge("upper", high, (self.n - 1,), _any_of(sf_of(self.base, last), self.n))]
        )

    def __repr__(self) -> str:
        return f"Ordered({self.base!r}, {self.n})"


@final
class Simplex(JointLaw):
    """The uniform distribution of n non-negative parts whose sum is at most a total.

    It is for fractions of a mixture, where the remainder is one more fraction. The remainder has the same
    distribution as each part. With n = 2 the support is a triangle.

    Args:
        n: Number of parts without the remainder, at least 2.
        total: Largest sum of the parts, above 0. In the parameters' unit.

    Raises:
        TypeError: If `total` is not one number.
        ValueError: If `n` is not a whole number of at least 2, or `total` is not finite and above 0.

    Examples:
        >>> law = Simplex(2, total=1.0)
        >>> bool((law.sample((1000,)).sum(-1) <= 1.0).all())
        True
    """

    def __init__(self, n: int, total: Number = 1.0) -> None:
        check_whole("n", n, 2)
        self.n, self.total = n, finite("Simplex(n, total)", "total", total)
        positive("Simplex(n, total)", "total", self.total)
        td.Distribution.__init__(self, event_shape=torch.Size([n]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return _Parts(self.total)

    @property
    def mean(self) -> Tensor:
        return torch.full((self.n,), self.total / (self.n + 1), dtype=torch.float64)

    @property
    def variance(self) -> Tensor:
        return self.mean**2 * self.n / (self.n + 2)

    def log_prob(self, value: Tensor) -> Tensor:
        density = math.lgamma(self.n + 1) - self.n * math.log(self.total)
        return torch.where(self.support.check(value), density, -math.inf).to(value.dtype)

    def to_normal(self, value: Tensor) -> Tensor:
        """Values of the support, (..., n), mapped to independent standard normal variables z, (..., n)."""
        rest = self.total - torch.cat([torch.zeros_like(value[..., :1]), value[..., :-1].cumsum(-1)], dim=-1)
        share = (value / rest.clamp_min(_TINY)).clamp(_TINY, 1 - _EDGE)
        return -z_of(torch.log1p(-share) * _counted(self.n, value).flip(-1), torch.zeros(()))

    def from_normal(self, z: Tensor) -> Tensor:
        """Independent standard normal variables z, (..., n), mapped to values of the support, (..., n)."""
        each = torch.special.log_ndtr(-z.clamp(-_FAR, _FAR)) / _counted(self.n, z).flip(-1)
        rest = math.log(self.total) + each.cumsum(-1) - each
        return -torch.expm1(each) * rest.exp()

    def inside(self, value: Tensor) -> Tensor:
        """The values, moved so that no part is 0 and that the sum, with any rounding, is below the total."""
        info = torch.finfo(value.dtype)
        value = value.clamp_min(info.tiny)
        room = 1 - 2 * self.n * info.eps
        sum_ = value.double().sum(-1, keepdim=True) / self.total
        return torch.where(sum_ > room, value * (room / sum_), value).to(value.dtype)

    def edges(self, value: Tensor) -> list[Edge]:
        """The edges of the support: 0 for each part, and the total for the sum of the parts."""
        shares = torch.cat([value, self.total - value.sum(-1, keepdim=True)], dim=-1) / self.total
        between = [_any_of(share.clamp(0, 1), self.n) for share in shares.unbind(-1)]
        found = [Edge("lower", 0.0, (k,), v) for k, v in enumerate(between[:-1])]
        return [*found, Edge("upper", self.total, tuple(range(self.n)), between[-1])]

    def __repr__(self) -> str:
        return f"Simplex({self.n}, total={self.total:g})"


@final
class _Increasing(constraints.Constraint):
    """The constraint that values lie in a support and do not decrease."""

    event_dim: ClassVar[int] = 1  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, each: constraints.Constraint) -> None:
        self.each = each

    def check(self, value: Tensor) -> Tensor:
        """Whether the constraint holds, (..., n) -> (...,)."""
        return self.each.check(value).all(-1) & (value.diff(dim=-1) >= 0).all(-1)


@final
class _Parts(constraints.Constraint):
    """The constraint that parts are not negative, and that their sum is at most a total."""

    event_dim: ClassVar[int] = 1  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, total: float) -> None:
        self.total = total

    def check(self, value: Tensor) -> Tensor:
        """Whether the constraint holds, (..., n) -> (...,)."""
        return (value >= 0).all(-1) & (value.sum(-1) <= self.total)


def _any_of(p: Tensor, n: int) -> Tensor:
    """The probability 1 - (1 - p)^n that any of n independent events of probability p happens."""
    return -torch.expm1(n * torch.log1p(-p.clamp_max(1 - _EDGE)))


def _counted(n: int, like: Tensor) -> Tensor:
    """The numbers 1 ... n, float64, on the device of `like`."""
    return torch.arange(1, n + 1, dtype=torch.float64, device=like.device)


def z_of(log_v: Tensor, most: Tensor) -> Tensor:
    """Phi^-1(v) from log v, where log v is at most `most`.

    Both tails are computed from the smaller of v and 1 - v.
    """
    log_v = torch.minimum(log_v, most.to(log_v))
    lower, upper = log_v.exp().clamp_min(_TINY), (-torch.expm1(log_v)).clamp_min(_TINY)
    z = torch.special.ndtri(torch.minimum(lower, upper))
    return torch.where(lower < upper, z, -z)


def _flat(law: td.Uniform, value: Tensor) -> Tensor:
    """The log density of a uniform distribution at values of its support, including the bounds."""
    return -(law.high - law.low).log().to(value).expand_as(value)
