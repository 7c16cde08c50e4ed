"""Expressions as trees of discrete parameters."""

from __future__ import annotations

import math

import pytest
import torch

from sciinf.simulators.dynamics.expressions import Expressions

X = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)[:, None]


@pytest.fixture(scope="module")
def grammar() -> Expressions:
    return Expressions(["x"], depth=3)


def test_values_are_those_of_the_expression(grammar: Expressions) -> None:
    theta = grammar.read(["-", "*", "2", "sin", "x", "+", "x", "1"])[None]
    assert grammar.text(theta) == ["2 * sin(x) - (x + 1)"]
    assert torch.allclose(grammar.values(theta, X[None])[0], 2 * X[:, 0].sin() - X[:, 0] - 1)
    two = Expressions(["x", "y"], ["*", "exp"], [], depth=2)
    theta, points = two.read(["*", "x", "exp", "y"])[None], torch.tensor([[[3.0, 0.5]]])
    assert float(two.values(theta, points)) == pytest.approx(3 * math.exp(0.5))


def written(grammar: Expressions, codes: list[int], node: int) -> list[str]:
    """A tree in prefix notation."""
    symbol = grammar.symbols[codes[node - 1]]
    takes = 2 if symbol in "+-*" else int(symbol in ("sin", "cos"))
    return [symbol, *(s for k in range(takes) for s in written(grammar, codes, 2 * node + k))]


def value(symbols: list[str]) -> torch.Tensor:
    """Its values, taken from the front of the list."""
    symbol = symbols.pop(0)
    if symbol == "x":
        return X[:, 0]
    if symbol in ("sin", "cos"):
        return getattr(torch, symbol)(value(symbols))
    if symbol not in "+-*":
        return torch.full((9,), float(symbol)).double()
    a, b = value(symbols), value(symbols)
    return a + b if symbol == "+" else a - b if symbol == "-" else a * b


def test_draws_of_the_prior_are_expressions(grammar: Expressions) -> None:
    """Each has as many arguments as its operators take, and their values."""
    theta = grammar.prior.sample(300, generator=torch.Generator().manual_seed(0))
    values = grammar.values(theta, X[None])
    for row in range(len(theta)):
        symbols = written(grammar, grammar.codes(theta[row : row + 1])[0].tolist(), 1)
        assert bool((grammar.read(symbols).nan_to_num(-1) == theta[row].nan_to_num(-1)).all())
        assert torch.allclose(values[row], value(symbols.copy()))
    assert bool(torch.isfinite(grammar.prior.log_prob(theta)).all())
    lost = theta.clone()
    lost[:, 1] = torch.where(lost[:, 0] < grammar.leaves, 0.0, lost[:, 1])  # an argument of a symbol that takes none
    assert bool((grammar.prior.log_prob(lost)[lost[:, 0] < grammar.leaves] == -math.inf).all())


def test_the_same_function_is_one(grammar: Expressions) -> None:
    rows = [["+", "x", "1"], ["+", "1", "x"], ["*", "x", "x"], ["-", "*", "x", "x", "-", "1", "1"], ["x"]]
    theta = torch.stack([grammar.read(row) for row in rows])
    assert grammar.same(theta, X) == [0, 0, 2, 2, 4]
    nothing = [["-", "x", "x"], ["-", "*", "x", "sin", "2", "*", "sin", "2", "x"], ["-", "+", "x", "1", "+", "1", "x"]]
    assert grammar.same(torch.stack([grammar.read(row) for row in nothing]), X) == [0, 0, 0]


def test_parts(grammar: Expressions) -> None:
    theta = torch.stack([grammar.read(row) for row in (["+", "sin", "x", "2"], ["sin", "+", "2", "x"], ["cos", "1"])])
    assert grammar.has(theta, ["sin"]).tolist() == [True, True, False]
    assert grammar.has(theta, ["sin", "x"]).tolist() == [True, False, False]
    assert grammar.has(theta, ["+", "x", "2"]).tolist() == [False, True, False]
    assert grammar.has(theta, ["1"]).tolist() == [False, False, True]
    assert grammar.size(theta).tolist() == [4, 4, 2]


def test_what_is_refused(grammar: Expressions) -> None:
    for symbols, words in ((["+", "x"], "too early"), (["x", "x"], "goes on"), (["y"], "no symbol")):
        with pytest.raises(ValueError, match=words):
            grammar.read(symbols)
    with pytest.raises(ValueError, match="takes 1 arguments"):
        grammar.has(torch.zeros(1, grammar.nodes), ["sin", "x", "x"])
    with pytest.raises(ValueError, match="unknown"):
        Expressions(["x"], ["log"])
    with pytest.raises(ValueError, match="list of variables"):
        Expressions("x")
    with pytest.raises(ValueError, match="two arguments"):
        Expressions(["x"], ["sin"])
