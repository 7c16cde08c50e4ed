"""Parameters that are given with a unit: numbers in the prior's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def numbers_in(value: Any, unit: str, what: str) -> np.ndarray:
    """A value as numbers in a unit; without one of its own it is taken to be in that.

    Args:
        value: A number, an array, or a quantity of astropy.
        unit: The unit; "" for dimensionless.
        what: Whose value it is, for messages.

    Raises:
        ValueError: If its own unit does not convert.
    """
    own = getattr(value, "unit", None)
    if own is None:
        return np.asarray(value)
    from astropy import units

    try:
        return np.asarray(units.Quantity(value).to_value(units.Unit(unit)))
    except (units.UnitConversionError, ValueError, TypeError) as error:
        raise ValueError(f"{what} is given in {str(own)!r}, which does not convert to {unit!r}: {error}") from error


def theta_in(theta: Any, names: Sequence[str], units: Sequence[str]) -> Tensor:
    """Parameters (*batch, D) as a tensor, a quantity of astropy converted to the unit of each.

    Raises:
        ValueError: If it has a unit that does not convert to that of a parameter, or not D columns.
    """
    if getattr(theta, "unit", None) is None:
        return torch.as_tensor(theta)
    if not theta.ndim or theta.shape[-1] != len(names):
        raise ValueError(f"theta has shape {theta.shape}, expected (..., {len(names)}) for {tuple(names)}")
    columns = [numbers_in(theta[..., i], units[i], f"parameter {name!r}") for i, name in enumerate(names)]
    return torch.from_numpy(np.stack(columns, axis=-1))


def truth_in(
    truth: Mapping[str, Any] | None,
    names: Sequence[str],
    units: Sequence[str],
    labels: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, float]:
    """True values, parameter -> number or quantity of astropy, in the units of an answer.

    Args:
        truth: The values.
        names: Of the answer's parameters.
        units: Theirs.
        labels: Discrete parameter -> what its values are called; a true value is one of these, its place the number.

    Raises:
        ValueError: If a name is none of the answer's, a unit does not convert, or a value is not one number, or none
            of the labels.
    """
    known = dict(zip(names, units, strict=True))
    if unknown := sorted(set(truth or {}) - set(known)):
        raise ValueError(f"truth is given for {unknown}, the answer has {sorted(known)}")
    found = {}
    for name, value in (truth or {}).items():
        if of := (labels or {}).get(name):
            if str(value) not in of:
                raise ValueError(f"the true {name!r} is {value!r}; expected one of {', '.join(of)}")
            found[name] = float(list(of).index(str(value)))
            continue
        number = numbers_in(value, known[name], f"the true {name!r}")
        if number.size != 1:
            raise ValueError(f"truth has {number.size} values of {name!r}; give one")
        found[name] = float(number.reshape(()))
    return found
