"""Parameters that exist in some rows only, depending on the values of discrete parameters.

`Only` is a parameter that exists for some values; `Each` is a group of parameters whose number is itself a
parameter. A parameter that does not exist in a row is NaN in theta. The discrete parameters determine which
parameters exist, so nothing else is stored.
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
    """A parameter that exists only for some values of discrete parameters earlier in the prior.

    Args:
        law: The parameter's distribution where the parameter exists.
        unit: The parameter's unit; default: dimensionless.
        **when: Name of a discrete parameter -> one or several of its values or labels, for which the new
            parameter exists. With several names, all conditions must hold.

    Raises:
        TypeError: If no discrete parameter is named.
        ValueError: If a discrete parameter is named without any value.

    Examples:
        >>> from sciinf import Choice, LogNormal, Prior
        >>> prior = Prior(model=Choice("SIR", "SEIR"), sigma=Only(LogNormal(-1.5, 0.4), "1/d", model="SEIR"))
        >>> prior.present(torch.tensor([[0.0, torch.nan], [1.0, 0.2]])).tolist()
        [[True, False], [True, True]]
    """

    def __init__(self, law: Any, unit: Any = "", **when: Any) -> None:
        if not when:
            raise TypeError(
                "Only needs a discrete parameter, and for which value of it the new parameter exists: "
                "Only(law, '1/d', model='SEIR')"
            )
        self.law, self.unit = law, unit
        self.when = {name: _several(values) for name, values in when.items()}

    def __repr__(self) -> str:
        when = ", ".join(f"{name}={values[0] if len(values) == 1 else values!r}" for name, values in self.when.items())
        return f"Only({self.law!r}{f', {self.unit!r}' if self.unit else ''}, {when})"


@final
class Each:
    """A group of parameters NAME_1, NAME_2, ... with one distribution; their number may be a parameter.

    Args:
        count: The number of parameters: an int, or the name of a count parameter (`Counts`, Poisson,
            Binomial, ...) earlier in the prior.
        law: The distribution of each parameter of the group.
        unit: The unit of these parameters; default: dimensionless.
        more: A number that is added to `count`; default: 0.
        increasing: Whether the parameters are in increasing order; default: False. Set True if the parameters
            can be exchanged in the simulator. Otherwise a posterior cannot tell which parameter is which.

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
                raise TypeError(f"Each takes the name of a count parameter, or an int, got {count!r}")
            check_whole("the number of Each", count, 1)
        check_whole("more", more, 0)
        self.count, self.law, self.unit, self.more, self.increasing = count, law, unit, more, increasing

    def always_in_order(self, number: int) -> bool:
        """Whether the group has one joint distribution: ordered, and of a constant number above 1."""
        return self.increasing and not isinstance(self.count, str) and number > 1

    def __repr__(self) -> str:
        about = f"{f', {self.unit!r}' if self.unit else ''}{f', more={self.more}' if self.more else ''}"
        return f"Each({self.count!r}, {self.law!r}{about}{', increasing=True' if self.increasing else ''})"


@dataclass(frozen=True)
class Family:
    """The parameters that an `Each` stands for.

    Args:
        columns: The names of the parameters.
        count: Name of the parameter that gives their number; "" if all of them always exist.
        more: A number that is added to the value of `count`.
        increasing: Whether existing parameters must be put in increasing order. False for a constant number,
            whose order is in the joint distribution.
    """

    columns: tuple[str, ...]
    count: str = ""
    more: int = 0
    increasing: bool = False


@dataclass(frozen=True)
class Existence:
    """The conditions under which the parameters of a prior exist.

    Args:
        when: First parameter of a distribution -> discrete parameter -> values or labels for which the
            distribution's parameters exist (`Only`).
        each: Name of an `Each` -> its parameters.
    """

    when: Mapping[str, Mapping[str, tuple[str | int, ...]]] = field(default_factory=dict)
    each: Mapping[str, Family] = field(default_factory=dict)

    def __or__(self, other: Existence) -> Existence:
        return Existence({**self.when, **other.when}, {**self.each, **other.each})

    def conditions(self, names: Sequence[str], laws: Mapping[str, td.Distribution]) -> dict[str, dict[str, list[bool]]]:
        """For each distribution, for which values of the discrete parameters its parameters exist.

        Args:
            names: The names of all parameters, in order.
            laws: First parameter of each distribution -> distribution.

        Returns:
            First parameter of a distribution -> discrete parameter -> one bool for each of its values.

        Raises:
            TypeError: If a condition names a parameter that is not discrete, or a value of another kind.
            ValueError: If a condition names a parameter that is missing or comes later in the prior, or a
                value that the named parameter never has.
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
        """The conditions as plain JSON values; an empty dict if there is neither an `Only` nor an `Each`."""
        when = {name: {parent: list(v) for parent, v in found.items()} for name, found in self.when.items()}
        each = {name: {**vars(group), "columns": list(group.columns)} for name, group in self.each.items()}
        return ({"when": when} if when else {}) | ({"each": each} if each else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Existence:
        """The conditions from the values of `to_json`; further keys in `data` are ignored."""
        when = {n: {parent: tuple(v) for parent, v in w.items()} for n, w in data.get("when", {}).items()}
        each = {n: Family(**{**g, "columns": tuple(g["columns"])}) for n, g in data.get("each", {}).items()}
        return cls(when, each)


def columns_of(name: str, each: Each, law: td.Distribution, earlier: Mapping[str, td.Distribution]) -> Family:
    """The parameters that an `Each` of a prior stands for.

    Args:
        name: Name of the `Each` in the prior.
        each: The `Each`.
        law: The distribution of each parameter.
        earlier: Name -> distribution of the parameters before the `Each`.

    Raises:
        TypeError: If `each.count` names a parameter that is no count, or if `law` cannot be put in
            increasing order.
        ValueError: If `each.count` names a parameter that does not come earlier, if the number may be
            negative, or if the largest number is not in 1 to 512.
    """
    most = each.count
    if isinstance(each.count, str):
        counted = _levels(name, each.count, list(earlier), earlier)
        if not isinstance(counted, Counts):
            raise TypeError(
                f"the number of {name!r} is {each.count!r}, which is {counted!r} and no count; take "
                "Counts(low, high), Poisson, Binomial, ..."
            )
        if counted.low + each.more < 0:
            raise ValueError(f"the number of {name!r}, {each.count!r}, may be {counted.low}; take low >= 0")
        most = counted.high
    total = int(most) + each.more
    if not 0 < total <= MOST:
        raise ValueError(f"{name!r} stands for up to {total} parameters, expected from 1 to {MOST}")
    if each.increasing and (isinstance(law, Levels) or not is_normalisable(law)):
        raise TypeError(
            f"{law!r} has no quantile function, so {name!r} cannot be put in order; take Normal, LogNormal, "
            "Uniform, LogUniform, ... or Truncated"
        )
    columns = tuple(f"{name}_{place}" for place in range(1, total + 1))
    count = each.count if isinstance(each.count, str) else ""
    return Family(columns, count, each.more, each.increasing and bool(count))


def _several(values: Any) -> tuple[Any, ...]:
    if isinstance(values, str | int) or not isinstance(values, tuple | list | set | frozenset | range):
        return (values,)
    if not values:
        raise ValueError("Only needs at least one value for which the parameter exists, got none")
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
            f"{name!r} depends on {parent!r}, whose distribution {law!r} is continuous; take "
            "Choice('a', 'b') or Counts(0, 3)"
        )
    return law


def _code(name: str, parent: str, law: Levels, value: Any) -> int:
    try:
        return law.code(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name!r} exists where {parent!r} is {value!r}, but {error}") from error


def check_continuous(prior: Prior, what: str) -> None:
    """Raise an error if a prior has discrete parameters.

    This check is for methods that need parameters that are continuous and always exist.

    Args:
        prior: The prior.
        what: Name of the method, for the message.

    Raises:
        ValueError: If the prior has discrete parameters. The message says what to do instead.
    """
    if prior.mixed:
        raise ValueError(
            f"{what} needs parameters that are continuous and always exist, but of {', '.join(prior.names)} "
            f"{', '.join(prior.discrete())} {'is' if len(prior.discrete()) == 1 else 'are'} discrete. Train "
            "Mixed(prior, observables) on draws of the prior, and give the fit to build_posterior"
        )


def check_free(prior: Prior, what: str) -> None:
    """Raise an error if a prior has discrete parameters or parts of a whole.

    This check is for methods that need one freely varying number per parameter.

    Args:
        prior: The prior.
        what: Name of the method, for the message.

    Raises:
        ValueError: If the prior has such parameters. The message says what to do instead.
    """
    check_continuous(prior, what)
    check_apart(prior, what)


def check_apart(prior: Prior, what: str) -> None:
    """Raise an error if a prior has parts of a whole (Dirichlet), whose sum is fixed.

    This check is for methods that need parameters that can vary independently.

    Args:
        prior: The prior.
        what: Name of the method, for the message.

    Raises:
        ValueError: If the prior has parts of a whole. The message says what to do instead.
    """
    if prior.bijection.size != len(prior):
        raise ValueError(
            f"{what} needs parameters that can vary by themselves, but some of {', '.join(prior.names)} are "
            "parts of a whole (Dirichlet). Train Flow(prior, observables) on draws of the prior, and give "
            "the fit to build_posterior"
        )


def nan_where(absent: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """theta with NaN where `absent` is True: where a parameter does not exist."""
    return torch.where(absent, torch.full((), torch.nan, dtype=theta.dtype, device=theta.device), theta)
