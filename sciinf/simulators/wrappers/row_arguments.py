"""Arguments with which a user's function is called, from the rows of theta.

A continuous parameter is passed as a number, a count as an int, and a choice as its label. All parameters of an `Each`
are passed as one array that holds only the existing ones. A parameter that does not exist is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sciinf.core import Choice, Prior
from sciinf.core.existence import ABSENT
from sciinf.core.levels import Levels


def rows_of(prior: Prior, columns: Mapping[str, np.ndarray]) -> Callable[[int], dict[str, Any]]:
    """Function from the number of a row to the arguments of that row, name -> value.

    Args:
        prior: Prior of the parameters.
        columns: Name of each parameter -> its values, float64 array (batch,).
    """
    if plain(prior):
        return lambda i: {k: float(v[i]) for k, v in columns.items()}
    laws, arguments, each = prior.discrete(), prior.arguments, prior.existence.each

    def row(i: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, of in arguments.items():
            values = [_value(laws.get(column), float(columns[column][i])) for column in of]
            found[name] = np.array([v for v in values if v is not None]) if name in each else values[0]
        return found

    return row


def batch_of(prior: Prior, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arguments of all rows at once, name -> array, for a vectorised function.

    Arrays are (batch,); those of a choice hold labels. The array of an `Each` is (batch, most). A parameter that does
    not exist is NaN, or the label "".

    Args:
        prior: Prior of the parameters.
        columns: Name of each parameter -> its values, float64 array (batch,).
    """
    if plain(prior):
        return dict(columns)
    laws, each, found = prior.discrete(), prior.existence.each, {}
    for name, of in prior.arguments.items():
        values = [_values(laws.get(column), columns[column]) for column in of]
        found[name] = np.stack(values, axis=1) if name in each else values[0]
    return found


def plain(prior: Prior) -> bool:
    """Whether every parameter of a prior is one continuous number that exists in every row."""
    return not prior.mixed and not prior.existence.each


def absent_words(arguments: Mapping[str, Any]) -> str:
    """Text for a failure message that names the arguments which do not exist in a row; empty if all exist."""
    gone = [repr(name) for name, value in arguments.items() if value is None]
    return f" ({' and '.join(gone)} {ABSENT} and {'is' if len(gone) == 1 else 'are'} None)" if gone else ""


def check_plain(prior: Prior, what: str) -> None:
    """Raise an error if a prior has discrete parameters or an `Each`.

    Args:
        prior: Prior to be checked.
        what: Name of the wrapper that passes every parameter as one number, for the error message.

    Raises:
        ValueError: If the prior has such parameters. The message says what to use instead.
    """
    if not plain(prior):
        raise ValueError(
            f"{what} passes each parameter as a number, and some of {', '.join(prior.arguments)} are labels, counts or "
            "do not always exist; call it from a function of Python, with sciinf.wrappers.numpy"
        )


def _value(law: Levels | None, value: float) -> Any:
    if np.isnan(value):
        return None
    if law is None:
        return value
    return law.labels[int(value)] if isinstance(law, Choice) else int(value)


def _values(law: Levels | None, values: np.ndarray) -> np.ndarray:
    if law is None or (not isinstance(law, Choice) and np.isnan(values).any()):
        return values
    if not isinstance(law, Choice):
        return values.astype(np.int64)
    return np.array([*law.labels, ""])[np.where(np.isnan(values), len(law.labels), values).astype(np.int64)]
