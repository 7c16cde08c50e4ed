"""Derived quantities, such as a sum or a ratio of parameters, computed from posterior draws; and labels.

Derived quantities and labels change nothing in simulation or training. A derived quantity is computed from
each draw, so the draws keep their weights. The quantity is as accurate as the joint distribution of the
draws. A parameter that does not exist in a draw is NaN there. A quantity that is NaN in such a draw does not
exist there either. A parameter with labels is passed to the functions as an array of text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sciinf.core.categories import categories_of
from sciinf.core.checks import check_parameter_name, check_unit
from sciinf.core.draws import Draws
from sciinf.core.precision import rounded_away

if TYPE_CHECKING:
    from sciinf.core.simulator import Simulator

Values = Mapping[str, np.ndarray]
"""Parameter -> its values in the prior's unit, (n,), float64, not to be written to."""
Function = Callable[[Values], Any]
"""Makes the values of a quantity, (n,), or a quantity of astropy, of those of the parameters."""
_TRIED = 1_000  # number of draws of the prior with which functions are tested
_ALONE = 1e-9  # largest relative difference between a value computed alone and among other draws


def with_derived(draws: Draws, simulator: Simulator | None) -> Draws:
    """The draws with the simulator's derived quantities as further columns, and with its labels.

    Args:
        draws: Draws of the simulator's parameters.
        simulator: The simulator, with `derived` and `labels`; None leaves the draws as they are.

    Raises:
        TypeError: If a derived quantity is not a function, alone or with a unit.
        ValueError: If a name is taken or unknown, a unit is unknown, or a label is not one line of text. Also
            if a function fails, returns a wrong shape or unit, or a value that is not finite, or if its value
            for a draw depends on other draws.
    """
    if simulator is None or not (simulator.derived or simulator.labels):
        return draws
    theta = draws.theta.detach().cpu().double()
    given = {name: theta[:, i].numpy().copy() for i, name in enumerate(draws.names)}
    given |= {name: one.shown(given[name]) for name, one in draws.categories.items()}
    some = theta.isnan().any(1).numpy() if draws.categories else np.zeros(len(theta), dtype=bool)
    for values in given.values():
        values.setflags(write=False)
    units, columns = list(draws.units), []
    for name, what in simulator.derived.items():
        _check_name(name, draws.names)
        values, unit = _computed(name, *_function_and_unit(name, what), given, some)
        columns.append(torch.from_numpy(values))
        units.append(unit)
    names = (*draws.names, *simulator.derived)
    _check_labels(simulator.labels, names)
    dtype = draws.theta.dtype
    if columns:
        more = torch.stack(columns, dim=1)
        lost = more.float().isinf().any() or _rounded(more)
        dtype = torch.float64 if lost else dtype
        theta = torch.cat([theta, more], dim=1)
    return replace(
        draws,
        names=names,
        units=tuple(units),
        theta=theta.to(dtype),
        derived=tuple(simulator.derived),
        labels=dict(simulator.labels),
    )


def _rounded(values: torch.Tensor) -> bool:
    """Whether float32 is too coarse for quantities, (n, d), which may be NaN in some draws."""
    for column in values.T:
        there = column[~column.isnan()]
        if len(there) and rounded_away(there.mean(0, keepdim=True), there.std(0, correction=0, keepdim=True)):
            return True
    return False


def check_derived(simulator: Simulator) -> None:
    """Test derived quantities and labels on draws of the prior, so that errors appear early.

    Raises:
        TypeError: If a derived quantity is not a function.
        ValueError: For the reasons given at `with_derived`.
    """
    if not (simulator.derived or simulator.labels):
        return
    prior = simulator.prior
    theta = prior.sample(_TRIED, generator=torch.Generator().manual_seed(0))
    draws = Draws(prior.names, prior.units, theta, torch.zeros(_TRIED), categories=categories_of(prior))
    with_derived(draws, simulator)


def _function_and_unit(name: str, what: object) -> tuple[Function, str | None]:
    """The function of a quantity, and its unit, or None; from `function` or `(function, unit)`."""
    function, unit = what if isinstance(what, tuple) and len(what) == 2 else (what, None)
    if not callable(function):
        raise TypeError(
            f"the derived quantity {name!r} is {what!r}; expected a function of the parameters, alone or with a unit: "
            f"{{{name!r}: (lambda theta: theta['a'] + theta['b'], 'km')}}"
        )
    if unit is not None:
        check_unit(unit, f"the derived quantity {name!r}")
    return function, None if unit is None else str(unit)


def _computed(
    name: str, function: Function, unit: str | None, given: Values, some: np.ndarray
) -> tuple[np.ndarray, str]:
    """The values of a quantity, (n,), float64, and its unit.

    Args:
        name: Name of the quantity, for messages.
        function: The function of the parameters.
        unit: Unit of the quantity; None if no unit is given.
        given: Parameter -> its values, (n,).
        some: Whether some parameter does not exist in a draw, (n,). Values may be NaN only in these draws.
    """
    values, found_unit = _called(name, function, unit, given)
    where = np.flatnonzero(~np.isfinite(values) & ~(np.isnan(values) & some))
    if len(where):
        first = ", ".join(f"{key} = {_shown(column[where[0]])}" for key, column in given.items())
        raise ValueError(
            f"the derived quantity {name!r} is not finite for {len(where):,} of {len(values):,} draws, first at "
            f"{first}; give it a value wherever the prior reaches (numpy.where), or narrow the prior"
        )
    for row in {0, len(values) - 1}:
        alone, _ = _called(name, function, unit, {key: column[row : row + 1] for key, column in given.items()})
        if np.isnan(alone[0]) and np.isnan(values[row]):
            continue
        scale = np.abs(values[np.isfinite(values)]).mean()
        if not abs(alone[0] - values[row]) <= _ALONE * (abs(values[row]) + scale):
            raise ValueError(
                f"the derived quantity {name!r} of a draw is {values[row]:.9g} among other draws and "
                f"{alone[0]:.9g} if computed alone; it must depend only on the parameters of its own draw, "
                "without means over draws and without random numbers"
            )
    return values, found_unit


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else f"{value:.6g}"


def _called(name: str, function: Function, unit: str | None, given: Values) -> tuple[np.ndarray, str]:
    """The values that a function returns, (n,), float64, finite or not, and their unit."""
    n, own = len(next(iter(given.values()))), None
    try:
        with np.errstate(all="ignore"):
            found: Any = function(dict(given))
        if type(found).__module__.partition(".")[0] == "astropy" and isinstance(found, np.ndarray):
            own, found = str(getattr(found, "unit", "")), getattr(found, "value", found)
        values = np.array(found)
    except Exception as error:
        raise ValueError(
            f"the derived quantity {name!r} fails: {type(error).__name__}: {error}. Its function gets a mapping of "
            f"{', '.join(given)} to arrays of shape (n,), one value for each draw, which it may not write to"
        ) from error
    if values.shape != (n,) or values.dtype.kind not in "biuf":
        raise ValueError(
            f"the derived quantity {name!r} gives {values.dtype} of shape {values.shape} for {n:,} draws; expected "
            f"numbers of shape ({n},), one for each draw"
        )
    if own is not None and unit is not None:
        values = _converted(name, values, own, unit)
    return values.astype(np.float64), unit if unit is not None else own or ""


def _converted(name: str, values: np.ndarray, own: str, unit: str) -> np.ndarray:
    from astropy import units

    try:
        return np.asarray(units.Quantity(values, own).to_value(unit))
    except units.UnitConversionError as error:
        raise ValueError(
            f"the derived quantity {name!r} is in {own or 'no unit'}, which does not convert to {unit!r}; correct the "
            "function, or the unit beside it"
        ) from error


def _check_name(name: str, taken: tuple[str, ...]) -> None:
    check_parameter_name(name)
    if name in taken or name == "log_weight":
        owner = "a parameter's" if name in taken else "that of the weights of draws"
        raise ValueError(f"the name {name!r} of a derived quantity is {owner}; give it another")


def _check_labels(labels: Mapping[str, str], names: tuple[str, ...]) -> None:
    for name, label in labels.items():
        if name not in names:
            close = get_close_matches(str(name), names, n=1)
            guess = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(names)}"
            raise ValueError(f"the label {label!r} is of {name!r}, which is no parameter or derived quantity; {guess}")
        if not isinstance(label, str) or not label.isprintable() or not label.strip():
            raise ValueError(f"the label of {name!r} is {label!r}; expected one line of text")
