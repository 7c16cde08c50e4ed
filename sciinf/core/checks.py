"""Checks of arguments that several functions share."""

from __future__ import annotations

import math
import re
from typing import Any

_RUN_BY_SPREADSHEETS = "=+-@"


def check_parameter_name(name: Any) -> None:
    """Refuse a parameter name that cannot stand in a table, or that a spreadsheet would run as a formula.

    Raises:
        ValueError: If the name is such a name.
    """
    if not isinstance(name, str) or not name.isprintable() or name != name.strip() or not 0 < len(name) <= 200:
        raise ValueError(
            f"a parameter is named {name!r}; give it a name of 1 to 200 printable characters, "
            "without spaces at the ends"
        )
    if name[0] in _RUN_BY_SPREADSHEETS:
        raise ValueError(
            f"a parameter is named {name!r}: spreadsheets run text that begins with one of "
            f"{_RUN_BY_SPREADSHEETS} as a formula; rename it"
        )


def is_whole(value: Any, least: int) -> bool:
    """Whether a value is an int of at least `least`; True and False do not count as ints."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuse an argument that is not an int of at least `least`.

    Raises:
        ValueError: If the argument is not such an int. The message names the argument.
    """
    if not is_whole(value, least):
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_positive(**values: Any) -> None:
    """Refuse arguments, given by their names, that are not ints of at least 1.

    Raises:
        ValueError: If an argument is not such an int. The message names the first of them.
    """
    for name, value in values.items():
        check_whole(name, value, 1)


def check_from_zero(name: str, value: Any, below: float) -> None:
    """Refuse an argument that is not a number of at least 0 and below `below`.

    True and False are refused, too.

    Raises:
        ValueError: If the argument is not such a number. The message names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < below:
        words = "finite" if below == math.inf else f"below {below:g}"
        raise ValueError(f"{name} must be a number of at least 0, {words}, got {value!r}")


def check_workers(value: Any) -> None:
    """Refuse a number of workers that is neither an int of at least 1 nor "auto".

    Raises:
        ValueError: If the value is neither.
    """
    if value != "auto" and not is_whole(value, 1):
        raise ValueError(f'workers must be an integer of at least 1, or "auto", got {value!r}')


def check_unit(unit: Any, where: str) -> None:
    """Refuse a unit that astropy does not read; "" stands for dimensionless.

    Args:
        unit: The unit as it was given.
        where: The quantity that has the unit, in words for the message.

    Raises:
        ValueError: If astropy does not read the unit. The message says what to write.
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
    # The rest of astropy's message is advice on how to define new units.
    reason = str(error).partition("If this is meant")[0].strip()
    raise ValueError(
        f"the unit {unit!r} of {where} is not one astropy knows: {reason}{'' if reason[-1] in '.?' else '.'} {way_out}"
    ) from error


def _unread(unit: Any) -> Exception | None:
    """The error of astropy on reading a unit; None if astropy reads the unit."""
    from astropy import units

    try:
        units.Unit(unit)
    except (ValueError, TypeError) as error:
        return error
    return None
