"""Laws of one kind as one law of many columns, whose map to z costs the calls of a single one."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core.laws import Truncated
from sciinf.core.log_uniform import LogUniform

_NUMBERS: dict[type[td.Distribution], tuple[str, ...]] = {
    td.Normal: ("loc", "scale"),
    td.LogNormal: ("loc", "scale"),
    td.Uniform: ("low", "high"),
    td.HalfNormal: ("scale",),
    td.Exponential: ("rate",),
    LogUniform: ("low", "high", "length"),
    Truncated: ("below", "above", "mass"),
}


def kind(law: td.Distribution) -> Hashable:
    """Laws whose kinds are equal are carried to z by the same calls. None where a law is to be carried by itself.

    Bounds of a truncated law choose which calls those are, so that they belong to its kind.
    """
    if isinstance(law, Truncated):
        base = kind(law.base)
        return base and (Truncated, law.low, law.high, law.upper_tail, law.lower_tail, base)
    names = _NUMBERS.get(type(law))
    return names and (type(law), *(_tensor(getattr(law, name)).dtype for name in names))


def as_one(laws: Sequence[td.Distribution]) -> td.Distribution:
    """Laws of one kind as one for values (..., n), with the numbers of each at its column.

    It has distribution functions and quantiles, and no density.

    Args:
        laws: n univariate laws of the same `kind`.
    """
    first: Any = laws[0]
    names = _NUMBERS[type(first)]
    numbers = {name: torch.stack([_tensor(getattr(law, name)) for law in laws]) for name in names}
    if not isinstance(first, Truncated | LogUniform):
        return type(first)(**numbers, validate_args=False)
    one = copy.copy(first)
    if isinstance(one, Truncated):
        one.base = as_one([law.base for law in laws if isinstance(law, Truncated)])
    for name, values in numbers.items():
        setattr(one, name, values)
    return one


def _tensor(value: Tensor | float) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
