r"""The answer about a discrete parameter: the probabilities of its values.

For n draws with weights w_i that sum to 1, the probability of value k is p_k = sum_i w_i [value_i = k]. Its
standard error is

    e_k = sqrt(sum_i w_i^2 ([value_i = k] - p_k)^2),

which is sqrt(p_k (1 - p_k) / n) for plain draws. A value that no draw has is not impossible. Its error is
then 1 / n_eff, and its probability is shown as less than this number. If the estimator computes probabilities
without draws, these probabilities are used, and their error is 0. The standard errors are those of sampling
only: errors of the trained network are measured by calibration.

The Bayes factor of a against b is (p_a / p_b) / (prior_a / prior_b). As |corr(p_a, p_b)| <= 1, the standard
error of its logarithm is at most e_a / p_a + e_b / p_b. It equals this bound if there are only two values.

References:
    | Bayes Factors (Kass, Raftery, 1995), https://doi.org/10.1080/01621459.1995.10476572
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from sciinf.core.tables import digits

if TYPE_CHECKING:
    from sciinf.core.draws import Draws

_FEW = 4  # Bayes factors are shown for at most this number of values.
_MOST = 8  # The probabilities of at most this number of values are shown one by one.
_SURE = 1e-6
_APART = 0.1  # This much of the probability may lie at other values in another answer without a remark.
_LISTED = "among the listed"
ALONE = "Bayes factors are of the network alone: calibration checks them on average, and no likelihood corrects them"
"""What is to be said of them where draws have no weights."""


@dataclass(frozen=True)
class Probabilities:
    """The posterior probabilities of the values of one discrete parameter.

    Args:
        values: Labels of the K values, in the order of the prior. For a counted parameter, the numbers as
            text.
        probability: Probability of each value, given that the parameter exists.
        error: Standard error of each probability due to sampling; 0 if the probability is known without
            draws. If no draw has the value, or all draws have it, the error is 1 / effective sample size.
        prior: Prior probability of each value, given that the parameter exists.
        level: Level of the answer's intervals.
        unit: Unit of the parameter; "" for dimensionless.
        exists: Probability that the parameter exists.
        counted: Whether the values are numbers, not labels.
        label: Label of the parameter for people; "" if it is the name of the parameter.
    """

    values: tuple[str, ...]
    probability: tuple[float, ...]
    error: tuple[float, ...]
    prior: tuple[float, ...]
    level: float
    unit: str = ""
    exists: float = 1.0
    counted: bool = False
    label: str = ""

    derived = False
    corrected = None

    def __getitem__(self, value: object) -> float:
        """The probability of a value, which is given by its label or number."""
        return self.probability[self._at(value)]

    @property
    def ranked(self) -> list[int]:
        """Indices of the values, the most probable first; values of equal probability keep their order."""
        return sorted(range(len(self.values)), key=lambda k: -_known(self.probability[k]))

    @property
    def most_probable(self) -> str:
        """The value with the largest probability."""
        return self.values[self.ranked[0]]

    def credible(self, level: float) -> tuple[str, ...]:
        """The smallest set of values whose total probability reaches a level, the most probable first."""
        found, held = [], 0.0
        for k in self.ranked:
            found.append(self.values[k])
            held += _known(self.probability[k])
            if held >= level - 1e-12:
                break
        return tuple(found)

    def log_bayes_factor(self, a: object, b: object) -> tuple[float, float]:
        """The natural logarithm of the Bayes factor of value a against value b, and its standard error.

        The standard error is an upper bound.

        If no draw has one of the values, its `error` stands for its probability, and the standard error is
        infinite.

        Raises:
            ValueError: If there is no such value.
        """
        total, error = 0.0, 0.0
        for sign, k in ((1.0, self._at(a)), (-1.0, self._at(b))):
            p, e = self.probability[k], self.error[k]
            total += sign * (math.log(p or e or 1e-300) - math.log(self.prior[k]))
            error += e / p if p > 0 else math.inf
        return total, error

    def cells(self) -> list[str]:
        """The cells of the parameter in a table of numbers: none, because `words` describes the parameter."""
        return []

    def columns(self, prefix: str = "") -> dict[str, Any]:
        """The columns in a data frame of estimates: the most probable value and its probability."""
        best = self.ranked[0]
        return {f"{prefix}most_probable": self.values[best], f"{prefix}probability": self.probability[best]}

    def words(self, name: str) -> str:
        """The answer in one line of text: the probabilities, the possible values, and Bayes factors.

        Bayes factors are left out if there are more than four values.
        """
        if not self.exists > 0:
            return "exists in no draw"
        shown, rest = self.ranked[:_MOST], self.ranked[_MOST:]
        shown = sorted(shown) if self.counted else shown
        said = [f"{self.values[k]}: {told(self.probability[k], self.error[k])}" for k in shown]
        if rest:
            said.append(f"{len(rest)} others together {sum(self.probability[k] for k in rest):.2g}")
        parts = [f"{', '.join(said)} {self.among(name)}"]
        parts += [f"exists with probability {exists_words(self.exists)}"] if self.exists < 1 else []
        return "; ".join([*parts, *self.factors()])

    def among(self, name: str) -> str:
        """The set of values that share the probability, in words; no other values were considered."""
        if self.counted:
            return f"among {self.values[0]} to {self.values[-1]}"
        return f"{_LISTED} models" if name == "model" else f"{_LISTED} values"

    def factors(self) -> list[str]:
        """Logarithms of the Bayes factors of the most probable value against each of the others, in words."""
        if len(self.values) > _FEW or not self.exists > 0:
            return []
        best, *others = self.ranked
        found = []
        for k in others:
            factor, error = self.log_bayes_factor(self.values[best], self.values[k])
            if math.isinf(error):
                size = f"above {factor:.1f}"
            else:
                size = f"{digits(factor, error)} +- {_two(error)}" if error > 0 else f"{factor:.2f}"
            found.append(f"log Bayes factor of {self.values[best]} against {self.values[k]}: {size}")
        return found

    def compared(self) -> dict[str, tuple[float, ...]]:
        """The numbers that depend on the draws, by their description, for comparison with another answer."""
        found = {k: getattr(self, k) for k in ("probability", "error", "prior")}
        return {**found, f"probability of {', '.join(self.values)} being there": (self.exists,)}

    def beside(self, other: Any, ess: float, others: float) -> tuple[list[str], str]:
        """The difference to the probabilities of another answer, in words.

        The difference is described if a tenth of the probability, and more than sampling explains, lies at
        other values.

        Args:
            other: Probabilities of the same values in the other answer.
            ess: Effective sample size of this answer.
            others: Effective sample size of the other answer.

        Returns:
            Cells for a table of numbers, of which there are none; the words, or "".
        """
        pairs = zip(self.probability, other.probability, strict=True)
        apart = 0.5 * sum(abs(_known(p) - _known(q)) for p, q in pairs)
        if apart <= _APART + 3 * math.sqrt(0.25 / ess + 0.25 / others):
            return [], ""
        there, here = ((one.most_probable, max(one.probability)) for one in (other, self))
        said = f"is most probably {there[0]} there ({there[1]:.2g}), {here[0]} here ({here[1]:.2g})"
        return [], f"{said}: {apart:.2g} of the probability lies elsewhere"

    @property
    def scale(self) -> float:
        """The scale that rounding errors of the numbers are compared with, beside the numbers themselves."""
        return 1.0

    def to_json(self) -> dict[str, Any]:
        lists = {k: list(getattr(self, k)) for k in ("values", "probability", "error", "prior")}
        said = {"level": self.level, "unit": self.unit, "exists": self.exists, "counted": self.counted}
        return {**lists, **said, **({"label": self.label} if self.label else {})}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Probabilities:
        numbers = {k: tuple(_read(v) for v in data[k]) for k in ("probability", "error", "prior")}
        return cls(**{**data, "values": tuple(data["values"]), **numbers})

    def _at(self, value: object) -> int:
        if isinstance(value, bool) or str(value) not in self.values:
            raise ValueError(f"{value!r} is none of the values {', '.join(self.values)}")
        return self.values.index(str(value))


def probabilities_of(draws: Draws, name: str, level: float = 0.9) -> Probabilities:
    """The probabilities of the values of a discrete parameter, computed from draws.

    Raises:
        ValueError: If the draws have no discrete parameter of that name.
    """
    found = draws.categories.get(name)
    if found is None:
        known = ", ".join(draws.categories) or "none"
        raise ValueError(f"{name!r} is no discrete parameter of these draws; there is {known}")
    place = draws.names.index(name)
    column = draws.theta[:, place].to(torch.float64)
    there = ~column.isnan()
    weights, exists = draws.weights[there], draws.exists(name)
    shown = (column[there, None] == torch.tensor(found.values, dtype=torch.float64)).to(torch.float64)
    weights = weights / weights.sum()
    p = weights @ shown
    squares = (weights**2).sum()
    error = ((weights**2) @ (shown - p) ** 2).sqrt()
    some = shown[weights > 0].to(torch.bool)
    none, all_ = ~some.any(0), some.all(0)  # Sums of weights may differ from 0 and 1 by rounding.
    p = torch.where(none, 0.0, torch.where(all_, 1.0, p))
    error = torch.where(none | all_, squares.clamp_max(1.0), error)
    if found.exact:
        known_p = torch.tensor(found.exact, dtype=torch.float64)
        exists = min(float(known_p.sum()), 1.0) if not bool(there.all()) else exists
        p, error = known_p / known_p.sum(), torch.zeros_like(known_p)
    if not bool(there.any()):
        p, error = torch.full_like(p, math.nan), torch.full_like(p, math.nan)
    made = Probabilities(
        values=found.labels,
        probability=tuple(p.tolist()),
        error=tuple(error.tolist()),
        prior=found.prior,
        level=level,
        unit=draws.units[place],
        exists=exists,
        counted=found.numbered,
    )
    return replace(made, label=draws.labels.get(name, ""))


def told(p: float, error: float) -> str:
    """A probability as text, with its error to two digits.

    The text is such as "< 0.0001" if no draw has the value, and "-" if the probability is NaN.
    """
    if not math.isfinite(p):
        return "-"
    if p <= 0 < error:
        return f"< {_two(error)}"
    if p >= 1 and error > 0:
        return f"> {_near_one(error)}"
    if not error > 0 or max(p, error) < _SURE:
        return _bare(p)
    return f"{p:.{_places(error)}f} +- {_two(error)}"


def exists_words(exists: float, least: float = 0.0) -> str:
    """The probability that a parameter exists, as text for a table.

    Args:
        exists: The probability, computed from draws.
        least: Weight of one draw, which is the upper bound of the probability if no draw has the parameter.
    """
    return f"< {_two(least)}" if exists <= 0 < least else "1" if exists >= 1 else _bare(exists)


def _bare(p: float) -> str:
    """A probability as text, without an error, and at least a millionth away from 0 and 1.

    No trained network knows a probability more closely than this.
    """
    if p < _SURE or p > 1 - _SURE:
        return f"< {_SURE:.6f}" if p < 0.5 else f"> {1 - _SURE:.6f}"
    return f"{p:.2f}" if 0.01 <= p <= 0.99 else _near_one(1 - p) if p > 0.99 else _two(p)


def _near_one(rest: float) -> str:
    """1 - rest as text, with as many digits as the size of `rest` needs."""
    if rest <= 0:
        return "1"
    places = min(max(2, 1 - math.floor(math.log10(rest))), 15)
    return f"{1 - rest:.{places}f}".rstrip("0").rstrip(".")


def _places(error: float) -> int:
    return min(max(2, 1 - math.floor(math.log10(error))), 12)


def _two(value: float) -> str:
    """A small number as text, with two leading digits, and without an exponent down to a millionth."""
    if not 1e-6 <= value < 10:
        return f"{value:.2g}"
    return f"{value:.{1 - math.floor(math.log10(value))}f}".rstrip("0").rstrip(".") if value < 1 else f"{value:.1f}"


def _known(p: float) -> float:
    return p if math.isfinite(p) else -1.0


def _read(value: Any) -> float:
    return math.nan if value is None else float(value)
