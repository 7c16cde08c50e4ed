"""Checks of arguments that several functions share."""

from __future__ import annotations

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
