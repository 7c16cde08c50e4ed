"""Checks of the arguments of distributions; errors show the call, the argument and its value."""

from __future__ import annotations

import math
from typing import Any, SupportsFloat

import numpy as np
import torch
from torch import distributions as td
from torch.distributions import constraints

Number = SupportsFloat
"""One number: of Python or numpy, or an array or tensor of no dimensions."""


def finite(call: str, argument: str, value: Any) -> float:
    """The value of an argument as a float (float64).

    Args:
        call: The call of the distribution, for messages: "Normal(mean, sd)".
        argument: Name of the argument.
        value: The given value.

    Raises:
        TypeError: If the value is not one number.
        ValueError: If the value is infinite or NaN.
    """
    where = f"{call}: {argument} = {value!r}"
    if type(value).__module__.split(".")[0] in ("astropy", "pint"):
        raise TypeError(
            f"{where} has a unit. Give a plain number; the unit stands once, beside the distribution: "
            "Prior(name=(law, 'km'))"
        )
    is_bool = isinstance(value, bool | np.bool_) or (isinstance(value, torch.Tensor) and value.dtype == torch.bool)
    if isinstance(value, str | bytes | complex) or is_bool or not isinstance(value, SupportsFloat):
        raise TypeError(f"{where} must be one number")
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim:
        raise TypeError(
            f"{call}: {argument} has shape {tuple(value.shape)} and must be one number; give each "
            "parameter a distribution of its own"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{where} must be finite")
    return number


def positive(call: str, argument: str, number: float, otherwise: str = "") -> None:
    """Raise an error if a number is not above 0.

    Args:
        call: The call of the distribution, for messages: "Normal(mean, sd)".
        argument: Name of the argument.
        number: Value of the argument.
        otherwise: What to do instead, for the message; default: nothing.

    Raises:
        ValueError: If the number is 0, negative or NaN.
    """
    if not number > 0:
        raise ValueError(f"{call}: {argument} = {number:g} must be above 0" + (f"; {otherwise}" if otherwise else ""))


def as_torch_checks(name: str, law: td.Distribution) -> None:
    """Raise an error if a distribution has arguments that torch does not allow.

    torch makes the same checks when it creates a distribution. A package may have switched these checks off
    for the whole process, as sbi does.

    Args:
        name: Name of the parameter, for messages.
        law: The distribution with its arguments.

    Raises:
        ValueError: If an argument is outside the distribution's constraints.
    """
    base = law.__dict__.get("base_dist")
    if isinstance(base, td.Distribution):
        as_torch_checks(name, base)
    try:
        checks = law.arg_constraints
    except NotImplementedError:
        return
    for argument, constraint in checks.items():
        if constraints.is_dependent(constraint) or not isinstance(law.__dict__.get(argument), torch.Tensor):
            continue
        if not bool(constraint.check(law.__dict__[argument]).all()):
            value = law.__dict__[argument].item()
            raise ValueError(f"parameter {name!r} is {law!r}: {argument}={value:g}, expected {constraint}")
    if isinstance(law, td.Uniform) and not bool(law.low < law.high):
        raise ValueError(f"parameter {name!r} is {law!r}, expected low < high")
