"""Checks of the numbers that a law is made from. A message shows the law's call, the argument and its value."""

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
    """The argument as a number of float64.

    Args:
        call: The law as it is called, for messages: "Normal(mean, sd)".
        argument: Its name.
        value: What was given.

    Raises:
        TypeError: If it is not one number.
        ValueError: If it is infinite or NaN.
    """
    where = f"{call}: {argument} = {value!r}"
    if type(value).__module__.split(".")[0] in ("astropy", "pint"):
        raise TypeError(
            f"{where} has a unit. Give a plain number; the unit stands once, beside the law: Prior(name=(law, 'km'))"
        )
    is_bool = isinstance(value, bool | np.bool_) or (isinstance(value, torch.Tensor) and value.dtype == torch.bool)
    if isinstance(value, str | bytes | complex) or is_bool or not isinstance(value, SupportsFloat):
        raise TypeError(f"{where} must be one number")
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim:
        raise TypeError(
            f"{call}: {argument} has shape {tuple(value.shape)} and must be one number: each parameter gets a law of "
            "its own"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{where} must be finite")
    return number


def positive(call: str, argument: str, number: float, otherwise: str = "") -> None:
    """Refuse a number that is not above 0.

    Args:
        call: The law as it is called, for messages.
        argument: The argument's name.
        number: Its value.
        otherwise: What to do, for the message.

    Raises:
        ValueError: If it is not.
    """
    if not number > 0:
        raise ValueError(f"{call}: {argument} = {number:g} must be above 0" + (f"; {otherwise}" if otherwise else ""))


def as_torch_checks(name: str, law: td.Distribution) -> None:
    """Refuse what torch does when a law is made, unless a package has switched that off for the process, as sbi does.

    Args:
        name: The parameter's name, for messages.
        law: The law, with the numbers it was made from.

    Raises:
        ValueError: If a number is not one that the law allows.
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
            raise ValueError(f"parameter {name!r} has the law {law!r} with {argument}={value:g}, expected {constraint}")
    if isinstance(law, td.Uniform) and not bool(law.low < law.high):
        raise ValueError(f"parameter {name!r} has the law {law!r}, expected low < high")
