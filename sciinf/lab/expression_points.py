r"""A simulator of noisy points (x, y) of random expressions, with hypotheses about each expression.

    simulator = lab.expressions(Expressions(["x"]), (-2.0, 2.0), noise=LogUniform(0.01, 0.3))

    y_i = f(x_i) + noise e_i,      e_i ~ N(0, 1),      x_i uniform between two bounds, drawn anew each time.

The parameters are the nodes of f (`simulators.dynamics.expressions`) and the noise. The observables are the
points and hypotheses about f, with one number for each statement. `hypotheses` is 1 for a stated statement
that is true of f, and 0 otherwise. `hypotheses_mask` says whether the statement is stated. In a simulation
each statement is stated or hidden at random, so that an estimator can be asked with any of them or none. Half
of the simulations state nothing. Statements follow from f, so that the likelihood is

    p(points, stated statements | f) = p(points | f)   where they are true of f, and 0 elsewhere.

Weights by this likelihood are exact (`build_posterior(fit, simulator)`). The ratio of the evidence with a
statement to the evidence without is

    p(points, statement) / p(points) = p(statement | points),

which is small for a false statement. `lab.hypotheses` computes this probability, so that a false hypothesis
is noticed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.core import Observable, Prior, Simulator, X
from sciinf.core.checks import check_whole
from sciinf.core.laws import never_negative
from sciinf.simulators.dynamics.expressions import Expressions

_GRID = 33  # Number of points at which symmetry is tested. With several variables the points are random.
_CLOSE = 1e-6
SILENT = 0.5  # Share of simulations that state no hypothesis.


def expressions(
    grammar: Expressions,
    bounds: Sequence[float],
    *,
    noise: Any,
    points: int = 50,
    sizes: Sequence[int] = (3, 5),
    parts: Sequence[Sequence[str]] = (),
    name: str = "expressions",
    block: int = 4096,
) -> PointExpressions:
    """A simulator of noisy points of random expressions, with hypotheses about the expressions.

    Args:
        grammar: Grammar of the expressions.
        bounds: Lowest and highest value of every variable.
        noise: Distribution of the sd of the noise of y, without negative values.
        points: Number of points, at least 2.
        sizes: Numbers n, each of which adds a statement "at most n symbols".
        parts: Parts of expressions, as for `Expressions.has`. Each adds a statement that the expression has
            the part. Statements for all numbers of the grammar, and for all its operators but +, - and *, are
            always there.
        name: Name of the simulator.
        block: Rows per block of a store.

    Raises:
        ValueError: If `bounds` is no lowest and highest value, a part is unknown, or the noise may be
            negative.

    Examples:
        >>> from sciinf import LogUniform
        >>> simulator = expressions(Expressions(["x"]), (-2.0, 2.0), noise=LogUniform(0.01, 0.3))
        >>> simulator.statements[:4]
        ('even', 'odd', 'at most 3 symbols', 'at most 5 symbols')
    """
    check_whole("points", points, 2)
    if len(bounds) != 2 or not -math.inf < bounds[0] < bounds[1] < math.inf:
        raise ValueError(f"bounds are a lowest and a highest value, both finite, got {bounds}")
    return PointExpressions(grammar, bounds, noise, points, (tuple(sizes), tuple(map(tuple, parts))), name, block)


@final
class PointExpressions(Simulator):
    """The simulator that `expressions` returns.

    Attributes:
        grammar: Grammar of the expressions.
        statements: Statements that a hypothesis can be about.
    """

    def __init__(
        self,
        grammar: Expressions,
        bounds: Sequence[float],
        noise: Any,
        points: int,
        supposed: tuple[tuple[int, ...], tuple[tuple[str, ...], ...]],
        name: str = "expressions",
        block: int = 4096,
    ) -> None:
        self.grammar, self.bounds, self.points, self.name, self.block = grammar, bounds, points, name, block
        self.prior = grammar.prior + Prior(noise=noise)
        law = list(self.prior.places())[-1][0]
        if not never_negative(law):
            raise ValueError(f"the noise may be negative by its prior {law}: use HalfNormal or LogUniform")
        self.sizes, parts = supposed
        functions = [o for o in grammar.operators if o not in ("+", "-", "*")]
        self.parts = (*((symbol,) for symbol in (*grammar.numbers, *functions)), *parts)
        for part in self.parts:
            grammar.has(torch.zeros(1, grammar.nodes), part)  # This raises an error for an unknown symbol.
        self.statements = (
            "even",
            "odd",
            *(f"at most {size} symbols" for size in self.sizes),
            *(f"has {' '.join(part)}" for part in self.parts),
        )
        count, columns = len(self.statements), [*grammar.variables, "y"]
        self.observables = {
            "points": Observable((points, len(columns)), "", ("item", "column"), coords={"column": columns}),
            "hypotheses": Observable((count,), "", ("statement",), coords={"statement": self.statements}),
            "hypotheses_mask": Observable((count,), "", ("statement",), "bool"),
        }
        self.grid = self._grid()
        self.log_likelihood = self._log_likelihood
        self.settings = self._settings

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        rows, variables = len(theta), len(self.grammar.variables)
        low, high = self.bounds
        x = low + (high - low) * torch.rand(rows, self.points, variables, generator=generator, dtype=torch.float64)
        noise = torch.randn(rows, self.points, generator=generator, dtype=torch.float64)
        y = self.grammar.values(theta, x) + theta[:, -1:].double() * noise
        share = torch.rand(rows, 2, generator=generator)
        silent = share[:, :1] < SILENT
        told = torch.rand(rows, len(self.statements), generator=generator) < share[:, 1:]
        told = told & ~silent
        return {
            "points": torch.cat([x, y[..., None]], -1).float(),
            "hypotheses": torch.where(told, self.true(theta).float(), 0.0),
            "hypotheses_mask": told,
        }

    def record(self, points: Any, hypotheses: Mapping[str, bool] | None = None) -> dict[str, Tensor]:
        """An observation with the values of this simulator's observables.

        Args:
            points: Measured points, (points, variables + 1), with y as the last column.
            hypotheses: Mapping from a statement to whether it is supposed to be true. Other statements are
                not stated.

        Raises:
            ValueError: If a statement is unknown, or points have other columns or are not finite.
        """
        told, data = dict(hypotheses or {}), torch.as_tensor(points, dtype=torch.float32)
        columns = [*self.grammar.variables, "y"]
        if data.ndim != 2 or data.shape[1] != len(columns):
            raise ValueError(f"points are (points, {len(columns)}), of {columns}, got shape {tuple(data.shape)}")
        if not bool(data.isfinite().all()):
            raise ValueError("points are finite, got some that are not; leave these out")
        if unknown := sorted(set(told) - set(self.statements)):
            raise ValueError(f"there is no statement {unknown[0]!r}; use one of {', '.join(self.statements)}")
        return {
            "points": data,
            "hypotheses": torch.tensor([float(told.get(name, False)) for name in self.statements]),
            "hypotheses_mask": torch.tensor([name in told for name in self.statements]),
        }

    def true(self, theta: Float[Tensor, "batch theta"]) -> Bool[Tensor, "batch statement"]:
        """Whether each statement is true of each expression."""
        there, mirrored = self.grammar.values(theta, self.grid), self.grammar.values(theta, -self.grid)
        close = _CLOSE * there.abs().amax(1).clamp_min(1.0)
        even, odd = (((there - sign * mirrored).abs().amax(1) <= close) for sign in (1.0, -1.0))
        size = self.grammar.size(theta)
        sizes = [size <= most for most in self.sizes]
        return torch.stack([even, odd, *sizes, *(self.grammar.has(theta, part) for part in self.parts)], 1)

    def _log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        points = x["points"].double()
        z = (points[..., -1] - self.grammar.values(theta, points[..., :-1])) / theta[:, -1:].double()
        log_p = (-0.5 * z.square() - theta[:, -1:].double().log() - 0.5 * math.log(2 * math.pi)).sum(1)
        told, true = x["hypotheses_mask"], self.true(theta)
        agrees = (~told | ((x["hypotheses"] > 0.5) == true)).all(1)
        return torch.where(agrees, log_p, -math.inf)

    def _grid(self) -> Float[Tensor, "1 point variable"]:
        """The points at which f(x) and f(-x) are compared, all variables reversed at once."""
        variables, reach = len(self.grammar.variables), max(map(abs, self.bounds))
        if variables == 1:
            return torch.linspace(0.0, reach, _GRID, dtype=torch.float64)[None, :, None]
        source = torch.Generator().manual_seed(0)
        return reach * (2 * torch.rand(1, _GRID, variables, generator=source, dtype=torch.float64) - 1)

    def _settings(self) -> dict[str, str]:
        return {
            "grammar": repr(self.grammar),
            "bounds": str(tuple(self.bounds)),
            "statements": ", ".join(self.statements),
        }
