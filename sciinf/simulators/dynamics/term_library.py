r"""Libraries of candidate terms of a differential equation: functions of the state, each with a name and a unit.

    dz_i/dt = sum_j c_ij T_j(z),      i = 1 ... S,   j = 1 ... k,

where T_j are the terms, such as 1, x, y, x^2, x*y. The unit of a coefficient c_ij is the unit of dz_i/dt divided by
the unit of T_j.

References:
    | Discovering governing equations from data by sparse identification of nonlinear dynamical systems (Brunton,
      Proctor & Kutz, 2016), https://arxiv.org/abs/1509.03580
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_unit, check_whole

Function = Callable[[Mapping[str, Tensor]], Tensor]
"""Name of a state -> its values, to the values of a term, of the same shape."""


@final
class Library:
    """States of a differential equation, and the candidate terms of every state's rate of change.

    Args:
        states: Name of each component of the state -> its unit.
        terms: Name of each term -> its function, or (function, unit).
        time: Unit of time.

    Raises:
        ValueError: If there are no states or no terms, or a unit is unknown.

    Examples:
        >>> library = Library({"x": "m"}, {"x": (lambda s: s["x"], "m"), "sin(x)": lambda s: s["x"].sin()}, time="s")
        >>> library(torch.zeros(5, 1)).shape, library.unit("x", "sin(x)")
        (torch.Size([5, 2]), 'm / s')
    """

    def __init__(
        self, states: Mapping[str, str], terms: Mapping[str, Function | tuple[Function, str]], *, time: str = ""
    ) -> None:
        if not states or not terms:
            raise ValueError(f"a library has states and terms, got {dict(states)} and {list(terms)}")
        pairs = {name: term if isinstance(term, tuple) else (term, "") for name, term in terms.items()}
        self.states, self.time = dict(states), time
        self.functions = {name: function for name, (function, _) in pairs.items()}
        self.units = {name: unit for name, (_, unit) in pairs.items()}
        for what, unit in {**self.states, **self.units, "time": time}.items():
            check_unit(unit, f"{what!r} of a library")

    def __len__(self) -> int:
        return len(self.functions)

    def __repr__(self) -> str:
        return f"library of {', '.join(self.functions)} for ({', '.join(self.states)})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the terms."""
        return tuple(self.functions)

    def __call__(self, state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch term"]:
        """Value of every term at a state, float64.

        Raises:
            ValueError: If the number of columns differs from the number of states, or a term gives another shape.
        """
        if state.shape[-1] != len(self.states):
            raise ValueError(f"the state has {state.shape[-1]} columns, the library has {list(self.states)}")
        named = dict(zip(self.states, state.double().unbind(-1), strict=True))
        found = []
        for name, function in self.functions.items():
            value = torch.as_tensor(function(named), dtype=torch.float64, device=state.device)
            if value.shape not in (state.shape[:-1], torch.Size([])):
                raise ValueError(f"the term {name!r} gives shape {tuple(value.shape)}, expected {state.shape[:-1]}")
            found.append(value.expand(state.shape[:-1]))
        return torch.stack(found, -1)

    def unit(self, state: str, term: str = "", power: float = 1.0) -> str:
        """Unit of a coefficient: the unit of z / (time^power T), where z is the state and T the term.

        Args:
            state: Name of the state.
            term: Name of the term. If omitted, T is a plain number.
            power: Exponent of time: 1 for a rate, 1/2 for the amplitude of a Brownian motion.
        """
        of_term = self.units[term] if term else ""
        if not any((self.states[state], of_term, self.time)):
            return ""
        from astropy import units

        of, by, time = (units.Unit(unit) for unit in (self.states[state], of_term, self.time))
        return (of / time**power / by).to_string()


def polynomials(states: Mapping[str, str], degree: int, *, time: str = "", constant: bool = True) -> Library:
    """Library of all products of states up to a degree: 1, x, y, x^2, x*y, y^2, ...

    Args:
        states: Name of each component of the state -> its unit.
        degree: Largest number of factors of a product.
        time: Unit of time.
        constant: Whether the library has the constant term 1.

    Raises:
        ValueError: If the degree is not an int of at least 1, or two terms would have the same name.

    Examples:
        >>> polynomials({"x": "", "y": ""}, 2).names
        ('1', 'x', 'y', 'x^2', 'x*y', 'y^2')
    """
    check_whole("degree", degree, 1)
    terms: dict[str, tuple[Function, str]] = {"1": (_product(()), "")} if constant else {}
    for number in range(1, degree + 1):
        for chosen in itertools.combinations_with_replacement(states, number):
            powers = {name: chosen.count(name) for name in dict.fromkeys(chosen)}
            name = "*".join(key if power == 1 else f"{key}^{power}" for key, power in powers.items())
            if name in terms:
                raise ValueError(f"two terms would be called {name!r}; give the states {list(states)} other names")
            terms[name] = (_product(chosen), _unit([states[key] for key in chosen]))
    return Library(states, terms, time=time)


def _product(chosen: tuple[str, ...]) -> Function:
    def term(state: Mapping[str, Tensor]) -> Tensor:
        found = torch.ones_like(next(iter(state.values())))
        for name in chosen:
            found = found * state[name]
        return found

    return term


def _unit(each: list[str]) -> str:
    """Unit of a product of quantities with the given units."""
    if not any(each):
        return ""
    from astropy import units

    return math.prod((units.Unit(unit) for unit in each), start=units.dimensionless_unscaled).to_string()
