"""Checks of arguments that several functions share."""

from __future__ import annotations

import math
import re
from typing import Any

_RUN_BY_SPREADSHEETS = "=+-@"


def check_parameter_name(name: Any) -> None:
    """Refuse a name that a table cannot carry, or that a spreadsheet would run as a formula.

    Raises:
        ValueError: If it is one.
    """
    if not isinstance(name, str) or not name.isprintable() or name != name.strip() or not 0 < len(name) <= 200:
        raise ValueError(f"a parameter is named {name!r}; give it a name of printable characters in one line")
    if name[0] in _RUN_BY_SPREADSHEETS:
        raise ValueError(
            f"a parameter is named {name!r}: spreadsheets run what begins with one of {_RUN_BY_SPREADSHEETS}; rename it"
        )


def is_whole(value: Any, least: int) -> bool:
    """Whether a value is an int of at least `least`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuse an argument that is no int of at least `least`.

    Raises:
        ValueError: If it is not; the message names it.
    """
    if not is_whole(value, least):
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_positive(**values: Any) -> None:
    """Refuse arguments, given by their names, that are no ints of at least 1.

    Raises:
        ValueError: Naming the first one that is not.
    """
    for name, value in values.items():
        check_whole(name, value, 1)


def check_from_zero(name: str, value: Any, below: float) -> None:
    """Refuse an argument that is no number of at least 0 and below another; True and False are none.

    Raises:
        ValueError: If it is not; the message names it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < below:
        words = "finite" if below == math.inf else f"below {below:g}"
        raise ValueError(f"{name} must be a number of at least 0, {words}, got {value!r}")


def check_workers(value: Any) -> None:
    """Refuse a number of workers that is no int of at least 1, and not "auto".

    Raises:
        ValueError: If it is neither.
    """
    if value != "auto" and not is_whole(value, 1):
        raise ValueError(f'workers must be an integer of at least 1, or "auto", got {value!r}')


def check_unit(unit: Any, where: str) -> None:
    """Refuse a unit that astropy does not read; "" is dimensionless.

    Args:
        unit: What was given.
        where: What it is the unit of, for the message.

    Raises:
        ValueError: If it does not read it. The message says what to write.
    """
    if unit == "" or (error := _unread(unit)) is None:
        return
    unknown = [word for word in re.findall(r"[^\W\d]+", str(unit)) if _unread(word)]
    without = re.sub(rf"\b({'|'.join(map(re.escape, unknown))})\d*\b", "1", str(unit)) if unknown else ""
    without = without.removeprefix("1 ")
    way_out = "Units are written like 'km', 'm / s2', '1 / h', 'mV'"
    if without and _unread(without) is None:
        write = "leave the unit out" if without == "1" else f"write {without!r}"
        way_out = f"What is counted has no unit: if {unknown[0]!r} counts things, {write}"
    reason = str(error).partition("If this is meant")[0].strip()  # what follows is for who defines units
    raise ValueError(
        f"the unit {unit!r} of {where} is not one astropy knows: {reason}{'' if reason[-1] in '.?' else '.'} {way_out}"
    ) from error


def _unread(unit: Any) -> Exception | None:
    """Why astropy does not read a unit; None if it does."""
    from astropy import units

    try:
        units.Unit(unit)
    except (ValueError, TypeError) as error:
        return error
    return None
