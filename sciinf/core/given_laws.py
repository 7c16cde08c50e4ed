"""The distribution and the unit that a user gives for a parameter of a prior, checked and converted to torch.

Accepted are distributions of torch, which `sciinf.core.named_laws` makes as well, and frozen distributions of
scipy. For anything else, an error names the parameter, the given value, and the line to write instead.

Distributions of scipy.stats are converted to torch, so that priors written with scipy can stay as they are.
scipy shifts and scales: `dist(*shapes, loc, scale)` has the density p((value - loc) / scale; shapes) / scale.
torch has other parameters: a rate is 1 / scale, and the mean of a logarithm is log(scale). Most distributions
of positive values in torch cannot be shifted, so a `loc` other than 0 is refused for them. scipy itself is
never imported here.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import named_laws
from sciinf.core.law_arguments import finite, positive
from sciinf.core.laws import Truncated


def _double(make: Callable[..., td.Distribution], *numbers: float) -> td.Distribution:
    return make(*(torch.tensor(number, dtype=torch.float64) for number in numbers))


def _truncated(a: float, b: float, loc: float, scale: float) -> Truncated:
    low, high = (None if math.isinf(edge) else loc + edge * scale for edge in (a, b))
    return Truncated(named_laws.Normal(loc, scale), low, high)


# Distributions that can be shifted: each function takes scipy's shapes, loc and scale.
_PLACED: dict[str, Callable[..., td.Distribution]] = {
    "cauchy": named_laws.Cauchy,
    "gumbel_r": lambda loc, scale: _double(td.Gumbel, loc, scale),
    "laplace": named_laws.Laplace,
    "norm": named_laws.Normal,
    "t": named_laws.StudentT,
    "truncnorm": _truncated,
    "uniform": lambda loc, scale: named_laws.Uniform(loc, loc + scale),
}
# Distributions of positive values: each function takes scipy's shapes and scale, because loc must be 0.
# The scale of `beta` must be 1, because torch's Beta ends at 1.
_POSITIVE: dict[str, Callable[..., td.Distribution]] = {
    "beta": lambda a, b, scale: named_laws.Beta(a, b),
    "chi2": lambda df, scale: named_laws.Gamma(df / 2, 0.5 / scale),
    "expon": lambda scale: named_laws.Exponential(1 / scale),
    "gamma": lambda a, scale: named_laws.Gamma(a, 1 / scale),
    "halfcauchy": named_laws.HalfCauchy,
    "halfnorm": named_laws.HalfNormal,
    "invgamma": lambda a, scale: _double(td.InverseGamma, a, scale),
    "lognorm": lambda s, scale: named_laws.LogNormal(math.log(scale), s),
    "loguniform": lambda a, b, scale: named_laws.LogUniform(a * scale, b * scale),
    "pareto": lambda b, scale: _double(td.Pareto, scale, b),
    "reciprocal": lambda a, b, scale: named_laws.LogUniform(a * scale, b * scale),
    "weibull_min": lambda c, scale: _double(td.Weibull, scale, c),
}
ACCEPTED = tuple(sorted(_PLACED | _POSITIVE))
"""Names in scipy.stats of the distributions that there is a law for."""


def torch_law(name: str, law: Any) -> td.Distribution:
    """The distribution of torch, in float64, that equals a frozen distribution of scipy.stats.

    Args:
        name: Name of the parameter, for messages.
        law: The frozen distribution, such as `scipy.stats.norm(0, 1)`.

    Raises:
        TypeError: If `law` is not a frozen continuous univariate distribution, or has no equal here. The
            message lists the distributions that are accepted.
        ValueError: If its arguments are out of range, or if it has a loc or scale that torch's
            distribution lacks.
    """
    kind = getattr(law, "dist", None)
    if type(law).__name__ != "rv_continuous_frozen" or kind is None:
        raise TypeError(f"parameter {name!r} is {_described(law)}. {_ways_out()}")
    known = kind.name in ACCEPTED and type(kind).__module__.startswith("scipy.")
    if not known:
        raise TypeError(
            f"parameter {name!r} is scipy's distribution {kind.name!r}, which is unknown here. {_ways_out()}"
        )
    where = f"parameter {name!r}, scipy.stats.{kind.name}"
    *shapes, loc, scale = _arguments(where, kind, law)
    positive(where, "scale", scale)
    if kind.name in _PLACED:
        return _made(where, _PLACED[kind.name], (*shapes, loc, scale))
    if loc:
        raise ValueError(
            f"{where}: loc = {loc:g} must be 0, because this distribution cannot be shifted here. Take "
            f"{name} without the shift as the parameter, and add {loc:g} in the simulator"
        )
    if kind.name == "beta" and scale != 1:
        raise ValueError(
            f"{where}: scale = {scale:g} must be 1, because torch's Beta ends at 1. Take {name} / {scale:g} "
            f"as the parameter, and multiply by {scale:g} in the simulator"
        )
    return _made(where, _POSITIVE[kind.name], (*shapes, scale))


def _arguments(where: str, kind: Any, law: Any) -> list[float]:
    """The shapes, loc (default: 0) and scale (default: 1) of a frozen distribution, in this order."""
    shapes = [shape.strip() for shape in kind.shapes.split(",")] if kind.shapes else []
    names = [*shapes, "loc", "scale"]
    given = {"loc": 0.0, "scale": 1.0, **dict(zip(names, law.args, strict=False)), **law.kwds}
    edges = ("a", "b") if kind.name == "truncnorm" else ()
    return [_edge(where, n, given[n]) if n in edges else finite(where, n, given[n]) for n in names]


def _edge(where: str, argument: str, value: Any) -> float:
    """A bound as a number, which may be infinite."""
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


_SHOWN = 120  # largest number of characters of a value in a message
_TAKE = f"Take a law of sciinf ({', '.join(named_laws.__all__)}, Truncated), of torch.distributions or of scipy.stats"


def law_and_unit(name: str, value: object) -> tuple[td.Distribution, Any]:
    """The distribution of a parameter, and its unit.

    A unit of astropy is returned as text, any other unit as given. Without a unit, "" is returned.

    Args:
        name: Name of the parameter, for messages.
        value: `law` or `(law, unit)`, where `law` is the distribution.

    Raises:
        TypeError: If `value` is neither. The message says what was probably meant.
        ValueError: If a distribution of scipy has arguments that are out of range.
    """
    law, unit = value if isinstance(value, tuple) and len(value) == 2 else (value, "")
    if _package(law) == "scipy":
        law = torch_law(name, law)
    if not isinstance(law, td.Distribution):
        shown = " ".join(repr(value).split())
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        raise TypeError(f"parameter {name!r} is {shown}; expected a law, alone or as (law, unit). {_cure(name, value)}")
    if isinstance(unit, Real):
        raise TypeError(
            f"parameter {name!r} has the unit {unit!r}, a number; expected text, such as {name}=(law, 'km'), or a unit "
            "of astropy. Without a unit, give the law alone"
        )
    return law, str(unit) if _is_unit(unit) else unit


def _cure(name: str, value: object) -> str:
    """A sentence that says what to write instead of a value that is no distribution."""
    thing, unit = _parted(value)
    if isinstance(thing, td.Distribution):
        stands = f"{name}=(law, {unit!r})" if unit else f"{name}=law, or {name}=(law, 'km')"
        return f"A law and its unit stand in round brackets, the law first: {stands}"
    kind = thing.__name__ if isinstance(thing, type) or inspect.isfunction(thing) else ""
    if _is_law_class(thing) or (kind in named_laws.__all__ and thing is getattr(named_laws, kind)):
        return f"{kind} has no numbers yet: write {_line(name, _call(kind), unit)}"
    if _package(thing) == "numpyro":
        kind = type(thing).__name__
        same = (
            f"write {_line(name, _call(kind), unit)} with {kind} from sciinf" if kind in named_laws.__all__ else _TAKE
        )
        return (
            f"This is a law of numpyro: {same}. A whole numpyro model comes in by sciinf.wrappers.numpyro, which "
            "translates its laws"
        )
    numbers, unit = _numbers(thing, unit)
    if numbers is not None:
        return _of_numbers(name, numbers, unit)
    if isinstance(thing, str):
        return f"A law is no text: write {_line(name, 'Normal(0, 1)', unit)} with Normal from sciinf"
    return _TAKE


def _of_numbers(name: str, numbers: list[float], unit: str) -> str:
    if len(numbers) == 1:
        return (
            "A value that is known goes into the simulator, as a constant, and not into the prior. If it has an error, "
            f"write {_line(name, f'Normal({numbers[0]:.10g}, sd)', unit)}"
        )
    if len(numbers) == 2:
        low, high = numbers
        if low < high:
            return f"Did you mean {_line(name, f'Uniform({low:.10g}, {high:.10g})', unit)}?"
        return f"Did you mean {_line(name, 'Uniform(low, high)', unit)}, or {_line(name, 'Normal(mean, sd)', unit)}?"
    return (
        f"{len(numbers)} numbers are no law. A parameter is one number: give each of several its own name and law, or "
        "use Prior.joint(names, law, units). Values drawn elsewhere: write the law that they were drawn from"
    )


def _parted(value: object) -> tuple[object, str]:
    """A value without its unit, and the unit; "" if the value has none."""
    if not isinstance(value, tuple | list):
        return value, ""
    laws = [part for part in value if isinstance(part, td.Distribution)]
    texts = [str(part) for part in value if isinstance(part, str) or _is_unit(part)]
    others = [part for part in value if not (isinstance(part, str) or _is_unit(part))]
    if laws:
        return laws[0], texts[0] if texts else ""
    if len(texts) == 1 and others:
        return (others[0] if len(others) == 1 else others), texts[0]
    return value, ""


def _numbers(value: Any, unit: str) -> tuple[list[float] | None, str]:
    """All numbers in a value, None if it holds anything else; and the unit, given or of a quantity."""
    parts = value if isinstance(value, tuple | list) else [value]
    found: list[float] = []
    for part in parts:
        if _package(part) == "astropy" and isinstance(part, np.ndarray):
            unit = unit or str(getattr(part, "unit", ""))
            part = _in_unit(part, unit)
        part = part.detach().cpu().numpy() if isinstance(part, Tensor) else part
        if not isinstance(part, Real | np.ndarray | np.generic):
            return None, unit
        array = np.asarray(part)
        if array.dtype.kind not in "biuf":
            return None, unit
        found += [float(number) for number in array.flatten()]
    return found or None, unit


def _in_unit(quantity: Any, unit: str) -> Any:
    """The numbers of a quantity of astropy in a unit; None if its own unit does not convert."""
    try:
        return np.asarray(quantity.to_value(unit))
    except (ValueError, TypeError, AttributeError):
        return None


def _package(value: object) -> str:
    """Name of the package that defines a value's class."""
    return type(value).__module__.partition(".")[0]


def _is_unit(value: object) -> bool:
    return _package(value) == "astropy" and not isinstance(value, np.ndarray)


def _is_law_class(value: object) -> bool:
    """Whether a value is the class of a distribution, not an instance: of torch, numpyro or scipy."""
    if not isinstance(value, type):
        return False
    return issubclass(value, td.Distribution) or value.__module__.partition(".")[0] in ("numpyro", "scipy")


def _call(kind: str) -> str:
    """The call that makes a distribution: "Normal(mean, sd)"."""
    law = getattr(named_laws, kind, None)
    return f"{kind}({', '.join(inspect.signature(law).parameters)})" if callable(law) else f"{kind}(...)"


def _line(name: str, law: str, unit: str) -> str:
    return f"{name}=({law}, {unit!r})" if unit else f"{name}={law}"
