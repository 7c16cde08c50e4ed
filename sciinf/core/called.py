"""Errors for calls with an unknown keyword, with a suggestion and the keywords that exist."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def guess(name: str, known: Iterable[str]) -> str:
    """The question "; did you mean ...?" at the end of a message; "" if no known name is similar."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_keywords(function: Callable[..., object], what: str, given: Iterable[str]) -> None:
    """Raise an error for keywords that a function does not take.

    Args:
        function: The function.
        what: Name of the function, for the message.
        given: Names of the given keywords.

    Raises:
        TypeError: If the function does not take a keyword. The message suggests a similar keyword.
    """
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind is not inspect.Parameter.POSITIONAL_ONLY and p.name != "self"]
    for name in given:
        if name not in known:
            raise TypeError(f"{what} takes no {name!r}, it takes {', '.join(known)}{guess(name, known)}")


def hinted(what: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator that makes a function suggest a similar keyword if it gets one that it does not take.

    Args:
        what: Name of the function, for the message.
    """

    def around(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            check_keywords(function, what, kwargs)
            return function(*args, **kwargs)

        return called

    return around
