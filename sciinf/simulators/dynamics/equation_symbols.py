r"""Equations as symbols: trees in prefix notation, which a network reads as a sequence of tokens.

    du/dt = -u u_x + 0.1 u_xx     is     + * -1 * u d1 u * 0.1 d2 u,

`d1` to `d4` are the derivatives along x of the expression that follows them. Numbers are tokens too, and their exact
values stand in a second sequence. Terms come in the order of `equation_terms.TERMS`. Terms whose coefficient is 0 are
not written.

`read` takes any expression in these symbols. It expands products and derivatives, so that `d1 * u u` is 2 u u_x.

References:
    | PROSE: Predicting Operators and Symbolic Expressions using Multimodal Transformers (Liu, Zhang & Schaeffer, 2023),
      https://arxiv.org/abs/2309.16816
    | Deep Learning for Symbolic Mathematics (Lample & Charton, 2020), https://arxiv.org/abs/1912.01412
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.simulators.dynamics.equation_terms import NAMES, TERMS, Term

NUMBER = "number"
SYMBOLS = ("", "+", "*", NUMBER, "u", "d1", "d2", "d3", "d4")  # The empty symbol fills up short sequences.

_Polynomial = dict[tuple[int, ...], float]  # Orders of the derivatives in a product -> coefficient of the product.


def written(coefficients: Sequence[float]) -> list[str | float]:
    """Symbols of an equation's right-hand side in prefix notation; coefficients are floats.

    Args:
        coefficients: Coefficient of each term in `equation_terms.TERMS`.

    Examples:
        >>> written([0.0, 0.0, 0.0, -1.0, 0.1, 0.0, 0.0])
        ['+', '*', -1.0, '*', 'u', 'd1', 'u', '*', 0.1, 'd2', 'u']
    """
    parts = [["*", float(c), *_tree(term)] for term, c in zip(TERMS, coefficients, strict=True) if c]
    return [*["+"] * (len(parts) - 1), *(symbol for part in parts for symbol in part)]


def read(symbols: Sequence[str | float]) -> list[float]:
    """Coefficient of each term in `equation_terms.TERMS`, of an expression in prefix notation.

    Raises:
        ValueError: If the symbols are not an expression, or the expression has a term outside `equation_terms.TERMS`.
    """
    if not symbols:
        return [0.0] * len(TERMS)
    found, end = _parsed(symbols, 0)
    if end != len(symbols):
        raise ValueError(f"the expression ends after {end} of {len(symbols)} symbols: {list(symbols)}")
    known = {_orders(term): name for term, name in zip(TERMS, NAMES, strict=True)}
    strange = [orders for orders in found if orders not in known]
    if strange:
        raise ValueError(f"products of derivatives of orders {strange} are none of the terms {NAMES}")
    return [found.get(_orders(term), 0.0) for term in TERMS]


def longest(patterns: Sequence[Sequence[str]]) -> int:
    """Largest number of symbols of an equation, over several sets of terms.

    Args:
        patterns: Sets of terms, each a sequence of names from `equation_terms.NAMES`.
    """
    return max(len(written([float(name in pattern) for name in NAMES])) for pattern in patterns)


class Tokens:
    """Function from coefficients of equations to tensors of tokens.

    Args:
        length: Number of tokens per equation, by default that of the longest possible equation. Shorter equations are
            filled up with the empty symbol.
    """

    def __init__(self, length: int | None = None) -> None:
        self.length = longest([NAMES]) if length is None else length
        known = torch.full((2 ** len(TERMS), self.length), -1)
        term = torch.full_like(known, -1)
        for pattern in range(len(known)):
            # Each coefficient is set to the place of its term plus 1, so that the place can be read back below.
            symbols = written([(j + 1.0) * (pattern >> j & 1) for j in range(len(TERMS))])
            if len(symbols) > self.length:
                continue
            known[pattern] = 0
            for place, symbol in enumerate(symbols):
                number = not isinstance(symbol, str)
                known[pattern, place] = SYMBOLS.index(NUMBER if number else symbol)
                term[pattern, place] = int(symbol) - 1 if number else -1
        self._tables = {known.device: (known, term)}

    def __call__(
        self, coefficients: Float[Tensor, "batch term"]
    ) -> tuple[Int[Tensor, "batch token"], Float[Tensor, "batch token"]]:
        """Index of each token in `SYMBOLS`, and the value of each number; other tokens have the value 0.

        All tokens of an equation with more than `length` tokens are -1, an index that every embedding refuses.
        """
        device = coefficients.device
        if device not in self._tables:
            known, term = next(iter(self._tables.values()))
            self._tables[device] = (known.to(device), term.to(device))
        known, term = self._tables[device]
        bits = 2 ** torch.arange(len(TERMS), device=device)
        pattern = ((coefficients != 0).long() * bits).sum(1)
        values = coefficients.gather(1, term[pattern].clamp_min(0))
        return known[pattern], torch.where(term[pattern] >= 0, values, torch.zeros_like(values))


def _tree(term: Term) -> list[str]:
    derived = [f"d{term.order}", "u"] if term.order else ["u"]
    return derived if term.power == 1 else ["*", "u", *derived]


def _orders(term: Term) -> tuple[int, ...]:
    return (*[0] * (term.power - 1), term.order)


def _parsed(symbols: Sequence[str | float], at: int) -> tuple[_Polynomial, int]:
    """The polynomial of the expression that begins at index `at`, and the index after that expression."""
    if at >= len(symbols):
        raise ValueError(f"the expression is not at its end after {len(symbols)} symbols: {list(symbols)}")
    symbol = symbols[at]
    if not isinstance(symbol, str):
        return {(): float(symbol)}, at + 1
    if symbol == "u":
        return {(0,): 1.0}, at + 1
    if symbol in ("+", "*"):
        first, at = _parsed(symbols, at + 1)
        second, at = _parsed(symbols, at)
        return (_sum if symbol == "+" else _product)(first, second), at
    if symbol not in SYMBOLS[5:]:
        raise ValueError(f"{symbol!r} is no symbol of an equation; there are {SYMBOLS[1:]}")
    found, at = _parsed(symbols, at + 1)
    for _ in range(int(symbol[1:])):
        found = _derived(found)
    return found, at


def _sum(first: _Polynomial, second: _Polynomial) -> _Polynomial:
    return {key: first.get(key, 0.0) + second.get(key, 0.0) for key in {**first, **second}}


def _product(first: _Polynomial, second: _Polynomial) -> _Polynomial:
    total: _Polynomial = {}
    for one, c in first.items():
        for other, d in second.items():
            total = _sum(total, {tuple(sorted(one + other)): c * d})
    return total


def _derived(value: _Polynomial) -> _Polynomial:
    """Derivative of a polynomial along x, by the product rule."""
    total: _Polynomial = {}
    for orders, c in value.items():
        for k in range(len(orders)):
            moved = tuple(sorted(order + (j == k) for j, order in enumerate(orders)))
            total = _sum(total, {moved: c})
    return total
