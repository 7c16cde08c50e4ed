r"""Symbolic expressions as parameters: a tree of symbols in which each node is a discrete parameter.

    2 sin(x) + x     is     node_1 = +, node_2 = *, node_4 = 2, node_5 = sin, node_10 = x, node_3 = x.

Node i has the children 2 i and 2 i + 1, and a function of one argument has only the child 2 i. A child exists if its
parent is an operator that takes the child (`Only`). So the prior is a grammar: every draw is a valid expression, and
nothing else has a positive probability. Nodes at the last level are variables and numbers only.

    p(expression) = prod over nodes that exist of p(symbol at its level)

Different trees may be the same function (x + 1 and 1 + x; x x and (0 + x) x). Equal functions are recognised by their
values (`same`).

References:
    | Controllable Neural Symbolic Regression (Bendinelli, Biggio & Kamienny, 2023), https://arxiv.org/abs/2304.10336
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.core import Choice, Only, Prior
from sciinf.core.checks import check_whole

BINARY: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"+": torch.add, "-": torch.sub, "*": torch.mul}
UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sin": torch.sin,
    "cos": torch.cos,
    "exp": torch.exp,
    "tanh": torch.tanh,
}
# Functions are equal if their largest values agree to this many digits, and all values agree to this many parts of the
# largest value. The number of parts is not round, so that round values do not lie halfway between two parts.
_DIGITS, _PARTS = 6, 1e6 / 1.0371
_ZERO = 1e-6  # Smaller values may be rounding errors, so values are compared relative to at least this size.


class Expressions:
    """A grammar of symbolic expressions: their prior, values and texts.

    Args:
        variables: Names of the variables of the expressions.
        operators: Names of operators, taken from `BINARY` and `UNARY`.
        numbers: Constants that may occur in expressions.
        depth: Number of levels below the first node.
        operate: Probability of an operator at each level but the last: one number for all levels, or one for each.
            Variables and numbers share the remaining probability. If there are numbers, variables get half of it.

    Raises:
        ValueError: If there are no variables, an operator is unknown, a symbol occurs twice, or a probability is not
            between 0 and 1.

    Examples:
        >>> expressions = Expressions(["x"], ["+", "sin"], [2.0], depth=1)
        >>> expressions.prior.names
        ('node_1', 'node_2', 'node_3')
        >>> theta = expressions.read(["+", "2", "x"])[None]
        >>> expressions.values(theta, torch.tensor([[[0.5]]])).tolist(), expressions.text(theta)
        ([[2.5]], ['2 + x'])
    """

    def __init__(
        self,
        variables: Sequence[str],
        operators: Sequence[str] = ("+", "-", "*", "sin", "cos"),
        numbers: Sequence[float] = (1.0, 2.0),
        *,
        depth: int = 3,
        operate: float | Sequence[float] = 0.7,
    ) -> None:
        check_whole("depth", depth, 1)
        if not variables or isinstance(variables, str):
            raise ValueError(f"give a list of variables, at least one, got {variables!r}")
        if unknown := [name for name in operators if name not in BINARY and name not in UNARY]:
            raise ValueError(f"the operators {unknown} are unknown; there are {', '.join((*BINARY, *UNARY))}")
        self.variables, self.operators, self.depth = tuple(variables), tuple(operators), depth
        self.numbers = {f"{value:g}": float(value) for value in numbers}
        self.symbols = (*self.variables, *self.numbers, *self.operators)
        if len(set(self.symbols)) != len(self.symbols) or len(self.numbers) != len(numbers):
            raise ValueError(f"symbols must differ, got {self.symbols}")
        self.leaves = len(self.variables) + len(self.numbers)
        self.nodes = 2 ** (depth + 1) - 1
        chances = [operate] * depth if isinstance(operate, int | float) else list(operate)
        if len(chances) != depth or not all(0 < p < 1 for p in chances) or not self.operators:
            raise ValueError(
                f"give operators, and the probability of an operator at each of {depth} levels, between 0 and 1, got "
                f"{operate!r}"
            )
        self.prior = self._prior([*chances, 0.0])

    def __repr__(self) -> str:
        return f"expressions of ({', '.join(self.variables)}) in {', '.join(self.symbols)}, {self.depth} levels deep"

    def values(
        self, theta: Float[Tensor, "batch theta"], x: Float[Tensor, "batch point variable"]
    ) -> Float[Tensor, "batch point"]:
        """Values of each row's expression at points, float64. Columns of theta after the nodes are ignored."""
        codes, found = self.codes(theta), dict[int, Tensor]()
        x = x.double().expand(len(theta), -1, -1)
        leaves = [*x.unbind(-1), *(torch.full_like(x[..., 0], value) for value in self.numbers.values())]
        for node in range(self.nodes, 0, -1):
            code = codes[:, node - 1, None]
            value = torch.zeros_like(leaves[0])
            for place, leaf in enumerate(leaves):
                value = torch.where(code == place, leaf, value)
            for place, name in enumerate(self.operators, self.leaves):
                if 2 * node > self.nodes:
                    break
                first = found[2 * node]
                made = UNARY[name](first) if name in UNARY else BINARY[name](first, found[2 * node + 1])
                value = torch.where(code == place, made, value)
            found[node] = value
        return found[1]

    def codes(self, theta: Float[Tensor, "batch theta"]) -> Int[Tensor, "batch node"]:
        """Code of each node's symbol: an index into `symbols`, or -1 if the node does not exist.

        Variables and numbers come first in `symbols`, so that codes at the last level mean the same as elsewhere.
        """
        return theta[:, : self.nodes].nan_to_num(-1.0).long()

    def size(self, theta: Float[Tensor, "batch theta"]) -> Int[Tensor, " batch"]:
        """Number of symbols of each row's expression."""
        return (self.codes(theta) >= 0).sum(1)

    def has(self, theta: Float[Tensor, "batch theta"], part: Sequence[str]) -> Tensor:
        """Whether each row's expression contains a part: a symbol, or an operator with symbols as its arguments.

        Args:
            theta: Expressions, one for each row.
            part: The part in prefix notation, such as ("sin",), ("sin", "x") or ("*", "x", "x"). The arguments of +
                and * match in either order.

        Raises:
            ValueError: If a symbol is unknown, or an operator takes other arguments.
        """
        codes = self.codes(theta)
        head, *arguments = (self._code(symbol) for symbol in part)
        if not arguments:
            return (codes == head).any(1)
        if len(arguments) != self._takes(part[0]):
            raise ValueError(f"{part[0]!r} takes {self._takes(part[0])} arguments, got {part[1:]}")
        above = torch.arange(1, (self.nodes + 1) // 2)
        first, second = codes[:, 2 * above - 1], codes[:, 2 * above]
        fits = first == arguments[0]
        if len(arguments) == 2:
            fits = fits & (second == arguments[1])
            if part[0] in ("+", "*"):
                fits = fits | ((first == arguments[1]) & (second == arguments[0]))
        return ((codes[:, above - 1] == head) & fits).any(1)

    def same(self, theta: Float[Tensor, "batch theta"], x: Float[Tensor, "point variable"]) -> list[int]:
        """Number of the first row that is the same function as each row, by 6 digits of the values at points.

        Args:
            theta: Expressions, one for each row.
            x: Points at which the values are compared.
        """
        values = self.values(theta, x[None])
        size = values.abs().amax(1, keepdim=True).clamp_min(_ZERO)
        first = dict[tuple[Any, ...], int]()
        keys = [
            (f"{s:.{_DIGITS - 1}e}", *row)
            for s, row in zip(size[:, 0].tolist(), (values / size * _PARTS).round().tolist(), strict=True)
        ]
        return [first.setdefault(key, row) for row, key in enumerate(keys)]

    def text(self, theta: Float[Tensor, "batch theta"]) -> list[str]:
        """Text of each row's expression in the usual infix notation, such as "2 + x"."""
        return [self._text(row, 1)[0] for row in self.codes(theta).tolist()]

    def read(self, symbols: Sequence[str]) -> Float[Tensor, " node"]:
        """Parameters theta of an expression in prefix notation; NaN for nodes that do not exist.

        Raises:
            ValueError: If the grammar does not have the expression.
        """
        theta, left = torch.full((self.nodes,), torch.nan), list(symbols)

        def place(node: int) -> None:
            if not left or node > self.nodes:
                raise ValueError(f"{list(symbols)} ends too early, or has more than {self.depth} levels")
            symbol = left.pop(0)
            theta[node - 1] = self._code(symbol)
            for k in range(self._takes(symbol)):
                place(2 * node + k)

        place(1)
        if left:
            raise ValueError(f"{list(symbols)} goes on after its end, by {left}")
        return theta

    def _prior(self, chances: Sequence[float]) -> Prior:
        parameters = dict[str, Any]()
        for node in range(1, self.nodes + 1):
            law = self._law(chances[node.bit_length() - 1])
            if node == 1:
                parameters["node_1"] = law
                continue
            takes = [name for name in self.operators if self._takes(name) > node % 2]
            if takes:
                parameters[f"node_{node}"] = Only(law, **{f"node_{node // 2}": tuple(takes)})
        if len(parameters) < self.nodes:
            raise ValueError("give one operator of two arguments at least, such as +")
        return Prior(**parameters)

    def _law(self, operate: float) -> Choice:
        share = (1 - operate) * (0.5 if self.numbers else 1.0)
        chances = dict.fromkeys(self.variables, share / len(self.variables))
        chances |= dict.fromkeys(self.numbers, share / max(1, len(self.numbers)))
        chances |= dict.fromkeys(self.operators, operate / len(self.operators)) if operate else {}
        return Choice(**chances) if len(chances) > 1 else Choice(*chances)

    def _takes(self, symbol: str) -> int:
        return 2 if symbol in BINARY else int(symbol in UNARY)

    def _code(self, symbol: str) -> int:
        if symbol not in self.symbols:
            raise ValueError(f"{symbol!r} is no symbol of these expressions; there are {', '.join(self.symbols)}")
        return self.symbols.index(symbol)

    def _text(self, row: Sequence[int], node: int) -> tuple[str, int]:
        """Text of the expression below a node, and its precedence: 0 for a symbol or call, 1 a product, 2 a sum."""
        symbol = self.symbols[row[node - 1]]
        if symbol in UNARY:
            return f"{symbol}({self._text(row, 2 * node)[0]})", 0
        if symbol not in BINARY:
            return symbol, 0
        (a, loose_a), (b, loose_b) = (self._text(row, 2 * node + k) for k in (0, 1))
        loose = 1 if symbol == "*" else 2
        a = f"({a})" if loose_a > loose else a
        b = f"({b})" if loose_b > loose or (symbol == "-" and loose_b == 2) else b
        return f"{a} {symbol} {b}", loose
