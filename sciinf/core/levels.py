"""Distributions with finitely many values: a choice among labels, and a number that is counted.

A parameter with such a distribution is a number in theta: the value of a count, or the code 0, 1, ... of a
label. The values are whole numbers without gaps. The code of a value is therefore its difference from the
smallest value.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from sciinf.core.law_arguments import finite

MOST = 512
"""How many values a law may have."""
LEFT = 1e-9
"""The probability that may be left out where a law has no last value."""


class Levels(td.Distribution, ABC):
    """A distribution with finitely many values, each of which has a label.

    Attributes:
        values: The values, (K,), float64: whole numbers without gaps.
        log_probs: The log probabilities of the values, (K,), float64.
        labels: The labels of the values, in the same order.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False
    values: Tensor
    log_probs: Tensor
    labels: tuple[str, ...]

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(int(self.values[0]), int(self.values[-1]))

    @property
    def mean(self) -> Tensor:
        return (self.log_probs.exp() * self.values).sum()

    @property
    def variance(self) -> Tensor:
        return (self.log_probs.exp() * (self.values - self.mean) ** 2).sum()

    @abstractmethod
    def code(self, value: object) -> int:
        """The code of a value, or of its label: the index in `values`.

        Raises:
            TypeError: If the argument has the wrong type for a value or label of this distribution.
            ValueError: If the distribution does not have the value or label. The message says what there is.
        """

    def codes(self, value: Tensor) -> Tensor:
        """The codes of values, int64, of any shape; -1 for NaN and for values outside the support."""
        value = value.to(torch.float64)
        code = value - self.values[0].to(value)
        valid = (code >= 0) & (code < len(self.values)) & (code == code.round())
        return torch.where(valid, code, -1.0).long()

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of values, float64; -inf for NaN and for values outside the support."""
        codes = self.codes(value)
        return torch.where(codes >= 0, self.log_probs.to(value.device)[codes.clamp_min(0)], -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of a value and of all values below it, float64."""
        place = (value.to(torch.float64) - self.values[0].to(value.device)).floor().long()
        below = torch.cat([torch.zeros(1, dtype=torch.float64), self._cumulated()]).to(value.device)
        return below[(place + 1).clamp(0, len(self.values))]

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile: the smallest value whose cumulative probability is at least `value`, float64."""
        found = torch.searchsorted(self._cumulated().to(value.device), value.to(torch.float64).contiguous())
        return self.values.to(value.device)[found.clamp_max(len(self.values) - 1)]

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.icdf(torch.rand(sample_shape, dtype=torch.float64)).to(torch.get_default_dtype())

    def _cumulated(self) -> Tensor:
        return self.log_probs.exp().cumsum(0).clamp_max(1.0)

    def _table(self, values: Tensor, log_probs: Tensor, labels: tuple[str, ...]) -> None:
        self.values, self.labels = values.to(torch.float64), labels
        self.log_probs = (log_probs - log_probs.logsumexp(0)).to(torch.float64)
        td.Distribution.__init__(self, validate_args=False)


@final
class Choice(Levels):
    """A distribution over labels, such as models, types or sources. In theta, a label is its code 0, 1, ...

    Args:
        *labels: The labels, in order. All are equally likely.
        **probabilities: Instead of `labels`: label=probability. The probabilities must add up to 1.

    Raises:
        TypeError: If a label is not text, or some labels have a probability and others do not.
        ValueError: If there are fewer than two labels or more than 512, a label occurs twice or is not
            printable, a probability is not above 0, or the probabilities do not add up to 1.

    Examples:
        >>> Choice("SIR", "SEIR").labels
        ('SIR', 'SEIR')
        >>> round(float(Choice(SIR=0.7, SEIR=0.3).log_prob(torch.tensor(1.0)).exp()), 3)
        0.3
    """

    def __init__(self, /, *labels: str, **probabilities: float) -> None:
        for label in labels:
            if not isinstance(label, str):
                raise TypeError(
                    f"the label {label!r} of a Choice is no text; write Choice({str(label)!r}, ...). For a number that "
                    "is counted take Counts(low, high)"
                )
        if labels and probabilities:
            raise TypeError(
                f"a Choice has labels, Choice('a', 'b'), or labels with probabilities, Choice(a=0.7, b=0.3), got both "
                f"{labels} and {probabilities}"
            )
        names = labels or tuple(probabilities)
        for name in names:
            if not name.strip() or not name.isprintable():
                raise ValueError(f"the label {name!r} of a Choice is not printable text in one line")
        if len(names) < 2 or len(set(names)) != len(names):
            raise ValueError(f"a Choice needs two different labels or more, got {names}")
        _check_number(len(names), f"a Choice of {len(names)} labels")
        shares = [finite("Choice(label=probability)", name, value) for name, value in probabilities.items()]
        shares = shares or [1 / len(names)] * len(names)
        for name, share in zip(names, shares, strict=True):
            if not share > 0:
                raise ValueError(f"Choice({name}={share:g}): a probability must be above 0; leave out such a label")
        if abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"the probabilities of a Choice must add up to 1, got {sum(shares):g} of {probabilities}")
        self.probabilities = tuple(shares) if probabilities else ()
        self._table(torch.arange(len(names)), torch.tensor(shares, dtype=torch.float64).log(), names)

    def code(self, value: object) -> int:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is no label of {self!r}; give one of its labels as text")
        if value not in self.labels:
            raise ValueError(f"{value!r} is none of the labels {', '.join(map(repr, self.labels))}")
        return self.labels.index(value)

    def __repr__(self) -> str:
        if not self.probabilities:
            return f"Choice({', '.join(map(repr, self.labels))})"
        return f"Choice({', '.join(f'{n}={p:g}' for n, p in zip(self.labels, self.probabilities, strict=True))})"


@final
class Counts(Levels):
    """A distribution over the whole numbers between two bounds: a number of lines, sources, change points.

    Args:
        low: The smallest number.
        high: The largest number, above `low`. At most 512 numbers are allowed.
        law: A torch distribution over whole numbers (Poisson, Binomial, Geometric, ...), which is restricted
            to the bounds. By default all numbers are equally likely.

    Raises:
        TypeError: If a bound is not an int, or `law` is not a univariate distribution over whole numbers.
        ValueError: If `low` is not below `high`, there are more than 512 numbers, or one of them has
            probability 0 under `law`.

    Examples:
        >>> Counts(0, 3).values.tolist()
        [0.0, 1.0, 2.0, 3.0]
        >>> [round(float(p), 3) for p in Counts(0, 2, td.Poisson(1.0)).log_probs.exp()]
        [0.4, 0.4, 0.2]
    """

    def __init__(self, low: int, high: int, law: td.Distribution | None = None) -> None:
        for name, bound in (("low", low), ("high", high)):
            if not isinstance(bound, int) or isinstance(bound, bool):
                raise TypeError(f"Counts(low, high): {name} is an int, got {bound!r}")
        if not low < high:
            raise ValueError(
                f"Counts(low, high): low = {low} must be below high = {high}. A number that is known goes into the "
                "simulator, as a constant"
            )
        _check_number(high - low + 1, f"Counts({low}, {high})")
        values = torch.arange(low, high + 1, dtype=torch.float64)
        log_probs = torch.zeros(len(values), dtype=torch.float64) if law is None else _log_probs(law, values)
        if not bool(log_probs.isfinite().all()):
            none = int(values[~log_probs.isfinite()][0])
            raise ValueError(
                f"{law!r} gives {none} no probability; choose bounds between which each number is possible"
            )
        self.low, self.high, self.law = low, high, law
        self._table(values, log_probs, tuple(str(value) for value in range(low, high + 1)))

    def code(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{value!r} is no number of {self!r}; give an int")
        value = int(value)
        if not self.low <= value <= self.high:
            raise ValueError(f"{value} is none of the numbers {self.low} to {self.high}")
        return value - self.low

    def __repr__(self) -> str:
        return f"Counts({self.low}, {self.high}{'' if self.law is None else f', {self.law!r}'})"


def tabulated(law: td.Distribution) -> Counts:
    """A torch distribution over whole numbers as `Counts`, without tails of less than 1e-9 in all.

    Args:
        law: Poisson, Binomial, Geometric, Bernoulli, Categorical, or another univariate distribution over
            whole numbers from 0.

    Raises:
        TypeError: If `law` is not such a distribution.
        ValueError: If more than 512 numbers remain, or a single one.

    Examples:
        >>> [round(float(p), 3) for p in tabulated(td.Bernoulli(torch.tensor(0.25))).log_probs.exp()]
        [0.75, 0.25]
    """
    end = 4096
    mass = _log_probs(law, torch.arange(end, dtype=torch.float64)).exp()
    total = mass.sum()  # This is 1 except for rounding, which would otherwise count as probability of a tail.
    below, above = mass.cumsum(0) / total, mass.flip(0).cumsum(0).flip(0) / total
    if float(total) < 0.999 or float(mass[-1]) > LEFT / end:
        raise ValueError(
            f"{law!r} has more than {MOST} numbers; use Counts(low, high, law), or a continuous distribution"
        )
    kept = ((below > LEFT / 2) & (above > LEFT / 2) & (mass > 0)).nonzero().flatten()
    low, high = int(kept[0]), int(kept[-1])
    if low == high:
        raise ValueError(f"{law!r} is always {low}; a number that is known goes into the simulator, as a constant")
    _check_number(high - low + 1, f"{law!r}")
    return Counts(low, high, law)


def is_counting(law: td.Distribution) -> bool:
    """Whether a torch distribution is univariate and over whole numbers, as `tabulated` needs it."""
    if isinstance(law, Levels) or law.event_shape or law.batch_shape:
        return False
    try:
        return isinstance(law, td.Bernoulli | td.Categorical | td.Binomial) or (
            law.support is constraints.nonnegative_integer
        )
    except NotImplementedError:
        return False


def level_to_json(law: Levels, base: Mapping[str, object] | None) -> dict[str, object]:
    """A distribution with finitely many values as plain JSON values.

    Args:
        law: The distribution.
        base: The JSON of the torch distribution that a `Counts` restricts; None if it has none.
    """
    if isinstance(law, Counts):
        return {"law": "Counts", "low": law.low, "high": law.high, "base": base}
    shares = law.probabilities if isinstance(law, Choice) else ()
    return {"law": "Choice", "labels": list(law.labels), "probabilities": list(shares)}


def _log_probs(law: td.Distribution, values: Tensor) -> Tensor:
    """The log probabilities of whole numbers under a torch distribution, float64; -inf if impossible."""
    if not isinstance(law, td.Distribution) or not is_counting(law):
        raise TypeError(
            f"{law!r} is no univariate distribution over whole numbers; use, say, Poisson(torch.tensor(2.0))"
        )
    valid = torch.ones(len(values), dtype=torch.bool)
    if isinstance(law, td.Categorical):
        valid = values < law.logits.shape[-1]
    elif isinstance(law, td.Binomial | td.Bernoulli):
        valid = values <= (law.total_count if isinstance(law, td.Binomial) else 1)
    found = law.log_prob(torch.where(valid, values, 0.0)).to(torch.float64)
    return torch.where(valid, found, -math.inf)


def _check_number(number: int, what: str) -> None:
    if number > MOST:
        raise ValueError(
            f"{what} has {number} values, at most {MOST} are allowed; use a continuous distribution instead"
        )
