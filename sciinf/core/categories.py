"""The values of discrete parameters in draws, with their labels and probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from sciinf.core.prior import Prior

ABSENT = "NaN: the parameter does not exist in this draw"
"""What files say of a column that has such draws."""


@dataclass(frozen=True)
class Categories:
    """The values of one discrete parameter.

    Args:
        values: The K numbers that stand for the values in draws.
        labels: Label of each value. For a counted parameter, the number itself as text.
        prior: Prior probability of each value, given that the parameter exists. These probabilities sum to 1.
        exact: Posterior probability of each value, if known without draws, else empty. These probabilities
            sum to the probability that the parameter exists.
    """

    values: tuple[float, ...]
    labels: tuple[str, ...]
    prior: tuple[float, ...]
    exact: tuple[float, ...] = ()

    @property
    def numbered(self) -> bool:
        """Whether the values are counted numbers, not codes of labels."""
        return self.labels == tuple(str(int(value)) for value in self.values)

    def value(self, name: str, wanted: object) -> float:
        """The number that stands in draws for a label, or for a counted number.

        Args:
            name: Name of the parameter, for the message.
            wanted: The label, or the counted number.

        Raises:
            ValueError: If there is no such value.
        """
        said = str(wanted)
        if isinstance(wanted, bool) or said not in self.labels:
            raise ValueError(f"{name!r} is never {wanted!r}; it is one of {', '.join(self.labels)}")
        return self.values[self.labels.index(said)]

    def label(self, value: float) -> str:
        """The label of a number that stands in draws."""
        return self.labels[self.values.index(float(value))]

    def shown(self, column: Float[np.ndarray, " n"]) -> np.ndarray:
        """The values of draws for people and tables, (n,).

        Counted numbers stay as they are. Other values become their labels, and None where the parameter does
        not exist.
        """
        if self.numbered:
            return column
        there = np.isfinite(column)
        found = np.full(len(column), None, dtype=object)
        found[there] = np.array(self.labels, dtype=object)[np.searchsorted(self.values, column[there])]
        return found

    def to_json(self) -> dict[str, Any]:
        said = {k: list(getattr(self, k)) for k in ("values", "labels", "prior")}
        return {**said, **({"exact": list(self.exact)} if self.exact else {})}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Categories:
        return cls(**{k: tuple(v) for k, v in data.items()})


def categories_of(prior: Prior, exact: Mapping[str, tuple[float, ...]] | None = None) -> dict[str, Categories]:
    """The discrete parameters of a prior: name -> values; empty if the prior has none.

    Args:
        prior: The prior.
        exact: Name -> posterior probability of each value, for parameters for which it is known without
            draws.
    """
    found = {}
    for name, law in prior.discrete().items():
        probabilities = tuple(law.log_probs.exp().tolist())
        found[name] = Categories(tuple(law.values.tolist()), law.labels, probabilities, (exact or {}).get(name, ()))
    return found


def without_exact(categories: Mapping[str, Categories]) -> dict[str, Categories]:
    """The categories without their exact probabilities, which do not hold for a selection of the draws."""
    return {name: replace(one, exact=()) for name, one in categories.items()}
