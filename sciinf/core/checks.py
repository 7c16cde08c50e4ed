"""Checks of arguments that several functions share."""

from __future__ import annotations

from typing import Any


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
