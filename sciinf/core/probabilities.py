r"""The answer about a discrete parameter: how probable each of its values is.

Of n draws with weights w_i that sum to 1, p_k = sum_i w_i [value_i = k], with the standard error

    e_k = sqrt(sum_i w_i^2 ([value_i = k] - p_k)^2),

sqrt(p_k (1 - p_k) / n) of plain draws. A value that no draw has is not impossible: 1 / n_eff is then its error, and it
is told as less than that. Where the estimator knows probabilities without draws, they are taken, and have no error of
drawing. No error here is that of what was learned, which calibration tells.

The Bayes factor of a against b is (p_a / p_b) / (prior_a / prior_b). As |corr(p_a, p_b)| <= 1, the standard error of
its logarithm is at most e_a / p_a + e_b / p_b, and is that where there are two values.

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

_FEW = 4  # values of which Bayes factors are told
_MOST = 8  # values that are told by themselves
_SURE = 1e-6
_APART = 0.1  # of the probability, that may lie elsewhere in an answer beside
_LISTED = "among the listed"
ALONE = "Bayes factors are of the network alone: calibration checks them on average, and no likelihood corrects them"
"""What is to be said of them where draws have no weights."""


@dataclass(frozen=True)
class Probabilities:
    """One discrete parameter's answer.

    Args:
        values: What the K values are called, in the order of the prior; of what is counted the numbers as text.
        probability: Of each, given that the parameter exists.
        error: Standard error of each by drawing; 0 where it is known without draws. Where no draw has a value, or all
            have it, one draw's part.
        prior: Probability of each before the data, given that the parameter exists.
        level: Level of the answer's intervals.
        unit: Its unit; "" for dimensionless.
        exists: With which probability the parameter exists.
        counted: Whether the values are numbers, and no labels.
        label: What the parameter is called for people; "" where that is its name.
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
        """The probability of a value, by its label or number."""
        return self.probability[self._at(value)]

    @property
    def ranked(self) -> list[int]:
        """Places of the values, the most probable first; of equal ones in order."""
        return sorted(range(len(self.values)), key=lambda k: -_known(self.probability[k]))

    @property
    def most_probable(self) -> str:
        """The value with the largest probability."""
        return self.values[self.ranked[0]]

    def credible(self, level: float) -> tuple[str, ...]:
        """The fewest values that hold a level together, the most probable first."""
        found, held = [], 0.0
        for k in self.ranked:
            found.append(self.values[k])
            held += _known(self.probability[k])
            if held >= level - 1e-12:
                break
        return tuple(found)

    def log_bayes_factor(self, a: object, b: object) -> tuple[float, float]:
        """The natural logarithm of the Bayes factor of one value against another, and its standard error, at most.

        Where no draw has one of them, it takes the probability of one draw, and the error is infinite.

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
        """Its cells in a table of numbers: none, `words` says it."""
        return []

    def columns(self, prefix: str = "") -> dict[str, Any]:
        """Its columns in a data frame of estimates."""
        best = self.ranked[0]
        return {f"{prefix}most_probable": self.values[best], f"{prefix}probability": self.probability[best]}

    def words(self, name: str) -> str:
        """All of it in a line: the probabilities, among what, and Bayes factors where values are few."""
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
        """Among which values the probabilities are shared: no other was thought of."""
        if self.counted:
            return f"among {self.values[0]} to {self.values[-1]}"
        return f"{_LISTED} models" if name == "model" else f"{_LISTED} values"

    def factors(self) -> list[str]:
        """Logarithms of Bayes factors of the most probable value against each other, in words."""
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
        """The numbers that draws give, by what each is, for comparison."""
        found = {k: getattr(self, k) for k in ("probability", "error", "prior")}
        return {**found, f"probability of {', '.join(self.values)} being there": (self.exists,)}

    def beside(self, other: Any, ess: float, others: float) -> tuple[list[str], str]:
        """Another answer's probabilities of the same values: in words if a tenth lies elsewhere, beyond drawing.

        Args:
            other: Those.
            ess: Effective draws behind this one.
            others: Behind the other.

        Returns:
            No cells of a table of numbers; words, or "".
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
        """What its numbers are rounded against, beside themselves."""
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
            raise ValueError(f"{value!r} is none of {', '.join(self.values)}")
        return self.values.index(str(value))


def probabilities_of(draws: Draws, name: str, level: float = 0.9) -> Probabilities:
    """The probabilities of a discrete parameter of draws.

    Raises:
        ValueError: If it is none.
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
    none, all_ = ~some.any(0), some.all(0)  # sums of weights may miss 0 and 1 by rounding
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
    """A probability in words: with its error to two digits, "< 0.0001" where no draw shows it, none where it is NaN."""
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
    """With which probability a parameter exists, for a table.

    Args:
        exists: The probability, of draws.
        least: One draw's part, which it is below where no draw has the parameter.
    """
    return f"< {_two(least)}" if exists <= 0 < least else "1" if exists >= 1 else _bare(exists)


def _bare(p: float) -> str:
    """A probability without an error; no nearer to 0 or 1 than a millionth, which nothing that is learned knows."""
    if p < _SURE or p > 1 - _SURE:
        return f"< {_SURE:.6f}" if p < 0.5 else f"> {1 - _SURE:.6f}"
    return f"{p:.2f}" if 0.01 <= p <= 0.99 else _near_one(1 - p) if p > 0.99 else _two(p)


def _near_one(rest: float) -> str:
    """1 less something small, with as many digits as that asks for."""
    if rest <= 0:
        return "1"
    places = min(max(2, 1 - math.floor(math.log10(rest))), 15)
    return f"{1 - rest:.{places}f}".rstrip("0").rstrip(".")


def _places(error: float) -> int:
    return min(max(2, 1 - math.floor(math.log10(error))), 12)


def _two(value: float) -> str:
    """A small number to its two leading digits, without an exponent down to a millionth."""
    if not 1e-6 <= value < 10:
        return f"{value:.2g}"
    return f"{value:.{1 - math.floor(math.log10(value))}f}".rstrip("0").rstrip(".") if value < 1 else f"{value:.1f}"


def _known(p: float) -> float:
    return p if math.isfinite(p) else -1.0


def _read(value: Any) -> float:
    return math.nan if value is None else float(value)
