"""Parameters that exist in some rows only: for some values of another parameter, or as many as another says.

What does not exist is NaN in theta. Which parameters exist follows from the discrete ones, so nothing else is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import torch
from torch import distributions as td

from sciinf.core.checks import check_whole
from sciinf.core.laws import is_normalisable
from sciinf.core.levels import MOST, Counts, Levels

if TYPE_CHECKING:
    from sciinf.core.prior import Prior

ABSENT = "does not exist in this row"
"""How a message says that a parameter was used where it does not exist."""


@final
class Only:
    """A parameter that exists only for some values of discrete ones, which stand before it in the prior.

    Args:
        law: Its law where it exists.
        unit: Its unit.
        **when: Name of a discrete parameter -> the value or label for which it exists, or several of them. With several
            names, all must hold.

    Raises:
        TypeError: If no discrete parameter is named.

    Examples:
        >>> from sciinf import Choice, LogNormal, Prior
        >>> prior = Prior(model=Choice("SIR", "SEIR"), sigma=Only(LogNormal(-1.5, 0.4), "1/d", model="SEIR"))
        >>> prior.present(torch.tensor([[0.0, torch.nan], [1.0, 0.2]])).tolist()
        [[True, False], [True, True]]
    """

    def __init__(self, law: Any, unit: Any = "", **when: Any) -> None:
        if not when:
            raise TypeError(
                "Only says for which value of a discrete parameter there is one: Only(law, '1/d', model='SEIR')"
            )
        self.law, self.unit = law, unit
        self.when = {name: _several(values) for name, values in when.items()}

    def __repr__(self) -> str:
        when = ", ".join(f"{name}={values[0] if len(values) == 1 else values!r}" for name, values in self.when.items())
        return f"Only({self.law!r}{f', {self.unit!r}' if self.unit else ''}, {when})"


@final
class Each:
    """As many parameters of one law as another parameter says: NAME_1, NAME_2, ...

    Args:
        count: The name of a parameter that is counted (`Counts`, Poisson, Binomial, ...), which stands before it in the
            prior, or a number.
        law: The law of each.
        unit: Their unit.
        more: How many there are more than `count` says.
        increasing: Whether they stand in increasing order. Where only the order tells them apart it must be so, or what
            is learned cannot tell which is which.

    Raises:
        TypeError: If `count` is neither a name nor an int.
        ValueError: If `count` is an int below 1, or `more` is below 0.

    Examples:
        >>> from sciinf import Counts, Prior, Uniform
        >>> Prior(k=Counts(0, 2), tau=Each("k", Uniform(0, 1), "yr", increasing=True)).names
        ('k', 'tau_1', 'tau_2')
    """

    def __init__(self, count: str | int, law: Any, unit: Any = "", *, more: int = 0, increasing: bool = False) -> None:
        if not isinstance(count, str):
            if not isinstance(count, int) or isinstance(count, bool):
                raise TypeError(f"Each takes the name of a parameter that is counted, or a number, got {count!r}")
            check_whole("the number of Each", count, 1)
        check_whole("more", more, 0)
        self.count, self.law, self.unit, self.more, self.increasing = count, law, unit, more, increasing

    def always_in_order(self, number: int) -> bool:
        """Whether they are several in order whose number never changes, so that one joint law is theirs."""
        return self.increasing and not isinstance(self.count, str) and number > 1

    def __repr__(self) -> str:
        about = f"{f', {self.unit!r}' if self.unit else ''}{f', more={self.more}' if self.more else ''}"
        return f"Each({self.count!r}, {self.law!r}{about}{', increasing=True' if self.increasing else ''})"


@dataclass(frozen=True)
class Family:
    """The parameters that an `Each` stands for.

    Args:
        columns: Their names.
        count: The parameter that says how many there are, "" where there are always all.
        more: How many there are more than it says.
        increasing: Whether they stand in increasing order.
    """

    columns: tuple[str, ...]
    count: str = ""
    more: int = 0
    increasing: bool = False


@dataclass(frozen=True)
class Existence:
    """Which parameters exist when, beside the names and laws of a prior.

    Args:
        when: First parameter of a law -> discrete parameter -> values and labels for which it exists (`Only`).
        each: What an `Each` is called -> its parameters.
    """

    when: Mapping[str, Mapping[str, tuple[str | int, ...]]] = field(default_factory=dict)
    each: Mapping[str, Family] = field(default_factory=dict)

    def __or__(self, other: Existence) -> Existence:
        return Existence({**self.when, **other.when}, {**self.each, **other.each})

    def conditions(self, names: Sequence[str], laws: Mapping[str, td.Distribution]) -> dict[str, dict[str, list[bool]]]:
        """First parameter of a law -> discrete parameter -> for each of its values whether the law's exist.

        Args:
            names: Of all parameters, in order.
            laws: First parameter of each law -> law.

        Raises:
            TypeError: If one depends on a parameter that is not discrete, or on a value of another kind.
            ValueError: If one depends on a parameter that does not stand before it, or on a value that it does not
                have.
        """
        found: dict[str, dict[str, list[bool]]] = {}
        for name, when in self.when.items():
            for parent, values in when.items():
                law = _levels(name, parent, names, laws)
                codes = [_code(name, parent, law, value) for value in values]
                found.setdefault(name, {})[parent] = [code in codes for code in range(len(law.values))]
        for group in self.each.values():
            for place, name in enumerate(group.columns, 1):
                if group.count:
                    law = _levels(name, group.count, names, laws)
                    enough = [int(value) + group.more >= place for value in law.values]
                    found.setdefault(name, {})[group.count] = enough
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; nothing where every parameter always exists and stands alone."""
        when = {name: {parent: list(v) for parent, v in found.items()} for name, found in self.when.items()}
        each = {name: {**vars(group), "columns": list(group.columns)} for name, group in self.each.items()}
        return ({"when": when} if when else {}) | ({"each": each} if each else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Existence:
        """What `to_json` wrote, among other values."""
        when = {n: {parent: tuple(v) for parent, v in w.items()} for n, w in data.get("when", {}).items()}
        each = {n: Family(**{**g, "columns": tuple(g["columns"])}) for n, g in data.get("each", {}).items()}
        return cls(when, each)


def columns_of(name: str, each: Each, law: td.Distribution, earlier: Mapping[str, td.Distribution]) -> Family:
    """The parameters that an `Each` of a prior stands for.

    Args:
        name: What it is called there.
        each: The `Each`.
        law: Its law.
        earlier: Name -> law of the parameters that stand before it.

    Raises:
        TypeError: If its count is not counted, or its values cannot be put in order.
        ValueError: If its count does not stand before it, or there may be none, or more than 512.
    """
    most = each.count
    if isinstance(each.count, str):
        counted = _levels(name, each.count, list(earlier), earlier)
        if not isinstance(counted, Counts):
            raise TypeError(f"{name!r} is as many as {each.count!r} says, which is {counted!r}, no number of anything")
        if counted.low + each.more < 0:
            raise ValueError(
                f"{name!r} is as many as {each.count!r} says, and that may be {counted.low}; take low >= 0"
            )
        most = counted.high
    total = int(most) + each.more
    if not 0 < total <= MOST:
        raise ValueError(f"{name!r} may be {total} parameters; from 1 to {MOST} are possible")
    if each.increasing and (isinstance(law, Levels) or not is_normalisable(law)):
        raise TypeError(
            f"{law!r} has no quantile function, so {name!r} cannot be put in order; take Normal, LogNormal, Uniform, "
            "LogUniform, ... or Truncated"
        )
    columns = tuple(f"{name}_{place}" for place in range(1, total + 1))
    count = each.count if isinstance(each.count, str) else ""
    return Family(columns, count, each.more, each.increasing and bool(count))


def _several(values: Any) -> tuple[Any, ...]:
    if isinstance(values, str | int) or not isinstance(values, tuple | list | set | frozenset | range):
        return (values,)
    if not values:
        raise ValueError("Only is given no value for which the parameter exists")
    return tuple(sorted(values, key=str)) if isinstance(values, set | frozenset) else tuple(values)


def _levels(name: str, parent: str, names: Sequence[str], laws: Mapping[str, td.Distribution]) -> Levels:
    if parent not in laws or (name in names and names.index(parent) >= names.index(name)):
        before = [n for n in names if isinstance(laws.get(n), Levels)]
        raise ValueError(
            f"{name!r} depends on {parent!r}, which {'does not stand before it' if parent in names else 'is missing'} "
            f"in the prior; discrete parameters are {before or 'none'}: put what it depends on first"
        )
    law = laws[parent]
    if not isinstance(law, Levels):
        raise TypeError(
            f"{name!r} depends on {parent!r}, whose law {law!r} is continuous; take Choice('a', 'b') or Counts(0, 3)"
        )
    return law


def _code(name: str, parent: str, law: Levels, value: Any) -> int:
    try:
        return law.code(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name!r} exists where {parent!r} is {value!r}, but {error}") from error


def check_continuous(prior: Prior, what: str) -> None:
    """Refuse a prior with discrete parameters, for what needs parameters that are continuous and always exist.

    Args:
        prior: Which.
        what: What needs them, for the message.

    Raises:
        ValueError: If it has some; the message says the way out.
    """
    if prior.mixed:
        raise ValueError(
            f"{what} needs parameters that are continuous and always exist, and of {', '.join(prior.names)} "
            f"{', '.join(prior.discrete())} {'is' if len(prior.discrete()) == 1 else 'are'} discrete. Train "
            "Mixed(prior, observables) on draws of the prior, and give the fit to build_posterior"
        )


def check_free(prior: Prior, what: str) -> None:
    """Refuse a prior with discrete parameters, or parts of a whole, for what needs one free number a parameter.

    Args:
        prior: Which.
        what: What needs them, for the message.

    Raises:
        ValueError: If it has some; the message says the way out.
    """
    check_continuous(prior, what)
    check_apart(prior, what)


def check_apart(prior: Prior, what: str) -> None:
    """Refuse a prior with parts of a whole, for what needs parameters of which each may vary by itself.

    Args:
        prior: Which.
        what: What needs them, for the message.

    Raises:
        ValueError: If it has some; the message says the way out.
    """
    if prior.bijection.size != len(prior):
        raise ValueError(
            f"{what} needs parameters of which each may vary by itself, and some of {', '.join(prior.names)} are parts "
            "of a whole (Dirichlet). Train Flow(prior, observables) on draws of the prior, and give the fit to "
            "build_posterior"
        )


def nan_where(absent: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """theta, NaN where a parameter does not exist."""
    return torch.where(absent, torch.full((), torch.nan, dtype=theta.dtype, device=theta.device), theta)
