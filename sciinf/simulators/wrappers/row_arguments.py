"""What a function that takes parameters by name is called with.

A number where a parameter is continuous, an int where it is counted, its label where it is one of several; all that an
`Each` stands for as one array, as long as there are parameters; None where a parameter does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sciinf.core import Choice, Prior
from sciinf.core.existence import ABSENT
from sciinf.core.levels import Levels


def rows_of(prior: Prior, columns: Mapping[str, np.ndarray]) -> Callable[[int], dict[str, Any]]:
    """The arguments of each row, by its number.

    Args:
        prior: Whose parameters they are.
        columns: Parameter -> float64 array (batch,).
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
    """The arguments of all rows at once.

    Arrays (batch,), of labels where a parameter is one of several; (batch, most) of an `Each`; NaN, or "" as a label,
    where a parameter does not exist.

    Args:
        prior: Whose parameters they are.
        columns: Parameter -> float64 array (batch,).
    """
    if plain(prior):
        return dict(columns)
    laws, each, found = prior.discrete(), prior.existence.each, {}
    for name, of in prior.arguments.items():
        values = [_values(laws.get(column), columns[column]) for column in of]
        found[name] = np.stack(values, axis=1) if name in each else values[0]
    return found


def plain(prior: Prior) -> bool:
    """Whether each parameter is one number, in every row."""
    return not prior.mixed and not prior.existence.each


def absent_words(arguments: Mapping[str, Any]) -> str:
    """Which arguments do not exist in a row, in words for the message of a failure; "" if all do."""
    gone = [repr(name) for name, value in arguments.items() if value is None]
    return f" ({' and '.join(gone)} {ABSENT} and {'is' if len(gone) == 1 else 'are'} None)" if gone else ""


def check_plain(prior: Prior, what: str) -> None:
    """Refuse a prior with discrete parameters or an `Each`, for what passes every parameter as one number.

    Raises:
        ValueError: If it has some; the message says the way out.
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
