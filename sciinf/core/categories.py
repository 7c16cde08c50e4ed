"""What discrete parameters of draws may be: their values, what these are called, and how likely they are."""

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
        values: The K numbers that stand for them in draws.
        labels: What each is called; of what is counted the number itself.
        prior: Probability of each before the data, given that the parameter exists; summing to 1.
        exact: Probability of each given the data, where it is known without draws; empty where not. They sum to the
            probability that the parameter exists.
    """

    values: tuple[float, ...]
    labels: tuple[str, ...]
    prior: tuple[float, ...]
    exact: tuple[float, ...] = ()

    @property
    def numbered(self) -> bool:
        """Whether the values are numbers that mean what they say, and no codes of labels."""
        return self.labels == tuple(str(int(value)) for value in self.values)

    def value(self, name: str, wanted: object) -> float:
        """The number that stands for a label, or for a number that is counted.

        Args:
            name: Of the parameter, for the message.
            wanted: The label, or the number.

        Raises:
            ValueError: If there is no such value.
        """
        said = str(wanted)
        if isinstance(wanted, bool) or said not in self.labels:
            raise ValueError(f"{name!r} is never {wanted!r}; it is one of {', '.join(self.labels)}")
        return self.values[self.labels.index(said)]

    def label(self, value: float) -> str:
        """What a number that stands in draws is called."""
        return self.labels[self.values.index(float(value))]

    def shown(self, column: Float[np.ndarray, " n"]) -> np.ndarray:
        """The values of draws for people and tables: (n,) of labels, None where there is none; numbers as they are."""
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
    """The discrete parameters of a prior; none of a continuous one.

    Args:
        prior: The prior.
        exact: Name -> probability of each value given the data, where it is known without draws.
    """
    found = {}
    for name, law in prior.discrete().items():
        probabilities = tuple(law.log_probs.exp().tolist())
        found[name] = Categories(tuple(law.values.tolist()), law.labels, probabilities, (exact or {}).get(name, ()))
    return found


def without_exact(categories: Mapping[str, Categories]) -> dict[str, Categories]:
    """The same, of draws that are some of those whose probabilities are known."""
    return {name: replace(one, exact=()) for name, one in categories.items()}
