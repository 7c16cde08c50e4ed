"""Conversion of parameters that are given with a unit to numbers in the units of the prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def numbers_in(value: Any, unit: str, what: str) -> np.ndarray:
    """A value as numbers in a unit.

    Args:
        value: A number or an array, taken to be in `unit`, or a quantity of astropy, which is converted.
        unit: The unit; "" for dimensionless.
        what: The name of the value, for messages.

    Raises:
        ValueError: If the value's own unit does not convert.
    """
    own = getattr(value, "unit", None)
    if own is None:
        return np.asarray(value)
    from astropy import units

    try:
        return np.asarray(units.Quantity(value).to_value(units.Unit(unit)))
    except (units.UnitConversionError, ValueError, TypeError) as error:
        raise ValueError(
            f"{what} is given in {str(own)!r}, which does not convert to {unit!r}: {error}; give it in a unit that does"
        ) from error


def theta_in(theta: Any, names: Sequence[str], units: Sequence[str]) -> Tensor:
    """The parameters theta as a tensor, (*batch, D), in their units; a quantity of astropy is converted.

    Args:
        theta: Parameters, (*batch, D): numbers in their units, or a quantity of astropy.
        names: Names of the D parameters.
        units: Units of the parameters, in the same order.

    Raises:
        ValueError: If theta has a unit that does not convert to that of a parameter, or a quantity of astropy
            does not have D columns.
    """
    if getattr(theta, "unit", None) is None:
        return torch.as_tensor(theta)
    if not theta.ndim or theta.shape[-1] != len(names):
        raise ValueError(
            f"theta has shape {theta.shape}, expected (..., {len(names)}): one column for each of {tuple(names)}"
        )
    columns = [numbers_in(theta[..., i], units[i], f"parameter {name!r}") for i, name in enumerate(names)]
    return torch.from_numpy(np.stack(columns, axis=-1))


def truth_in(
    truth: Mapping[str, Any] | None,
    names: Sequence[str],
    units: Sequence[str],
    labels: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, float]:
    """The true values of parameters as numbers in the units of an answer.

    The number for a discrete parameter is the index of its true label.

    Args:
        truth: Parameter -> true value: a number, a quantity of astropy, or a label of a discrete parameter.
            None for no true values.
        names: Names of the answer's parameters.
        units: Units of the answer's parameters, in the same order.
        labels: Discrete parameter -> the labels of its values.

    Raises:
        ValueError: If a name is not one of the answer's parameters, a unit does not convert, a value is not a
            single number, or a label is unknown.
    """
    known = dict(zip(names, units, strict=True))
    if unknown := sorted(set(truth or {}) - set(known)):
        raise ValueError(f"truth is given for {unknown}, the answer has {sorted(known)}; name only these")
    found = {}
    for name, value in (truth or {}).items():
        if of := (labels or {}).get(name):
            if str(value) not in of:
                raise ValueError(f"the true {name!r} is {value!r}; expected one of {', '.join(of)}")
            found[name] = float(list(of).index(str(value)))
            continue
        number = numbers_in(value, known[name], f"the true {name!r}")
        if number.size != 1:
            raise ValueError(f"truth has {number.size} values of {name!r}; give a single one")
        found[name] = float(number.reshape(()))
    return found
