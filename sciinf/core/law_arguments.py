"""Checks of the numbers that a law is made from. A message shows the law's call, the argument and its value."""

from __future__ import annotations

import math
from typing import Any, SupportsFloat

import numpy as np
import torch

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
