r"""Systems of equations for several fields in a plane, written as symbols, and families of such systems.

    du1/dt = nu (u1_xx + u1_yy) + b psi_x     is     dt u1 + * nu lap u1 * b dx psi u1

in prefix notation. `dt u1` begins the equation of the first field. `dx` and `dy` are derivatives of the expression
that follows, and `lap` is its Laplacian. `psi` is the field of mean 0 whose Laplacian is minus the expression that
follows (the stream function of a vorticity). Other tokens are numbers: constants, or names of coefficients, which may
have a minus sign. Fields are numbered, so that `u1` is a vorticity in one family and a depth in another. Families may
have different numbers of fields.

As in `equation_terms`, parameters are latent numbers: `family`, whose whole part says which family, and the numbers
`share_1`, `share_2`,
... which say where in its range each coefficient lies. What is left over has no effect.
Shares are left over if the family has fewer coefficients than another family.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch import distributions as td

from sciinf.core import Prior
from sciinf.core.component import Component
from sciinf.simulators.dynamics.grid import BoxGrid

NUMBER = "number"
FIELDS = ("u1", "u2", "u3", "u4")
BINARY, UNARY = ("+", "*"), ("dx", "dy", "lap", "psi")
_NUMBER = re.compile(r"-?\d+\.?\d*(e[-+]?\d+)?")
SYMBOLS = ("", "dt", *BINARY, NUMBER, *FIELDS, *UNARY)  # The empty symbol fills up short sequences.


class Systems(Component):
    """Families of systems of equations with equal prior probabilities.

    Args:
        equations: Name of a family -> its symbols, separated by blanks: one equation after the other, beginning with
            `dt u1`.
        ranges: Name of a family -> name of a coefficient -> its lowest and highest value.

    Raises:
        ValueError: If the two mappings have different names, a range is invalid, or symbols are not valid equations in
            the family's coefficients.
    """

    def __init__(self, equations: Mapping[str, str], ranges: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        self.equations, self.ranges = dict(equations), {name: dict(found) for name, found in ranges.items()}
        if not self.equations or list(self.equations) != list(self.ranges):
            raise ValueError(f"families have equations and ranges, got {list(equations)} and {list(ranges)}")
        for name, coefficient, ends in ((name, *item) for name, found in self.ranges.items() for item in found.items()):
            if len(ends) != 2 or not -math.inf < ends[0] <= ends[1] < math.inf or coefficient in SYMBOLS:
                raise ValueError(f"{coefficient!r} of {name!r} from {ends}: give a name, a low and a high number")
        self.trees = {name: _equations(name, text.split(), self.ranges[name]) for name, text in self.equations.items()}
        self.fields = max(map(len, self.trees.values()))  # Largest number of fields of a family.
        shares = {f"share_{k + 1}": td.Uniform(0.0, 1.0) for k in range(max(map(len, self.ranges.values())))}
        self.prior = Prior(family=td.Uniform(0.0, float(len(self.equations))), **shares)
        self._tables: dict[torch.device, tuple[Tensor, ...]] = {}

    def number(self, theta: Float[Tensor, "batch theta"]) -> Int[Tensor, " batch"]:
        """Number of each row's family, counted from 0."""
        return theta[:, 0].floor().long().clamp(0, len(self.equations) - 1)

    def there(self, theta: Float[Tensor, "batch theta"]) -> Bool[Tensor, "batch field"]:
        """True for the fields that each row's family has."""
        counts = torch.tensor([len(trees) for trees in self.trees.values()], device=theta.device)
        return torch.arange(self.fields, device=theta.device) < counts[self.number(theta)][:, None]

    def coefficients(self, theta: Float[Tensor, "batch theta"]) -> Float[Tensor, "batch coefficient"]:
        """Coefficients of each row's family in their order, then zeros; float64, differentiable in the shares."""
        low, wide = self._on(theta.device)[:2]
        at = self.number(theta)
        return low[at] + wide[at] * theta[:, 1:].double()

    def tokens(self, theta: Float[Tensor, "batch theta"]) -> tuple[Int[Tensor, "batch token"], Tensor]:
        """Index of each row's tokens in `SYMBOLS`, and the value of each number; other tokens have the value 0."""
        _, _, known, constant, place, sign = self._on(theta.device)
        at = self.number(theta)
        return known[at], constant[at] + sign[at] * self.coefficients(theta).gather(1, place[at])

    def _on(self, device: torch.device) -> tuple[Tensor, ...]:
        """Tables on a device: lower ends and widths of the ranges, and four numbers for each token.

        The numbers of a token are its symbol, its constant, its coefficient, and the sign of the coefficient.
        """
        if device not in self._tables:
            texts = [text.split() for text in self.equations.values()]
            low, wide = torch.zeros(2, len(texts), len(self.prior) - 1, dtype=torch.float64)
            constant, sign = torch.zeros(2, len(texts), max(map(len, texts)), dtype=torch.float64)
            known, place = torch.zeros(2, *constant.shape, dtype=torch.long)
            for k, (text, ranges) in enumerate(zip(texts, self.ranges.values(), strict=True)):
                for j, (first, last) in enumerate(ranges.values()):
                    low[k, j], wide[k, j] = first, last - first
                for j, token in enumerate(text):
                    known[k, j] = SYMBOLS.index(token if token in SYMBOLS else NUMBER)
                    if token.removeprefix("-") in ranges:
                        place[k, j] = list(ranges).index(token.removeprefix("-"))
                        sign[k, j] = -1.0 if token[0] == "-" else 1.0
                    elif token not in SYMBOLS:
                        constant[k, j] = float(token)
            self._tables[device] = tuple(part.to(device) for part in (low, wide, known, constant, place, sign))
        return self._tables[device]


def rate(
    systems: Systems, theta: Float[Tensor, "batch theta"], field: Float[Tensor, "batch *more y x"], grid: BoxGrid
) -> Float[Tensor, "batch *more y x"]:
    """Time derivative of the fields according to the symbols. Differentiable.

    The fields are periodic and stand along axis -3. Fields that a family does not have get the derivative 0. Products
    are computed at the grid points, without removing aliases.
    """
    number, found = systems.number(theta), torch.zeros_like(field)
    for k, (name, trees) in enumerate(systems.trees.items()):
        if not len(rows := (number == k).nonzero().flatten()):
            continue
        coefficients, fields = systems.coefficients(theta[rows]).to(field).T, field[rows].unbind(-3)
        at = coefficients.reshape(*coefficients.shape, *[1] * (field.ndim - 2))
        known = {**dict(zip(FIELDS, fields, strict=False)), **dict(zip(systems.ranges[name], at, strict=False))}
        whole = [_value(tree, known, grid).expand(fields[0].shape) for tree in trees]
        whole += [torch.zeros_like(fields[0])] * (len(fields) - len(whole))
        found = found.index_put((rows,), torch.stack(whole, -3))
    return found


def _equations(name: str, text: Sequence[str], ranges: Mapping[str, object]) -> list[list[str]]:
    """Tokens of each equation's right-hand side, after a check."""
    starts = [j for j, token in enumerate(text) if token == "dt"]
    if not starts or starts[0] or [text[j + 1 : j + 2] for j in starts] != [[u] for u in FIELDS[: len(starts)]]:
        raise ValueError(f"{name!r} does not begin with the equations 'dt u1 ...', 'dt u2 ...', in turn: {text}")
    found = [list(text[first + 2 : last]) for first, last in zip(starts, [*starts[1:], len(text)], strict=True)]
    allowed = {*BINARY, *UNARY, *FIELDS[: len(found)], *ranges, *(f"-{coefficient}" for coefficient in ranges)}
    for tree in found:
        if strange := [token for token in tree if token not in allowed and not _NUMBER.fullmatch(token)]:
            raise ValueError(f"{strange} of {name!r} are no numbers, symbols or coefficients: {sorted(allowed)}")
        missing = [1]  # Number of expressions that must still follow, after each token.
        for token in tree:
            missing.append(missing[-1] + (1 if token in BINARY else 0 if token in UNARY else -1))
        if missing[-1] != 0 or 0 in missing[:-1]:
            raise ValueError(f"{' '.join(tree)!r} of {name!r} is not one expression in prefix notation")
    return found


def _value(tree: Sequence[str], known: Mapping[str, Tensor], grid: BoxGrid) -> Tensor:
    """Value of a tree in prefix notation, computed from its last token backwards with a stack."""
    like, stack, squared = known[FIELDS[0]], list[Tensor](), grid.squared
    inverse = torch.where(squared == 0, squared, 1 / squared)
    factors = dict(zip(UNARY, (grid.slope(1), grid.slope(0), -squared, inverse), strict=True))
    for token in reversed(tree):
        if token in BINARY:
            first, second = stack.pop(), stack.pop()
            stack.append(first + second if token == "+" else first * second)
        elif token in UNARY:
            modes = grid.transformed(stack.pop().expand(like.shape))
            stack.append(grid.back(modes * factors[token].to(like.device)).to(like))
        elif token.removeprefix("-") in known:
            stack.append(-known[token[1:]] if token[0] == "-" else known[token])
        else:
            stack.append(torch.as_tensor(float(token)).to(like))
    return stack[0]
