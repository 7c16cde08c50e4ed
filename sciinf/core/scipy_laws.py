r"""Frozen distributions of scipy.stats as the same laws of torch, so that priors written with scipy can stay.

scipy shifts and stretches: `dist(*shapes, loc, scale)` has the density p((value - loc) / scale; shapes) / scale. torch
calls the same numbers otherwise (a rate is 1 / scale, the mean of a logarithm is log(scale)), and most of its laws of
positive values cannot be shifted: those with a `loc` are refused. scipy itself is never imported here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import distributions as td

from sciinf.core import named_laws as laws
from sciinf.core.law_arguments import finite, positive
from sciinf.core.laws import Truncated


def _double(make: Callable[..., td.Distribution], *numbers: float) -> td.Distribution:
    return make(*(torch.tensor(number, dtype=torch.float64) for number in numbers))


def _truncated(a: float, b: float, loc: float, scale: float) -> Truncated:
    low, high = (None if math.isinf(edge) else loc + edge * scale for edge in (a, b))
    return Truncated(laws.Normal(loc, scale), low, high)


# Each from its shapes, loc and scale: those of laws that have a place ...
_PLACED: dict[str, Callable[..., td.Distribution]] = {
    "cauchy": laws.Cauchy,
    "gumbel_r": lambda loc, scale: _double(td.Gumbel, loc, scale),
    "laplace": laws.Laplace,
    "norm": laws.Normal,
    "t": laws.StudentT,
    "truncnorm": _truncated,
    "uniform": lambda loc, scale: laws.Uniform(loc, loc + scale),
}
# ... and from its shapes and scale, with loc = 0: of positive values. `beta` ends at 1, so its scale is 1.
_POSITIVE: dict[str, Callable[..., td.Distribution]] = {
    "beta": lambda a, b, scale: laws.Beta(a, b),
    "chi2": lambda df, scale: laws.Gamma(df / 2, 0.5 / scale),
    "expon": lambda scale: laws.Exponential(1 / scale),
    "gamma": lambda a, scale: laws.Gamma(a, 1 / scale),
    "halfcauchy": laws.HalfCauchy,
    "halfnorm": laws.HalfNormal,
    "invgamma": lambda a, scale: _double(td.InverseGamma, a, scale),
    "lognorm": lambda s, scale: laws.LogNormal(math.log(scale), s),
    "loguniform": lambda a, b, scale: laws.LogUniform(a * scale, b * scale),
    "pareto": lambda b, scale: _double(td.Pareto, scale, b),
    "reciprocal": lambda a, b, scale: laws.LogUniform(a * scale, b * scale),
    "weibull_min": lambda c, scale: _double(td.Weibull, scale, c),
}
ACCEPTED = tuple(sorted(_PLACED | _POSITIVE))
"""Names in scipy.stats of the distributions that there is a law for."""


def torch_law(name: str, law: Any) -> td.Distribution:
    """The law of torch, in float64, that a frozen distribution of scipy.stats is.

    Args:
        name: The parameter, for messages.
        law: An object of scipy, such as `scipy.stats.norm(0, 1)`.

    Raises:
        TypeError: If there is no law for it, or it is no frozen continuous distribution of one number. The message
            lists those that are accepted.
        ValueError: If its numbers make no law, or it is shifted or stretched where the law cannot be.
    """
    kind = getattr(law, "dist", None)
    if type(law).__name__ != "rv_continuous_frozen" or kind is None:
        raise TypeError(f"parameter {name!r} is {_described(law)}. {_ways_out()}")
    known = kind.name in ACCEPTED and type(kind).__module__.startswith("scipy.")
    if not known:
        raise TypeError(
            f"parameter {name!r} is the distribution {kind.name!r} of scipy, which has no law here. {_ways_out()}"
        )
    where = f"parameter {name!r}, scipy.stats.{kind.name}"
    *shapes, loc, scale = _numbers(where, kind, law)
    positive(where, "scale", scale)
    if kind.name in _PLACED:
        return _made(where, _PLACED[kind.name], (*shapes, loc, scale))
    if loc:
        raise ValueError(
            f"{where}: loc = {loc:g} must be 0, for no such law is shifted here. Take {name} without the shift "
            f"as the parameter, and add {loc:g} in the simulator"
        )
    if kind.name == "beta" and scale != 1:
        raise ValueError(
            f"{where}: scale = {scale:g} must be 1, for the law here ends at 1. Take {name} / {scale:g} as the "
            f"parameter, and multiply by {scale:g} in the simulator"
        )
    return _made(where, _POSITIVE[kind.name], (*shapes, scale))


def _numbers(where: str, kind: Any, law: Any) -> list[float]:
    """Shapes, loc and scale as they were given, or scipy's own where they were left out."""
    shapes = [shape.strip() for shape in kind.shapes.split(",")] if kind.shapes else []
    names = [*shapes, "loc", "scale"]
    given = {"loc": 0.0, "scale": 1.0, **dict(zip(names, law.args, strict=False)), **law.kwds}
    edges = ("a", "b") if kind.name == "truncnorm" else ()
    return [_edge(where, n, given[n]) if n in edges else finite(where, n, given[n]) for n in names]


def _edge(where: str, argument: str, value: Any) -> float:
    """A bound, which may be infinite."""
    return value if isinstance(value, float) and math.isinf(value) else finite(where, argument, value)


def _made(where: str, make: Callable[..., td.Distribution], numbers: tuple[float, ...]) -> td.Distribution:
    try:
        return make(*numbers)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _described(law: Any) -> str:
    if callable(getattr(law, "freeze", None)):
        return f"scipy.stats.{law.name} itself, without its numbers: write scipy.stats.{law.name}(...)"
    if type(law).__name__ == "rv_discrete_frozen":
        return f"the discrete distribution {law.dist.name!r} of scipy; densities live in R^D: use a continuous one"
    return f"{type(law).__name__} of scipy, which is no frozen continuous distribution of one number"


def _ways_out() -> str:
    return (
        f"Of scipy.stats, these are taken: {', '.join(ACCEPTED)}. Or take a law of sciinf (from sciinf import Normal) "
        "or of torch.distributions; for correlated parameters, Prior.joint(names, law, units)"
    )
