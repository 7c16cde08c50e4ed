"""Placeholders in the arguments and input files of external programs.

`{name}` stands for a value, `{name:.8e}` for a number in a format of Python's `format`, and `{{name}}` for the text
`{name}` itself. Braces around anything that is no name, as in JSON or C, are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from sciinf.wrappers.named_function import suggest

_NAME = r"([A-Za-z_]\w*)(?::([^{}\n]*))?"
_PLACEHOLDER = re.compile(rf"\{{\{{(?P<literal>{_NAME})\}}\}}|\{{(?P<field>{_NAME})\}}")


def names_in(text: str, known: Sequence[str], numbers: Sequence[str], *, where: str) -> set[str]:
    """The names that a text has placeholders for.

    Args:
        text: The text.
        known: Names that have a value.
        numbers: Those of them that may have a format.
        where: How messages call the text.

    Raises:
        ValueError: If one is unknown, or its format fits no number.
    """
    found = set()
    for match in _PLACEHOLDER.finditer(text):
        if match["literal"] is not None:
            continue
        name, _, form = match["field"].partition(":")
        if name not in known:
            raise ValueError(
                f"{where} has the placeholder {{{match['field']}}}{suggest(name, known)}; known are {sorted(known)}. "
                f"To have it as text, double its braces: {{{{{match['field']}}}}}"
            )
        if form and name not in numbers:
            raise ValueError(f"{where} has the placeholder {{{match['field']}}}; only {sorted(numbers)} take a format")
        try:
            format(1.0, form)
        except ValueError as error:
            raise ValueError(f"{where} has the placeholder {{{match['field']}}}: {error}") from error
        found.add(name)
    return found


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with its placeholders filled in; numbers in `values` are given as decimal text."""

    def one(match: re.Match[str]) -> str:
        if match["literal"] is not None:
            return "{" + match["literal"] + "}"
        name, _, form = match["field"].partition(":")
        return format(float(values[name]), form) if form else values[name]

    return _PLACEHOLDER.sub(one, text)


def decimal(value: np.floating) -> str:
    """The shortest decimal that reads back as the same number in its own precision: float32 0.1 is "0.1"."""
    return str(value)
